"""The layers: who may import whom, how long files are, and what `import bayesft` does."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RANKS = {
    "base": 0,
    "errors": 0,
    "draws": 0,
    "sharding": 0,
    "program": 1,
    "prompts": 1,
    "target": 2,
    "priors": 3,
    "evidence": 3,
    "estimators": 3,
    "samplers": 4,
    "placement": 4,
    "twists": 5,
    "distributions": 5,
    "objectives": 5,
    "fitting": 5,
    "diagnostics": 6,
    "methods": 6,
    "_sample": 6,
    "_fit": 6,
    "testing": 6,
    "lm": 7,
    "io": 6,
    "interop": 7,
    "track": 8,
    "report": 9,
    "cli": 10,
}
TOP_RANK = max(RANKS.values())
MAX_FILE_LINES = 400
MAX_ROOM_DOCSTRING_LINES = 40
# What users who need none of it should not wait for, and what is never imported at all.
NOT_ON_IMPORT = (
    "scipy.stats",  # first: where it is imported as a planted bug, it looks for a real torch
    "torch",
    "transformers",
    "genjax",
    "tensorflow_probability",
    "arviz",
    "llguidance",
    "matplotlib",
    "outlines_core",
    "bayesft.lm",
    "bayesft.io",
    "bayesft.interop",
)
REPOSITORY = Path(__file__).resolve().parents[1]


# ---- the checker: every function takes the package folder and returns complaints ----------------


def _modules(package: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _name(package: Path, path: Path) -> str:
    """Dotted name of a file: `bayesft.samplers.smc`, `bayesft.samplers` for its `__init__`."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(name: str) -> str:
    """First name below the package, empty for the package itself."""
    return [*name.split("."), ""][1]


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _nodes(node: ast.AST, *, type_checking: bool) -> Iterator[ast.AST]:
    """All nodes below, leaving out the bodies of `if TYPE_CHECKING` unless they are asked for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test) and not type_checking:
            for statement in child.orelse:
                yield statement
                yield from _nodes(statement, type_checking=False)
        else:
            yield child
            yield from _nodes(child, type_checking=type_checking)


def _imports(
    package: Path, path: Path, tree: ast.Module, *, type_checking: bool = False
) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of what a file imports, inside functions and by string as well."""
    here = _name(package, path).split(".")
    folder = here if path.name == "__init__.py" else here[:-1]
    for node in [*_nodes(tree, type_checking=type_checking)]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # the name may be a module or something in it
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            literal = node.args[0]
            if called in ("import_module", "__import__") and isinstance(literal, ast.Constant):
                name = str(literal.value)
                yield node.lineno, ".".join(folder) + name if name.startswith(".") else name


def _problem(package: str, room: str, imported: str) -> str | None:
    """Why a file of `room` may not import `imported`, or None if it may."""
    if imported.split(".")[0] != package:
        return None
    other = _room(imported)
    if other == room:
        return None
    if other not in RANKS:  # the package itself, or a name that its __init__ hands out
        if RANKS[room] == TOP_RANK:
            return None
        return f"imports {imported}: name the module that defines it, not the package"
    if RANKS[other] < RANKS[room] or RANKS[other] == RANKS[room] == 0:
        return None
    return f"(rank {RANKS[room]}) imports {imported} (rank {RANKS[other]}), which is not below it"


def layer_complaints(package: Path) -> list[str]:
    """A file imports lower ranks and its own room only; rank 0 imports itself without a cycle."""
    complaints = []
    below: dict[str, set[str]] = {}
    for path, tree in _modules(package):
        room = _room(_name(package, path))
        if not room:  # bayesft/__init__.py hands out everything
            continue
        if room not in RANKS:
            complaints.append(f"{path}: {room} has no rank in RANKS")
            continue
        for line, imported in _imports(package, path, tree):
            if problem := _problem(package.name, room, imported):
                complaints.append(f"{path}:{line}: {room} {problem}")
            other = _room(imported) if imported.split(".")[0] == package.name else ""
            if other != room and RANKS.get(other) == RANKS[room] == 0:
                below.setdefault(room, set()).add(other)
    return complaints + _cycles(below)


def _cycles(below: dict[str, set[str]]) -> list[str]:
    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [*below.get(start, ())]
        while waiting:
            if (room := waiting.pop()) not in seen:
                seen.add(room)
                waiting.extend(below.get(room, ()))
        return seen

    return [f"{room}: imports itself by way of others" for room in below if room in reachable(room)]


def torch_complaints(package: Path) -> list[str]:
    """Nothing imports torch, not even for type checking."""
    return [
        f"{path}:{line}: imports {imported}"
        for path, tree in _modules(package)
        for line, imported in _imports(package, path, tree, type_checking=True)
        if imported.split(".")[0] == "torch"
    ]


def file_complaints(package: Path) -> list[str]:
    """Short files, no `utils`, and a room that states its contract briefly."""
    complaints = []
    for path, tree in _modules(package):
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            complaints.append(f"{path}: {num_lines} lines, the cap is {MAX_FILE_LINES}")
        if "utils" in (path.stem.strip("_"), path.parent.name.strip("_")):
            complaints.append(f"{path}: utils is not a name, say what it holds")
        if path.parent != package and not (path.parent / "__init__.py").exists():
            complaints.append(f"{path}: its folder has no __init__.py")
        if path.name == "__init__.py" and path.parent != package:
            docstring = ast.get_docstring(tree) or ""
            if not docstring.strip():
                complaints.append(f"{path}: no docstring that states the room's contract")
            if (num_lines := len(docstring.splitlines())) > MAX_ROOM_DOCSTRING_LINES:
                complaints.append(
                    f"{path}: docstring of {num_lines} lines, the cap is {MAX_ROOM_DOCSTRING_LINES}"
                )
    return complaints


_REPORT_IMPORT = """
import json, sys
import jax
from jax._src import xla_bridge
before = dict(jax.config.values)
import bayesft
changed = [name for name, value in jax.config.values.items() if value != before.get(name)]
print(json.dumps({
    "file": str(bayesft.__file__),
    "modules": [*sys.modules],
    "changed": changed,
    "started": xla_bridge.backends_are_initialized(),
}))
"""


def import_complaints(package: Path) -> list[str]:
    """`import bayesft` in a fresh interpreter: quick, and without side effects on JAX."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-c", _REPORT_IMPORT]
    done = subprocess.run(
        command, cwd=package.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert Path(report["file"]).resolve().parent == package.resolve()
    complaints = [f"imports {name}" for name in NOT_ON_IMPORT if name in report["modules"]]
    complaints += [f"changes jax.config.{name}" for name in report["changed"]]
    if report["started"]:
        complaints.append("starts a JAX backend (an array is made while a module is imported)")
    return complaints


# ---- bayesft ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check", [layer_complaints, torch_complaints, file_complaints, import_complaints]
)
def test_bayesft_keeps_the_rule(check):
    assert not (complaints := check(REPOSITORY / "bayesft")), "\n".join(complaints)


# ---- planted bugs: the checker catches what it is for -------------------------------------------


def _tree(tmp_path: Path, files: dict[str, str]) -> Path:
    package = tmp_path / "bayesft"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.parent != package and not (path.parent / "__init__.py").exists():
            (path.parent / "__init__.py").write_text('"""A room."""\n', encoding="utf-8")
    return package


ALLOWED = {
    "__init__.py": "from bayesft.target import Target\nfrom bayesft import lm, cli\n",
    "base.py": "import jax\nimport typing\nif typing.TYPE_CHECKING:\n    import bayesft.lm\n",
    "errors.py": "",
    "draws.py": "from bayesft import errors\nfrom bayesft.base import Prior\n",
    "target.py": "from .base import Prior\nfrom . import program, errors\n",
    "program/draw.py": "from . import guard\nfrom .guard import check\nfrom ..base import Prior\n",
    "program/guard.py": "import bayesft.program.draw\n",
    "priors/markov.py": "import bayesft.base as base\nfrom bayesft.priors import ngram\n",
    "lm/load.py": "def load():\n    import transformers, bayesft.target\n",
    "cli.py": "import bayesft as bft\nfrom bayesft import Target\nimport bayesft.lm\n",
}


def test_allowed_tree_has_no_complaints(tmp_path):
    package = _tree(tmp_path, ALLOWED)
    for check in (layer_complaints, torch_complaints, file_complaints):
        assert check(package) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("base.py", "import bayesft.target"),
        ("base.py", "from .program import draw"),
        ("target.py", "from bayesft import priors"),
        ("target.py", "from bayesft.lm.load import load"),
        ("priors/markov.py", "from bayesft.evidence import reward"),
        ("priors/markov.py", "from ..evidence.reward import Reward"),
        ("priors/markov.py", "from .. import samplers"),
        ("_fit.py", "from bayesft._sample import sample"),
        ("report/tables.py", "import bayesft.cli"),
        ("samplers/smc.py", "def run():\n    import bayesft.lm"),
        ("samplers/smc.py", "class A:\n    def f(self):\n        from ..lm import load"),
        ("samplers/smc.py", "try:\n    import bayesft.io\nexcept ImportError:\n    pass"),
        ("samplers/smc.py", "import importlib\nimportlib.import_module('bayesft.lm')"),
        ("samplers/smc.py", "__import__('bayesft.lm')"),
        ("samplers/smc.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import bayesft.lm"),
        ("samplers/smc.py", "import bayesft as bft"),
        ("samplers/smc.py", "from bayesft import Target"),
        ("samplers/smc.py", "from .. import Target"),
        ("unranked.py", ""),
        ("unranked/file.py", ""),
    ],
)
def test_import_out_of_rank_is_caught(tmp_path, file, text):
    complaints = layer_complaints(_tree(tmp_path, {file: text + "\n"}))
    assert complaints
    assert all(file.split("/")[0] in complaint for complaint in complaints)


@pytest.mark.parametrize(
    "files",
    [
        {"base.py": "import bayesft.errors", "errors.py": "import bayesft.base"},
        {
            "base.py": "from . import errors",
            "errors.py": "def f():\n    from .draws import Draws",
            "draws.py": "from bayesft.base import Prior",
        },
    ],
)
def test_cycle_at_the_bottom_is_caught(tmp_path, files):
    assert len(layer_complaints(_tree(tmp_path, files))) == len(files)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("lm/load.py", "import torch.nn as nn"),
        ("lm/load.py", "def f():\n    from torch import nn"),
        ("__init__.py", "if TYPE_CHECKING:\n    import torch"),
        ("lm/load.py", "import importlib\nimportlib.import_module('torch')"),
    ],
)
def test_torch_is_caught(tmp_path, file, text):
    assert len(torch_complaints(_tree(tmp_path, {file: text + "\n"}))) == 1


@pytest.mark.parametrize(
    ("files", "num_complaints"),
    [
        ({"base.py": "\n" * 400}, 0),
        ({"base.py": "\n" * 401}, 1),
        ({"utils.py": ""}, 1),
        ({"lm/_utils.py": ""}, 1),
        ({"lm/utils/__init__.py": '"""A room."""'}, 1),
        ({"lm/__init__.py": '"""A\n' + "b\n" * 38 + 'c"""'}, 0),
        ({"lm/__init__.py": '"""A\n' + "b\n" * 39 + 'c"""'}, 1),
        ({"lm/__init__.py": "from bayesft.lm.load import load"}, 1),
    ],
)
def test_file_rules_are_caught(tmp_path, files, num_complaints):
    assert len(file_complaints(_tree(tmp_path, files))) == num_complaints


def test_room_without_init_is_caught(tmp_path):
    package = _tree(tmp_path, {"lm/load.py": ""})
    (package / "lm" / "__init__.py").unlink()
    assert len(file_complaints(package)) == 1


def test_side_effects_of_import_are_caught(tmp_path):
    outsiders = [name for name in NOT_ON_IMPORT if not name.startswith("bayesft")]
    for name in outsiders:
        (tmp_path / f"{name}.py").write_text("", encoding="utf-8")
    imports = "".join(f"import {name}\n" for name in NOT_ON_IMPORT)
    effects = "import jax\njax.config.update('jax_enable_x64', True)\njax.numpy.zeros(3)\n"
    rooms = {f"{room}/__init__.py": "" for room in ("lm", "io", "interop")}
    complaints = import_complaints(_tree(tmp_path, {"__init__.py": imports + effects, **rooms}))
    assert complaints[: len(NOT_ON_IMPORT)] == [f"imports {name}" for name in NOT_ON_IMPORT]
    assert complaints[len(NOT_ON_IMPORT) :][0] == "changes jax.config.jax_enable_x64"
    assert "starts a JAX backend" in complaints[-1]
    assert len(complaints) == len(NOT_ON_IMPORT) + 2


def test_import_without_side_effects_passes(tmp_path):
    assert import_complaints(_tree(tmp_path, {"__init__.py": "import jax\n"})) == []
