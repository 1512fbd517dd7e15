"""`bayesft report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesft.cli.options import RUN
from bayesft.cli.output import line_writer


def report(
    run: Annotated[
        Path,
        typer.Argument(help="The folder of a run: what `fit --run` wrote.", metavar="RUN"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where the page goes. [default: RUN/report.html]",
            metavar="PAGE.html",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Make a page of a run: its curves, certificates, completions and configuration.

    The page is one HTML file that loads nothing. A run that still goes on is shown as far as it is.
    What is printed on stdout is where the page is.

        bayesft report runs/sad
    """
    from bayesft.report.run import run_page
    from bayesft.track.run import read_run

    found = read_run(run)
    path = run / "report.html" if out is None else out
    with line_writer(path) as write:
        write([run_page(found)])
    typer.echo(path)
