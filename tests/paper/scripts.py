"""The experiments of the paper as modules."""

import importlib.util
import json
from pathlib import Path

PAPER = Path(__file__).resolve().parents[2] / "paper"


def experiment(name):
    spec = importlib.util.spec_from_file_location(name, PAPER / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name):
    return json.loads((PAPER / "results" / f"{name}.json").read_text(encoding="utf-8"))
