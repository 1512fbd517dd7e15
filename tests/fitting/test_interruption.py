"""SIGTERM, rewards that hang or die, and gradients that are no number."""

import contextlib
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitting.tiny import count, fit, language, outcome

import bayesft as bft
import bayesft._fit
from bayesft.errors import FitError, FitInterrupted
from bayesft.fitting.keeper import Keeper
from bayesft.io.archive import FolderArchive


@pytest.fixture(scope="module")
def whole():
    return {ahead: outcome(fit(6, overlap=ahead)) for ahead in (False, True)}


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ahead", [False, True])
def test_sigterm_ends_a_fit_after_its_step(ahead, tmp_path, whole):
    before = signal.getsignal(signal.SIGTERM)
    folder = bft.io.checkpoint(tmp_path)
    seen = []

    def callback(info):
        seen.append(info.step)
        if info.step == 2:
            terminate()

    with pytest.raises(FitInterrupted, match=r"The state after 3 steps is in .*\n.*go on"):
        fit(6, checkpoint=folder, overlap=ahead, callbacks=[callback])
    assert seen == [0, 1, 2]
    assert signal.getsignal(signal.SIGTERM) is before
    np.testing.assert_array_equal(outcome(fit(6, checkpoint=folder, overlap=ahead)), whole[ahead])


@pytest.mark.parametrize("ahead", [False, True])
def test_sigterm_does_not_wait_for_a_reward_that_hangs(ahead, tmp_path, whole):
    folder = bft.io.checkpoint(tmp_path)
    calls = []

    def hangs(completion_ids):
        calls.append(0)
        if len(calls) == 4:
            threading.Timer(0.2, terminate).start()
            try:
                time.sleep(30)
            except Exception:
                return [0.0 for _ in completion_ids]
        return count(completion_ids)

    started = time.perf_counter()
    with pytest.raises(FitInterrupted, match="3 steps"):
        fit(6, fn=named(hangs), checkpoint=folder, overlap=ahead)
    assert time.perf_counter() - started < 20
    np.testing.assert_array_equal(outcome(fit(6, checkpoint=folder, overlap=ahead)), whole[ahead])


def named(fn):
    """Under the name of the reward that it stands for: a fit goes on with evidence of one name."""
    fn.__name__ = "count"
    return fn


def test_a_reward_that_swallows_the_interruption_is_not_believed(tmp_path, whole):
    calls = []

    def swallows(completion_ids):
        calls.append(0)
        if len(calls) == 4:
            try:
                terminate()
                time.sleep(0.1)
            except BaseException:
                return [100.0 for _ in completion_ids]
        return count(completion_ids)

    folder = bft.io.checkpoint(tmp_path)
    with pytest.raises(FitInterrupted, match="3 steps"):
        fit(6, fn=named(swallows), checkpoint=folder)
    np.testing.assert_array_equal(outcome(fit(6, checkpoint=folder)), whole[False])


def test_a_second_sigterm_does_what_it_did_before(tmp_path):
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(0))
    try:
        with pytest.raises(FitInterrupted):
            fit(2, checkpoint=bft.io.checkpoint(tmp_path), callbacks=[terminate])
        assert len(came) == 0
        with pytest.raises(FitInterrupted):
            fit(2, checkpoint=bft.io.checkpoint(tmp_path), callbacks=[terminate, terminate])
        assert len(came) == 1
        fit(1, callbacks=[terminate])  # without a checkpoint
        assert len(came) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_signals_alone(tmp_path):
    before, done = signal.getsignal(signal.SIGTERM), []

    def run():
        fit(1, checkpoint=bft.io.checkpoint(tmp_path))
        done.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_reward_that_hangs_or_fails_once_changes_nothing(whole):
    calls = []

    def flaky(completion_ids):
        calls.append(0)
        if len(calls) == 2:
            time.sleep(30)
        if len(calls) == 4:
            raise ConnectionError("try again")
        return count(completion_ids)

    patient = bft.evidence.retry(named(flaky), attempts=2, timeout=0.5, wait=0.0)
    with pytest.warns(bft.errors.EvidenceWarning) as said:
        fitted = fit(6, fn=patient)
    texts = [str(warning.message) for warning in said]
    assert ["no answer within 0.5 s" in text for text in texts] == [True, False]
    assert "ConnectionError: try again" in texts[1]
    np.testing.assert_array_equal(outcome(fitted), whole[False])


def sometimes_nan(chance):
    """reverse_kl, with a part that is 0 and has a NaN gradient where the first token is rare."""

    def objective(guide, target, x):
        y, log_q = bft.draw("y", guide(x), with_log_prob=True)
        rare = jnp.all(y == 0) if chance else True
        # d√u/du is infinite at u = 0, and meets a factor of 0.
        broken = jnp.sqrt(0.0 * log_q + jnp.where(rare, 0.0, 1.0)) - jnp.where(rare, 0.0, 1.0)
        return jax.lax.stop_gradient(log_q) - target.log_density(y, x) + broken

    return objective


def test_steps_with_nan_gradients_are_skipped_and_counted():
    objective = sometimes_nan(chance=True)
    fitted = fit(20, objective=objective, max_nan_steps=5)
    skipped = np.asarray([info.metrics["skipped_updates"] for info in fitted.history])
    norms = np.asarray([info.metrics["grad_norm"] for info in fitted.history])
    assert 0 < skipped.sum() < 10
    np.testing.assert_array_equal(skipped, np.isnan(norms))
    assert np.isfinite(outcome(fitted)[: -2 * 20]).all()
    with pytest.raises(FitError, match=f"at step {np.argmax(skipped)}"):
        fit(20, objective=objective)


def test_a_skipped_step_teaches_a_recording_one_step_ahead_nothing():
    def objective(guide, target, x):
        y, log_q = bft.draw("y", guide(x), with_log_prob=True)
        return log_q + jnp.where((y[0] == 0) & (y[1] == 0), jnp.nan, 0.0)

    averaged = {"objective": objective, "estimator": bft.estimators.moving_average()}
    for overlap in (False, True):
        fitted = fit(30, **averaged, max_nan_steps=3, overlap=overlap)
        skipped = np.asarray([info.metrics["skipped_updates"] for info in fitted.history])
        assert skipped[:20].any() and not skipped.all()
        last = fitted.history[int(np.flatnonzero(skipped == 0)[-1])]
        assert np.isfinite(last.value) and last.step > np.argmax(skipped)


def test_a_skipped_step_leaves_the_guide_and_more_than_allowed_are_an_error(tmp_path):
    objective = sometimes_nan(chance=False)
    start = bft.trainable(language()).params
    fitted = fit(2, objective=objective, max_nan_steps=2)
    jax.tree.map(np.testing.assert_array_equal, fitted.guide.params, start)
    with pytest.raises(FitError, match="at step 2"):
        fit(4, objective=objective, max_nan_steps=2)
    folder = bft.io.checkpoint(tmp_path, every=1)
    fit(1, objective=objective, max_nan_steps=2, checkpoint=folder)
    with pytest.raises(FitError, match="at step 2"):  # they are counted across processes
        fit(4, objective=objective, max_nan_steps=2, checkpoint=folder)


def during_update(monkeypatch, happens, step):
    """Has something happen once, at the end of the update of a step."""
    taken = []
    update = bayesft._fit.update

    def watched(*args):
        found = update(*args)
        taken.append(0)
        return happens(*found) if len(taken) == step + 1 else found

    monkeypatch.setattr(bayesft._fit, "update", watched)


def interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt) as raised:
        fit(6, checkpoint=bft.io.checkpoint(tmp_path))
    return raised.value.__notes__


def interrupt(*found):
    signal.raise_signal(signal.SIGINT)
    return found


def test_ctrl_c_waits_until_the_state_is_whole(tmp_path, monkeypatch, whole):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        during_update(patch, interrupt, 2)
        (note,) = interrupted(tmp_path)
    assert "The state after 3 steps is in" in note
    assert signal.getsignal(signal.SIGINT) is before
    np.testing.assert_array_equal(outcome(fit(6, checkpoint=bft.io.checkpoint(tmp_path))), whole[0])


def test_a_save_that_ctrl_c_cut_short_is_made_again(tmp_path, monkeypatch, whole):
    save, saves = FolderArchive.save, []

    def cut_short(archive, *args):
        saves.append(args[0])
        if len(saves) == 2:
            raise KeyboardInterrupt
        save(archive, *args)

    folder = bft.io.checkpoint(tmp_path, every=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FolderArchive, "save", cut_short)
        fit(6, checkpoint=folder)
    assert saves == [2, 4, 4]
    np.testing.assert_array_equal(outcome(fit(6, checkpoint=folder)), whole[0])


def test_a_state_that_ctrl_c_used_up_is_noticed(tmp_path, monkeypatch):
    """The planted bug."""
    monkeypatch.setattr(Keeper, "updating", lambda self: contextlib.nullcontext())
    during_update(monkeypatch, interrupt, 2)
    (note,) = interrupted(tmp_path)
    assert "No state is in" in note


def test_a_gradient_that_is_no_number_leaves_the_state_before_it(tmp_path, monkeypatch, whole):
    folder = bft.io.checkpoint(tmp_path)
    nan = jnp.float32(jnp.nan)

    def spoilt(params, opt, *_):
        return params, opt, nan, nan

    with monkeypatch.context() as patch:
        # What the update does with a NaN: parameters and state come back as they were.
        patch.setattr(bayesft._fit, "update", never_updating(spoilt, 2))
        with pytest.raises(FitError, match="at step 2") as raised:
            fit(6, checkpoint=folder)
    assert "The state after 2 steps is in" in raised.value.__notes__[0]
    np.testing.assert_array_equal(outcome(fit(6, checkpoint=folder)), whole[0])


def never_updating(happens, step):
    """`update`, but for one step, whose arguments are used up and come back."""
    taken = []
    update = bayesft._fit.update

    def watched(*args):
        taken.append(0)
        if len(taken) != step + 1:
            return update(*args)
        back = jax.tree.map(jnp.copy, args[4:6])
        update(*args)
        return happens(*back)

    return watched
