"""Prompts and completions from options and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def read_prompts(prompt: Sequence[str] | None, file: Path | None) -> list[Any]:
    """The prompts of --prompt or of --prompts; without either, the empty prompt."""
    if prompt and file:
        raise typer.BadParameter("give --prompt or --prompts, not both.", param_hint="--prompts")
    if file is None:
        return list(prompt) if prompt else [""]
    if file.suffix == ".jsonl":
        return _rows(file, "prompts", "prompt")
    if file.suffix != ".txt":
        raise typer.BadParameter(f"{file} is neither .jsonl nor .txt.", param_hint="--prompts")
    if not (lines := [line for line in _text(file, "prompts").splitlines() if line.strip()]):
        raise typer.BadParameter(f"{file} holds no prompt.", param_hint="--prompts")
    return lines


def read_completions(file: Path) -> tuple[list[str], list[Any] | None]:
    """Completions and, where rows have them, their prompts."""
    rows = _rows(file, "data", "completion")
    with_prompt = ["prompt" in row for row in rows]
    if any(with_prompt) and not all(with_prompt):
        line = with_prompt.index(False) + 1
        raise typer.BadParameter(
            f"{file}: object {line} has no 'prompt', others have.", param_hint="--data"
        )
    completions = [row["completion"] for row in rows]
    return completions, [row["prompt"] for row in rows] if all(with_prompt) else None


def _rows(file: Path, option: str, key: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file, all of which have a key."""
    rows = []
    for number, line in enumerate(_text(file, option).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise typer.BadParameter(
                f"{file}, line {number} is not JSON: {error}.", param_hint=f"--{option}"
            ) from None
        if not isinstance(row, dict) or key not in row:
            raise typer.BadParameter(
                f"{file}, line {number} is not an object with {key!r}.", param_hint=f"--{option}"
            )
        rows.append(row)
    if not rows:
        raise typer.BadParameter(f"{file} holds no {key}.", param_hint=f"--{option}")
    return rows


def _text(file: Path, option: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text.", param_hint=f"--{option}") from None
