"""`bayesft sample`: what it writes, and what it refuses."""

import json
import math

import pytest

TINY = ("--max-new-tokens", 5, "--particles", 4)


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    rows = [{"prompt": "One day", "wish": "a"}, {"prompt": "Once upon a time", "wish": "zzz"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_rows_hold_what_was_drawn(invoke, model, rewards, prompts_file, tmp_path):
    out = tmp_path / "draws.jsonl"
    result = invoke(
        "sample", "--model", model, "--reward", f"{rewards}:wishes", "--beta", 0.5,
        "--bounds", "0,1", "--constraint", f"{rewards}:always", "--log-penalty", -3,
        "--prompts", prompts_file, "--every", 2, "--out", out, *TINY,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    rows = rows_of(out.read_text(encoding="utf-8"))
    assert [row["prompt"] for row in rows] == ["One day"] * 4 + ["Once upon a time"] * 4
    for row in rows:
        wish = "a" if row["prompt"] == "One day" else "zzz"
        assert row["rewards"] == {"wishes": float(wish in row["completion"])}
        assert row["log_potentials"] == {"wishes": row["rewards"]["wishes"] / 0.5, "always": 0.0}
        assert row["log_evidence"] == pytest.approx(sum(row["log_potentials"].values()))
        assert 1 <= len(row["token_ids"]) <= 5
        assert row["log_prior"] < 0
    for first in (0, 4):
        assert sum(row["weight"] for row in rows[first : first + 4]) == pytest.approx(1)
        top = max(row["log_weight"] for row in rows[first : first + 4])
        heaviest = max(rows[first : first + 4], key=lambda row: row["weight"])
        assert heaviest["log_weight"] == top
    assert "prompt 2  log Z" in result.stderr and "status ok" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".jsonl"] == ["draws.jsonl"]


def test_rows_go_to_stdout_and_depend_on_the_seed_alone(invoke, model):
    arguments = ("sample", "--model", model, "--sampler", "importance", *TINY)
    first, again = invoke(*arguments), invoke(*arguments)
    other = invoke(*arguments, "--seed", 1)
    assert first.exit_code == 0, first.stderr
    assert first.stdout == again.stdout != other.stdout
    rows = rows_of(first.stdout)
    assert len(rows) == 4
    assert all(row["rewards"] == {} and row["weight"] == 0.25 for row in rows)


def test_rejection_and_best_of_n_draw_what_is_asked(invoke, model, rewards):
    target = ("--model", model, "--reward", f"{rewards}:brevity", "--bounds", "0,1")
    small = ("--max-new-tokens", 5, "--num-draws", 3)
    exact = invoke("sample", *target, "--sampler", "rejection", *small)
    assert exact.exit_code == 0, exact.stderr
    assert "exact draws" in exact.stderr and "accepted" in exact.stderr
    best = invoke("sample", *target, "--sampler", "best-of-n", "--n", 2, *small)
    assert best.exit_code == 0, best.stderr
    assert "log Z not estimated" in best.stderr
    assert len(rows_of(exact.stdout)) == len(rows_of(best.stdout)) == 3


def test_a_constraint_that_nothing_meets_is_reported(invoke, model, rewards):
    result = invoke("sample", "--model", model, "--constraint", f"{rewards}:never", *TINY)
    assert result.exit_code == 1
    rows = rows_of(result.stdout)
    assert all(row["log_weight"] is None and row["weight"] == 0 for row in rows)
    assert "log Z -inf" in result.stderr and "status all dead" in result.stderr
    assert not any(math.isnan(row["log_prior"]) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--sampler", "gibbs"), "not one of importance"),
        (("--sampler", "importance", "--every", 2), "--every does not go with"),
        (("--sampler", "rejection", "--particles", 2), "--particles does not go with"),
        (("--resampling", "lottery"), "not one of systematic"),
        (("--eos", "sometimes"), "not one of truncate"),
        (("--reward", "nocolon"), "module:function"),
        (("--reward", "no_such_module:score"), "ModuleNotFoundError"),
        (("--reward", "math:no_such_function"), "no no_such_function"),
        (("--reward", "math:pi"), "not a function"),
        (("--reward", "/no/such/file.py:score"), "no file"),
        (("--reward", "math:sqrt", "--bounds", "1"), "two numbers"),
        (("--bounds", "0,1"), "give --reward too"),
        (("--constraint", "bad"), "module:function"),
        (("--prompts", "/no/such/prompts.txt"), "does not exist"),
        (("--prompt", "a", "--prompts", __file__), "not both"),
        (("--prompts", __file__), "neither .jsonl nor .txt"),
        (("--out", "/no/such/folder/draws.jsonl"), "no folder"),
        (("--out", "/"), "is a folder"),
        (("--max-new-tokens", 0), "--max-new-tokens"),
        (("--particles", "many"), "--particles"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_usage_errors_exit_with_2_before_a_model_is_loaded(invoke, arguments, says):
    result = invoke("sample", "--model", "/no/such/model", *arguments)
    assert result.exit_code == 2, result.stderr
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('{"prompt": "a"}\n{"text": "b"}', "line 2"),
        ('{"prompt": "a"}\nnot json', "line 2 is not JSON"),
        ("\n", "holds no prompt"),
    ],
)
def test_prompt_files_are_checked(invoke, tmp_path, lines, says):
    path = tmp_path / "prompts.jsonl"
    path.write_text(lines, encoding="utf-8")
    result = invoke("sample", "--model", "/no/such/model", "--prompts", path)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "/no/such/model"), "does not exist"),
        (("--reward", "{rewards}:brevity", "--beta", 0), "beta=0.0"),
        (("--reward", "{rewards}:brevity", "--bounds", "1,0"), "bounds"),
        (("--reward", "{rewards}:broken"), "raised KeyError"),
        (("--reward", "{rewards}:brevity", "--bounds", "2,3"), "outside its bounds"),
        (("--reward", "{rewards}:wishes"), "asks for 'wish'"),
        (("--reward", "{rewards}:brevity", "--sampler", "rejection"), "finite upper bound"),
        (("--max-new-tokens", 64), "positions"),
    ],
)
def test_failures_are_messages_and_leave_no_file(invoke, model, rewards, tmp_path, arguments, says):
    out = tmp_path / "out" / "draws.jsonl"
    out.parent.mkdir()
    named = [str(argument).format(rewards=rewards) for argument in arguments]
    if "--model" not in named:
        named += ["--model", str(model)]
    if "--max-new-tokens" not in named:
        named += ["--max-new-tokens", "5"]
    result = invoke("sample", "--out", out, *named)
    assert result.exit_code == 1
    assert result.stderr.lstrip().startswith("Error:") or "Error:" in result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert list(out.parent.iterdir()) == []


def test_debug_raises_what_happened(invoke, model, rewards):
    arguments = ("sample", "--model", model, "--reward", f"{rewards}:broken", *TINY)
    assert "--debug" in invoke(*arguments).stderr
    result = invoke(*arguments, "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "EvidenceError"
