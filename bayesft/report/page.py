"""One HTML page from sections: prose with a figure or a table, and nothing to be fetched."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --muted: #6f6f6f; --faint: #e4e4e1;
  --card: #f6f6f4; --curve: #1f5fa8; --accent: #b8336a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #16181b; --muted: #9a9a97;
  --faint: #2e3135; --card: #1e2125; --curve: #7db3f0; --accent: #f28ab2; } }
body { max-width: 62rem; margin: 3rem auto; padding: 0 1.5rem; color: var(--ink);
  background: var(--paper); font: 17px/1.55 Georgia, "Times New Roman", serif; }
h1, h2 { font-family: "Helvetica Neue", Arial, sans-serif; line-height: 1.2; }
h1 { font-size: 2rem; } h2 { font-size: 1.3rem; margin-top: 2.8rem; }
p { max-width: 44rem; }
figure { margin: 1.2rem 0; overflow-x: auto; }
figure > svg { max-width: 100%; height: auto; background: #fff; }
pre { font: 13px/1.35 "DejaVu Sans Mono", Menlo, Consolas, monospace; background: var(--card);
  padding: 1rem; overflow-x: auto; }
"""


class Html(str):
    """HTML of this room's own making, which a page takes over as it is."""


class Section(NamedTuple):
    """A part of a page. `shown` is SVG text, `Html`, or anything that `rich` prints (a table, a
    certificate), or None; blank lines in the prose separate paragraphs."""

    title: str
    prose: str = ""
    shown: Any = None


def page(
    title: str,
    sections: Sequence[Section | tuple],
    prose: str = "",
    width: int = 100,
    style: str = "",
) -> str:
    """A self-contained HTML page: sections in order, figures inline, tables as they print.

    It loads nothing and runs nothing. Titles and prose are plain text; an SVG goes in as it is, so
    it has to come from a function of this room, not from strangers. `width` is that of tables, in
    characters; `style` is CSS for what the sections bring. Light or dark as the reader's system is.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _paragraphs(prose)]
    for section in (Section(*each) for each in sections):
        parts += [f"<h2>{html.escape(section.title)}</h2>", _paragraphs(section.prose)]
        if section.shown is not None:
            parts.append(f"<figure>{_shown(section.shown, width)}</figure>")
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _paragraphs(prose: str) -> str:
    parts = [part.strip() for part in prose.split("\n\n")]
    return "\n".join(f"<p>{html.escape(part)}</p>" for part in parts if part)


def _shown(shown: Any, width: int) -> str:
    if isinstance(shown, Html):
        return shown
    if isinstance(shown, str) and shown.lstrip().startswith("<svg"):
        return shown
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown, markup=False)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    return f"<pre>{html.escape(text.rstrip())}</pre>"
