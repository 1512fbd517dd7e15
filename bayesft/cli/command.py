"""What every command has in common: groups of options, and errors as messages and exit codes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Run")
]


def command(run: Callable[..., None]) -> Callable[..., None]:
    """The typer command of a function; its parameters may be dataclasses of options.

    Every field of such a dataclass becomes an option of its own. An error of the library ends the
    program with its message and exit code 1.
    """
    groups, parameters = {}, []
    for parameter in inspect.signature(run, eval_str=True).parameters.values():
        if isinstance(parameter.annotation, type) and dataclasses.is_dataclass(
            parameter.annotation
        ):
            groups[parameter.name] = parameter.annotation
            parameters += _options(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters.append(
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    )

    def flat(*, debug: bool, **values: Any) -> None:
        for name, group in groups.items():
            taken = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**taken)
        with_messages(functools.partial(run, **values), debug, states_of(values.get("watch")))

    flat.__name__, flat.__doc__ = run.__name__, run.__doc__
    flat.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def with_messages(run: Callable[[], None], debug: bool, states: Path | None = None) -> None:
    """Run a command; what goes wrong becomes a message on stderr and exit code 1.

    Where a fit ended early and left a state in the folder `states`, the message says how to go on.
    """
    from bayesft.errors import BayesftError

    try:
        run()
    except KeyboardInterrupt as error:
        if debug:
            raise
        typer.echo("\n".join(["Interrupted.", *_notes(error, states)]), err=True)
        raise typer.Exit(1) from None
    except (BayesftError, OSError) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        message = "\n".join([str(error), *_notes(error, states)])
        typer.echo(typer.style("Error: ", fg="red", bold=True) + message, err=True)
        if error.__cause__ is not None:
            typer.echo("(--debug shows the exception behind it.)", err=True)
        raise typer.Exit(1) from None
    finally:
        sys.stdout.flush()


def states_of(watch: Any) -> Path | None:
    """Where a command keeps the states of a fit, if it keeps any."""
    from bayesft.cli.fit import STATES

    folder: Path | None = getattr(watch, "run", None)
    return None if folder is None else folder / STATES


def _notes(error: BaseException, states: Path | None) -> list[str]:
    """What was noted of an error, such as where a state was saved, and how to go on from there."""
    from bayesft.errors import FitInterrupted

    # JAX notes, under a rule, that it hides its own frames of a traceback, which is not shown.
    found = [note for note in getattr(error, "__notes__", ()) if not note.startswith("---")]
    ended = found or isinstance(error, FitInterrupted)  # and not refused before its first step
    if ended and states is not None and any(states.glob("step-*.json")):
        found.append("The same command with --resume goes on from there.")
    return found


def _options(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
