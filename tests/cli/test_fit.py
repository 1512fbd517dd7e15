"""`bayesft fit`, then what its guide is good for: `sample --proposal` and `certify`."""

import json

import pytest

TINY = ("--max-new-tokens", 4, "--prompt", "One day")
QUICK = ("--steps", 2, "--num-samples", 2)


@pytest.fixture
def target(model, rewards):
    reward = ("--reward", f"{rewards}:brevity", "--bounds", "0,1")
    return ("--model", model, *reward, *TINY)


def test_a_fitted_guide_proposes_and_is_certified(invoke, target, tmp_path):
    out = tmp_path / "guide"
    fitted = invoke("fit", *target, *QUICK, "--lora-rank", 2, "--out", out)
    assert fitted.exit_code == 0, fitted.stderr
    assert fitted.stdout.strip() == str(out)
    assert "reverse-kl:" in fitted.stderr and "nats" in fitted.stderr
    assert (out / "adapter_config.json").exists()

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
        (("--objective", "mle"), "needs completions"),
        (("--objective", "mle", "--data", __file__, "--reward", "math:sqrt"), "no evidence"),
        (("--num-samples", 1), "--num-samples"),
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
