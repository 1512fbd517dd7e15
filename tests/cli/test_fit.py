"""`bayesft fit`, then what its guide is good for: `sample --proposal` and `certify`."""

import json

import jax
import numpy as np
import optax
import pytest
from samplers.language import IN_PYTHON, LANGUAGE

import bayesft as bft
from bayesft.cli.fit import _trackers
from bayesft.cli.objectives import OBJECTIVES, estimator_of, objective_of, require_consistent
from bayesft.cli.options import FitOptions, WatchOptions
from bayesft.track.certificates import Certificates
from bayesft.track.completions import CompletionsTable
from bayesft.track.run import RunFolder

TINY = ("--max-new-tokens", 4, "--prompt", "One day")
QUICK = ("--steps", 2, "--num-samples", 2)


@pytest.fixture
def target(model, rewards):
    reward = ("--reward", f"{rewards}:brevity", "--bounds", "0,1")
    return ("--model", model, *reward, *TINY)


def test_a_fitted_guide_proposes_and_is_certified(invoke, target, tmp_path):
    out, run = tmp_path / "guide", tmp_path / "run"
    watched = ("--run", run, "--show-every", 2)
    fitted = invoke("fit", *target, *QUICK, "--lora-rank", 2, "--out", out, *watched)
    assert fitted.exit_code == 0, fitted.stderr
    assert fitted.stdout.strip() == str(out)
    assert "step 1/2  objective" in fitted.stderr and "brevity" in fitted.stderr
    assert "reverse-kl:" in fitted.stderr and "nats" in fitted.stderr
    assert (out / "adapter_config.json").exists()

    page = invoke("report", run)
    assert page.exit_code == 0, page.stderr
    assert page.stdout.strip() == str(run / "report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "rewards/brevity/mean" in text and "fit.num_samples" in text and "One day" in text

    # The same command goes on, here to one step more; another seed would be another fit.
    options = (*target, *QUICK, "--steps", 3, "--lora-rank", 2, "--run", run, "--resume")
    longer = invoke("fit", *options, "--out", tmp_path / "longer")
    assert longer.exit_code == 0, longer.stderr
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]
    other = invoke("fit", *options, "--seed", 1, "--out", tmp_path / "other")
    assert other.exit_code == 1 and "key" in other.stderr

    few = ("--particles", 4)
    sampled = invoke("sample", *target, *few, "--sampler", "importance", "--proposal", out)
    assert sampled.exit_code == 0, sampled.stderr
    assert len(sampled.stdout.splitlines()) == 4

    certified = invoke("certify", *target, *few, "--repeats", 4, "--guide", out, "--level", 0.8)
    assert certified.exit_code == 0, certified.stderr
    assert "level 0.8" in certified.stdout and "KL(q‖p*)" in certified.stdout
    assert "\x1b" not in certified.stdout


def test_all_parameters_make_a_model_folder(invoke, target, tmp_path):
    out = tmp_path / "guide"
    fitted = invoke(
        "fit", *target, "--objective", "forward-kl", "--particles", 4, "--steps", 1,
        "--lora-rank", 0, "--out", out,
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.stderr
    assert (out / "config.json").exists()


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "mle"])
def test_every_objective_of_a_target_is_made_and_runs(objective):
    """On a prior of three tokens, with every estimator that goes with it."""
    target = bft.Target(LANGUAGE, IN_PYTHON, max_new_tokens=2)
    for estimator in OBJECTIVES[objective].estimators or (None,):
        fit = FitOptions(objective=objective, estimator=estimator)
        require_consistent(fit)
        args = {"key": jax.random.key(0), "optimizer": optax.sgd(0.1), "num_steps": 1}
        made = {"objective": objective_of(fit), "estimator": estimator_of(fit)}
        fitted = bft.fit(target, bft.trainable(LANGUAGE), **made, **args)
        assert np.isfinite(fitted.values).all()


def test_options_reach_the_objective():
    made = lambda **given: objective_of(FitOptions(**given))
    objectives = bft.objectives
    assert made(objective="renyi", alpha=2.0, num_samples=4) == objectives.renyi(2.0, 4)
    assert made(objective="chi-upper-bound", order=3.0) == objectives.chi_upper_bound(3.0)
    pearson = objectives.f_divergence(objectives.generators.pearson)
    assert made(objective="f-divergence", generator="pearson") == pearson
    forward = made(objective="forward-kl", particles=3).sampler(None)
    assert forward == bft.samplers.importance(3)
    average = estimator_of(FitOptions(estimator="moving-average", decay=0.5))
    assert average == bft.estimators.moving_average(0.5)


def test_demonstrations_are_fitted_by_mle(invoke, model, tmp_path):
    data, out = tmp_path / "data.jsonl", tmp_path / "guide"
    rows = [{"prompt": "One day", "completion": " it rained."}] * 2
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    fitted = invoke(
        "fit", "--model", model, "--objective", "mle", "--data", data, "--steps", 2,
        "--max-new-tokens", 6, "--out", out,
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.stderr
    assert "mle:" in fitted.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--objective", "elbo"), "not one of reverse-kl"),
        (("--estimator", "guess"), "not one of leave-one-out"),
        (("--particles", 4), "--particles does not go with --objective reverse-kl"),
        (("--estimator", "score-function", "--num-samples", 4), "--num-samples does not go with"),
        (("--objective", "forward-kl", "--num-samples", 4), "does not go with"),
        (("--objective", "f-divergence", "--generator", "g"), "not one of jensen-shannon"),
        (("--estimator", "vimco"), "which takes leave-one-out, moving-average, score-function"),
        (("--objective", "log-variance", "--estimator", "vimco"), "which takes none"),
        (("--objective", "mle"), "needs completions"),
        (("--objective", "mle", "--data", __file__, "--reward", "math:sqrt"), "no evidence"),
        (("--num-samples", 1), "--num-samples"),
        (("--run", "/dev/null"), "is a file"),
        (("--show-every", 0), "--show-every"),
        (("--resume",), "needs the folder"),
        (("--resume", "--run", "/no/such/run"), "no states to go on from"),
        (("--objective", "mle", "--data", __file__, "--certify-every", 2), "needs a target"),
    ],
)
def test_usage_errors_exit_with_2(invoke, tmp_path, arguments, says):
    result = invoke("fit", "--model", "/no/such/model", "--out", tmp_path / "guide", *arguments)
    assert result.exit_code == 2, result.stderr
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_a_folder_that_holds_something_else_is_refused_at_once(invoke, tmp_path):
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    result = invoke("fit", "--model", "/no/such/model", "--out", tmp_path)
    assert result.exit_code == 2
    assert "new or empty" in " ".join(result.stderr.replace("│", " ").split())


def test_a_hard_constraint_under_reverse_kl_names_the_remedies(invoke, model, rewards, tmp_path):
    result = invoke(
        "fit", "--model", model, "--constraint", f"{rewards}:always", *TINY, *QUICK,
        "--out", tmp_path / "guide",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "log_penalty" in result.stderr and "forward_kl" in result.stderr
    assert not (tmp_path / "guide").exists()


@pytest.mark.parametrize("level", [0, 1, 90])
def test_a_level_is_a_probability(invoke, tmp_path, level):
    result = invoke("certify", "--model", "/no", "--guide", tmp_path, "--level", level)
    assert result.exit_code == 2


def test_certificates_stand_before_the_trackers_that_log_them(tmp_path):
    from bayesft.report.progress import Reporter

    target = bft.Target(LANGUAGE, prompts=[[]] * 9, max_new_tokens=1)
    watch = WatchOptions(run=tmp_path / "run", show_every=2, certify_every=3)
    made = _trackers(target, {"seed": 0}, watch, Reporter())
    assert [type(each) for each in made] == [Certificates, RunFolder, CompletionsTable]
    assert len(made[0].target.prompts) == 4 and made[0].every == 3
    assert _trackers(target, {"seed": 0}, WatchOptions(), Reporter()) == []


def test_a_run_does_not_lie_in_the_folder_of_the_guide(invoke, tmp_path):
    out = tmp_path / "guide"
    for run in (out, out / "run"):
        result = invoke("fit", "--model", "/no/such/model", "--out", out, "--run", run)
        assert result.exit_code == 2
        assert "lies in the folder of the guide" in " ".join(
            result.stderr.replace("│", " ").split()
        )


def test_a_report_says_what_is_missing_and_goes_where_it_is_sent(invoke, tmp_path):
    nothing = invoke("report", tmp_path)
    assert nothing.exit_code == 1 and "no run at" in nothing.stderr
    assert invoke("report").exit_code == 2
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "objective": 1.5}\n', encoding="utf-8")
    page = tmp_path / "page.html"
    assert invoke("report", tmp_path, "-o", page).exit_code == 0
    assert "objective" in page.read_text(encoding="utf-8")
    assert not (tmp_path / "report.html").exists()
    unwritable = invoke("report", tmp_path, "-o", "/no/such/folder/page.html")
    assert unwritable.exit_code == 2 and "no folder" in unwritable.stderr
    (tmp_path / "metrics.jsonl").write_text("half\n", encoding="utf-8")
    broken = invoke("report", tmp_path)
    assert broken.exit_code == 1 and "Line 1" in broken.stderr
