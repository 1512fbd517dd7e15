"""What trackers write, send and show is what the steps of a fit report."""

import io
import json
import os
import struct
import sys
import time
import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from rich.console import Console
from track.watched import LANGUAGE, NUM_STEPS, TARGET, watched

import bayesft as bft
from bayesft import track
from bayesft.errors import MeshError, RunError
from bayesft.fitting.info import Moment, StepInfo
from bayesft.testing import enumerate_target
from bayesft.track.completions import completions_table, headline
from bayesft.track.lines import Lines, read_lines
from bayesft.track.run import described

CONFIG = {"objective": bft.objectives.reverse_kl, "steps": NUM_STEPS, "beta": np.float32(2)}


class FakeRun:
    """A run of Weights & Biases or trackio: `log` and `finish` as theirs are called."""

    def __init__(self, **given):
        self.given, self.logged, self.finished = given, [], 0

    def log(self, data, step=None):
        assert not self.finished
        self.logged.append((step, dict(data)))

    def finish(self):
        self.finished += 1


def fake_service(name):
    """A module with the parameters of `wandb.init` and `trackio.init` that they share."""
    module = types.ModuleType(name)

    def init(project, name=None, config=None, resume=None, mode=None):
        return FakeRun(project=project, name=name, config=config, resume=resume, mode=mode)

    module.init = init
    return module


class Noting:
    """A callback that notes when it is called."""

    def __init__(self):
        self.calls: list[object] = []

    def before_fit(self):
        self.calls.append("before")

    def __call__(self, info):
        self.calls.append(info.step)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A fit under all trackers at once."""
    pytest.importorskip("tensorboardX")
    folder = tmp_path_factory.mktemp("runs") / "new" / "run"
    screen = Console(file=io.StringIO(), width=90, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("wandb", "trackio"):
            patch.setitem(sys.modules, name, fake_service(name))
        services = [
            track.weights_and_biases("p", "n", CONFIG, mode="offline"),
            track.trackio("p", config=CONFIG),
        ]
    certificates = track.certificates(
        TARGET, 2, jax.random.key(1), level=0.8, num_particles=16, num_repeats=16
    )
    run = track.run(folder, CONFIG, completions_every=3, num_completions=3)
    table = track.completions(every=2, num=2, console=screen)
    board = track.tensorboard(folder / "board", CONFIG)
    noting = Noting()
    fitted = watched(certificates, run, *services, table, board, noting)
    return types.SimpleNamespace(
        fitted=fitted,
        folder=folder,
        services=services,
        certificates=certificates,
        noting=noting,
        screen=screen.file.getvalue(),
    )


def test_the_folder_has_every_step(everything):
    run = track.read_run(everything.folder)
    assert [record["step"] for record in run.metrics] == [*range(NUM_STEPS)]
    assert abs(run.metrics[-1]["time"] - time.time()) < 3600
    assert run.names[0] == "objective" and {"reward", "kl", "ess_share"} <= set(run.names)
    for record, info in zip(run.metrics, everything.fitted.history, strict=True):
        assert set(record) == {"step", "time", *info.scalars}
        for name, value in info.scalars.items():
            np.testing.assert_allclose(record[name], value, rtol=1e-7)
    steps, values = run.curve("certificate/log_z/lower")
    assert steps.tolist() == [0, 2, 4] and np.isfinite(values).all()
    assert run.config == {"objective": "reverse_kl", "steps": NUM_STEPS, "beta": 2.0}
    assert run.environment["jax"] == jax.__version__
    shown = {record["step"]: record["completions"] for record in run.completions}
    assert [*shown] == [0, 3, 4] and all(len(rows) == 3 for rows in shown.values())
    row = shown[0][0]
    assert set(row) == {"prompt", "text", "rewards", "log_evidence", "log_ratio"}
    assert row["rewards"]["letters_a"] == row["log_evidence"] * 2


def test_a_run_that_goes_on_keeps_the_time_it_started(tmp_path, monkeypatch):
    def written(step: int, now: str) -> dict[str, str | None]:
        monkeypatch.setattr(time, "strftime", lambda _: now)
        info = types.SimpleNamespace(step=step, due=lambda _: False, scalars={"objective": 0.0})
        track.run(tmp_path)(info)
        environment = json.loads((tmp_path / "config.json").read_text())["environment"]
        return {name: environment.get(name) for name in ("started", "resumed")}

    assert written(0, "noon") == {"started": "noon", "resumed": None}
    assert written(1, "one") == {"started": "noon", "resumed": "one"}
    assert written(2, "two") == {"started": "noon", "resumed": "two"}
    assert written(0, "ten") == {"started": "ten", "resumed": None}  # another fit in its place
    (tmp_path / "config.json").write_text("{")
    assert written(1, "eve") == {"started": None, "resumed": "eve"}


def test_services_get_every_step_and_the_end(everything):
    for service in everything.services:
        assert [step for step, _ in service.run.logged] == [*range(NUM_STEPS)]
        assert service.run.logged[-1][1] == everything.fitted.history[-1].scalars
        assert service.run.finished == 1
        assert service.run.given["config"]["objective"] == "reverse_kl"
    assert everything.services[0].run.given["mode"] == "offline"


def events(folder):
    """What event files hold, by tag: TFRecords of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            at += length + 16
    return found


def test_event_files_hold_every_scalar(everything):
    found = events(everything.folder / "board")
    for name in ("objective", "reward", "completions/mean_length", "certificate/log_z/upper"):
        expected = {
            info.step: info.scalars[name]
            for info in everything.fitted.history
            if name in info.scalars
        }
        assert found[name] == pytest.approx(expected)
    assert any(tag.startswith("config") for tag in found)


def test_certificates_hold_and_their_means_are_logged(everything):
    found = everything.certificates.found
    assert [*found] == [0, 2, 4]
    exact = [enumerate_target(TARGET, p) for p in (0, 1)]
    for step, certificate in found.items():
        assert certificate.level == pytest.approx(0.9)  # of each of two prompts, 0.8 together
        assert certificate.certified.all()
        metrics = everything.fitted.history[step].metrics
        log_z = np.mean([each.log_z for each in exact])
        assert metrics["certificate/log_z/lower"] <= log_z <= metrics["certificate/log_z/upper"]
        assert metrics["certificate/reverse_kl/upper"] == np.mean(certificate.reverse_kl.upper)
        assert metrics["certificate/certified"] == 1 and metrics["certificate/level"] == 0.8
    last = np.mean([each.reverse_kl(everything.fitted.guide) for each in exact])
    metrics = everything.fitted.history[-1].metrics
    lower, upper = (metrics[f"certificate/reverse_kl/{side}"] for side in ("lower", "upper"))
    assert lower <= last <= upper
    # The guide that is certified is the one after the step, and not, say, the one before the fit.
    settings = dict(level=found[4].level, num_particles=16, num_repeats=16)
    settings["posterior_draws"] = found[0].posterior_draws
    step_key = jax.random.split(jax.random.key(1))[1]
    again, other = (
        bft.certify(TARGET, guide, jax.random.fold_in(step_key, 4), **settings)
        for guide in (everything.fitted.guide, bft.trainable(LANGUAGE))
    )
    np.testing.assert_array_equal(again.reverse_kl.upper, found[4].reverse_kl.upper)
    assert not np.allclose(other.reverse_kl.upper, found[4].reverse_kl.upper)


def test_certificates_are_the_same_where_a_fit_is_gone_on_with(everything):
    """Another process, which is called for the last step alone."""
    resumed = track.certificates(
        TARGET, 2, jax.random.key(1), level=0.8, num_particles=16, num_repeats=16
    )
    guide = everything.fitted.guide
    info = StepInfo(NUM_STEPS - 1, NUM_STEPS, 0.0, {}, 1.0)
    resumed(info.during(Moment(guide, guide.params, None, TARGET)))
    found, expected = resumed.found[NUM_STEPS - 1], everything.certificates.found[NUM_STEPS - 1]
    for name in ("log_z", "reverse_kl", "forward_kl"):
        for limit in ("lower", "upper"):
            np.testing.assert_array_equal(
                *(getattr(getattr(each, name), limit) for each in (found, expected))
            )


def test_prompts_that_the_mesh_cannot_split_are_refused_before_the_first_step(
    everything, monkeypatch
):
    assert everything.noting.calls == ["before", *range(NUM_STEPS)]
    monkeypatch.setattr("bayesft.diagnostics.posterior.MAX_LISTED", 0)
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(MeshError, match="2 prompts"):
        track.certificates(TARGET, 2, jax.random.key(1)).before_fit()


def test_the_table_shows_completions_every_few_steps(everything):
    assert everything.screen.count("completion ") == 3
    for step in (1, 3, 5):
        assert f"step {step}/{NUM_STEPS}  objective" in everything.screen
    assert "letters_a" in everything.screen and "log q/π₀" in everything.screen
    assert "KL +" in everything.screen and "ESS" in everything.screen and "%" in everything.screen


# ---- JSON lines ----------------------------------------------------------------------------------


def test_lines_are_there_at_once_and_a_torn_one_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    for step in range(3):
        lines.append(
            {
                "step": step,
                "kl": float("inf") if step else 0.1 + 0.2,
                "name": "π",
                "count": 1234567890.0,
            }
        )
    # Nothing is closed: this is what another process sees, and what a kill leaves.
    assert [record["kl"] for record in read_lines(path)] == [0.3, None, None]
    assert [record["count"] for record in read_lines(path)] == [1_234_567_890.0] * 3
    with path.open("ab") as file:
        file.write(b'{"step": 3, "kl"')
    assert [record["step"] for record in read_lines(path)] == [0, 1, 2]
    Lines(path).append({"step": 3, "kl": 1.0})
    assert [record["step"] for record in read_lines(path)] == [0, 1, 2, 3]
    assert path.read_bytes().endswith(b"\n")


def test_a_first_line_that_is_torn_leaves_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0, "text": "' + b"x" * 200_000)
    assert read_lines(path) == []
    Lines(path).append({"step": 0})
    assert path.read_bytes() == b'{"step": 0}\n'


def test_a_run_that_goes_on_from_a_checkpoint_replaces_what_came_after_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    for process, steps in (("first", range(6)), ("second", range(2, 5)), ("third", range(4, 7))):
        for step in steps:
            lines.append({"step": step, "process": process})
    found = {record["step"]: record["process"] for record in read_lines(path)}
    assert found == dict(zip(range(7), ["first"] * 2 + ["second"] * 2 + ["third"] * 3, strict=True))
    # A killed run that has not caught up yet does not show the future of its forerunner.
    lines.append({"step": 3, "process": "fourth"})
    assert [record["step"] for record in read_lines(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"kl": 1}', '{"step": "a"}', ""])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"Line 2 of .*metrics\.jsonl"):
        read_lines(path)


# ---- bad input -----------------------------------------------------------------------------------


def test_a_folder_without_a_run_says_so(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(RunError, match="no run at"):
            track.read_run(folder)
    track.run(tmp_path / "empty")
    with pytest.raises(RunError, match="before its first step"):
        track.read_run(tmp_path / "empty")
    (tmp_path / "empty" / "metrics.jsonl").touch()
    with pytest.raises(RunError, match="no step yet"):
        track.read_run(tmp_path / "empty")
    (tmp_path / "empty" / "metrics.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    (tmp_path / "empty" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        track.read_run(tmp_path / "empty")


@pytest.mark.parametrize("make", [track.run, track.tensorboard])
def test_a_place_that_cannot_be_written_is_refused_before_the_fit(tmp_path, make):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"):
        make(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written"):
        make(tmp_path / "file" / "below")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(RunError, match="cannot be written"):
            make(tmp_path / "locked" / "run")


def test_a_library_that_is_missing_says_what_to_install(monkeypatch, tmp_path):
    for name in ("wandb", "trackio", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    for make, says in (
        (lambda: track.weights_and_biases("p"), "pip install wandb"),
        (lambda: track.trackio("p"), "pip install trackio"),
        (lambda: track.tensorboard(tmp_path), r"pip install 'bayesft\[track\]'"),
    ):
        with pytest.raises(RunError, match=says):
            make()


def test_never_is_refused(tmp_path):
    for make in (
        lambda: track.run(tmp_path, completions_every=0),
        lambda: track.completions(every=0),
        lambda: track.certificates(TARGET, 0, jax.random.key(0)),
    ):
        with pytest.raises(RunError, match="at least 1"):
            make()


def test_whatever_a_config_holds_becomes_json(tmp_path):
    config = {
        "estimator": bft.estimators.leave_one_out(8),
        "nested": [1, (2.5, None), {"path": tmp_path, 3: True}],
        "infinite": float("-inf"),
        "array": np.float32(0.5),
    }
    found = json.loads(json.dumps(described(config), allow_nan=False))
    assert "LeaveOneOut" in found["estimator"] and "8" in found["estimator"]
    assert found["nested"] == [1, [2.5, None], {"path": str(tmp_path), "3": True}]
    assert found["infinite"] == "-inf" and found["array"] == 0.5


def test_a_table_without_scores_or_prompts_has_no_columns_for_them():
    from bayesft.fitting.completions import Completion
    from bayesft.fitting.info import StepInfo

    screen = Console(file=io.StringIO(), width=60, color_system=None)
    screen.print(completions_table([Completion("", "a [b]\nc" + "x" * 500, {}, None, None)]))
    odd = {"r[/b]": float("nan"), "s": float("-inf")}
    screen.print(completions_table([Completion("", "\x1b[31mred", odd, 0.0, 0.0)]))
    text = screen.file.getvalue()
    assert "r[/b]" in text and "·[31mred" in text and "–" in text and "-inf" in text
    text = text[: text.index("r[/b]")]
    assert "a [b]" in text and "prompt" not in text and "log" not in text and "…" in text
    assert headline(StepInfo(0, 2, 1.5, {}, 0.1)) == "step 1/2  objective +1.500"
