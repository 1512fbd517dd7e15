"""Help, version, names and interrupts."""

import subprocess
import sys
import typing

import pytest
import typer

import bayesft as bft
from bayesft.cli import names, stories
from bayesft.cli.command import states_of, with_messages
from bayesft.cli.functions import load_function
from bayesft.cli.objectives import GENERATORS, OBJECTIVES
from bayesft.cli.options import WatchOptions
from bayesft.cli.output import line_writer
from bayesft.errors import FitInterrupted, RunError


@pytest.mark.parametrize("name", ["demo", "sample", "fit", "certify"])
def test_help_is_complete(invoke, name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.replace("│", " ").split())
    if name != "demo":
        assert f"bayesft {name} --model" in text, "no example"
        assert "--reward" in text and "[default: 64]" in text
    assert "--seed" in text and "[default: 0]" in text


def test_help_lists_the_commands_and_no_command_shows_it(invoke):
    names = ("demo", "sample", "fit", "certify", "report")
    assert all(name in invoke("--help").stdout for name in names)
    assert "Usage" in invoke().output


def test_version(invoke):
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.split() == ["bayesft", bft.__version__]


def test_every_name_is_a_member_that_takes_its_options(invoke):
    import inspect

    text = " ".join(invoke("fit", "--help").stdout.replace("│", " ").split())
    text += " ".join(invoke("sample", "--help").stdout.replace("│", " ").split())
    for table in (names.SAMPLERS, names.ESTIMATORS, OBJECTIVES):
        for name, member in table.items():
            assert name in text
            taken = inspect.signature(names.lookup(member.constructor)).parameters
            assert set(member.arguments.values()) <= set(taken)
    for place in (*GENERATORS.values(), *names.RESAMPLING.values()):
        assert callable(names.lookup(place))
    assert {name for each in OBJECTIVES.values() for name in each.estimators} == {*names.ESTIMATORS}
    of_log_u = [
        name
        for name, fn in vars(bft.objectives.generators).items()
        if inspect.isfunction(fn) and list(inspect.signature(fn).parameters) == ["log_u"]
    ]
    assert {name.replace("_", "-") for name in of_log_u} == {*GENERATORS}
    assert typing.get_args(bft.base.EosPolicy.__value__) == names.EOS_POLICIES


def test_examples_in_help_load():
    assert load_function("bayesft.cli.stories:sadness", "reward") is stories.sadness


def test_sadness_and_politeness_of_a_story():
    sad, happy, plain = stories.sadness(["He was sad. SAD!", "a happy day", "the"])
    assert -1 < happy < 0 == plain < sad < 1
    rude = next(iter(sorted(stories.impolite_words())))
    assert stories.polite([f"You {rude.upper()}!", f"x{rude}x"]) == [False, True]


def test_an_interrupt_is_tidy(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as stopped:
        with_messages(interrupted, debug=False)
    assert stopped.value.exit_code == 1
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("Bad."), OSError("Bad.")])
def test_a_message_says_where_the_state_is_and_how_to_go_on(capsys, tmp_path, error):
    error.add_note("--------------------\nJAX has removed its internal frames")
    error.add_note("The state after 3 steps is in states.")

    def failing():
        raise error

    def said():
        with pytest.raises(typer.Exit):
            with_messages(failing, debug=False, states=states_of(WatchOptions(run=tmp_path)))
        return capsys.readouterr().err.splitlines()[1:]

    assert said() == ["The state after 3 steps is in states."]  # that is not there any more
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "step-00000003.json").touch()
    assert said()[-1] == "The same command with --resume goes on from there."
    del error.__notes__  # refused before the first step
    assert said() == []


def test_a_fit_that_is_terminated_says_how_to_go_on(capsys, tmp_path):
    (tmp_path / "step-00000003.json").touch()

    def terminated():
        raise FitInterrupted("SIGTERM ended the fit.")

    with pytest.raises(typer.Exit):
        with_messages(terminated, debug=False, states=tmp_path)
    assert "--resume goes on" in capsys.readouterr().err


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("before\n", encoding="utf-8")
    with pytest.raises(RuntimeError), line_writer(path) as write:
        write(["half"])
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "before\n"
    with line_writer(path) as write:
        write(["one", "two"])
    assert path.read_text(encoding="utf-8") == "one\ntwo\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_command_line_alone_imports_nothing_heavy():
    """What `bayesft.cli` adds to `import bayesft` must not be felt in --help."""
    code = (
        "import sys, bayesft; before = set(sys.modules); import bayesft.cli; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"flax", "transformers", "tokenizers", "numpyro", "optax"} & {*done.stdout.split()}
