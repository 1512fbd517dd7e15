"""What every command has in common: groups of options, and errors as messages and exit codes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
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
        with_messages(functools.partial(run, **values), debug)

    flat.__name__, flat.__doc__ = run.__name__, run.__doc__
    flat.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def with_messages(run: Callable[[], None], debug: bool) -> None:
    """Run a command; what goes wrong becomes a message on stderr and exit code 1."""
    from bayesft.errors import BayesftError

    try:
        run()
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(1) from None
    except (BayesftError, OSError) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        typer.echo(typer.style("Error: ", fg="red", bold=True) + str(error), err=True)
        if error.__cause__ is not None:
            typer.echo("(--debug shows the exception behind it.)", err=True)
        raise typer.Exit(1) from None
    finally:
        sys.stdout.flush()


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
