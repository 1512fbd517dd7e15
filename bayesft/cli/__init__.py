"""The command line: `bayesft demo`, `sample`, `fit`, `certify` and `report`.

Contract. One file per command; results go to stdout, progress and messages to stderr. Exit codes
are 0 for success, 2 for usage and 1 for everything that failed; an error of the library is shown
as its message. Options that belong together are fields of one dataclass (`options`), and names that
stand for members of a room are in one table (`names`): strings choose mathematics only here.

Nothing but typer and rich is imported before a command runs, so that `--help` comes at once.
"""

import io
import sys
from typing import Annotated

import typer

from bayesft.cli.certify import certify
from bayesft.cli.command import command
from bayesft.cli.demo import demo
from bayesft.cli.fit import fit
from bayesft.cli.report import report
from bayesft.cli.sample import sample

app = typer.Typer(
    name="bayesft",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"bayesft {version('bayesft')}")
        except PackageNotFoundError:  # run from a source folder that is not installed
            import bayesft

            typer.echo(f"bayesft {bayesft.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fine-tuning is posterior inference: a language model is a prior, a reward is evidence.

    Start with `bayesft demo`, which needs nothing else. Then declare a target of your own and
    `sample` it, `fit` a guide to it, and `certify` how far the guide still is; `report` shows a
    fit that was written down.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shows "?"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


for each in (demo, sample, fit, certify, report):
    app.command()(command(each))

__all__ = ["app"]
