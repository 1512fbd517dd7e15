"""Files written all or nothing, and refused before the work rather than after it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def require_writable(path: Path, *, folder: bool, option: str = "--out") -> None:
    """A usage error unless a file (or folder) can be made at the path, or replaced there."""
    path = path.absolute()
    if path.is_dir() != folder and path.exists():
        what = "a file" if folder else "a folder"
        raise typer.BadParameter(f"{path} is {what}.", param_hint=option)
    if folder and path.is_dir() and any(path.iterdir()):
        raise typer.BadParameter(
            f"{path} is not empty: name a new or empty folder.", param_hint=option
        )
    parent = path.parent
    while folder and not parent.exists():  # folders are made with their parents
        parent = parent.parent
    if not parent.is_dir():
        raise typer.BadParameter(f"there is no folder {parent}.", param_hint=option)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{parent} cannot be written to.", param_hint=option)


@contextmanager
def line_writer(path: Path | None) -> Iterator[Callable[[Iterable[str]], None]]:
    """A function that writes lines, to stdout without a path, else to a file that appears only when
    the block ends well. The file is opened first, so a place that cannot be written to is refused.
    """
    if path is None:
        yield lambda lines: typer.echo("\n".join(lines))
        return
    require_writable(path, folder=False)
    fresh = path.absolute().with_name(f".{path.name}.new-{secrets.token_hex(4)}")
    try:
        with fresh.open("x", encoding="utf-8", newline="\n") as stream:
            yield lambda lines: stream.writelines(f"{line}\n" for line in lines)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
