"""Settings that are stricter than users', and where the real models and data are.

The compilation cache is set before JAX is imported; small programs are worth keeping too, because
the tests compile thousands of them. The environment hands it on to the interpreters tests start.
"""

import os
import tempfile
from pathlib import Path

import pytest


def _cache_folder() -> Path:
    """A folder that outlives the run: in the user's cache, or else among temporary files."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (root / "bayesft" / "tests", Path(tempfile.gettempdir()) / "bayesft-tests"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="bayesft-tests-"))


if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_cache_folder())
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Most of a run is LLVM optimising programs that then run for milliseconds: XLA's passes stay on,
# LLVM's are off. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` runs what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network

import jax  # noqa: E402

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_MAPS = 30_000
"""Compiled programs take memory maps, of which Linux gives a process 65530: then LLVM crashes."""

_since_looked = 0


def pytest_runtest_teardown() -> None:
    """Forget compiled programs before there are too many; the cache on disk has them."""
    global _since_looked
    _since_looked += 1
    maps = Path("/proc/self/maps")
    if _since_looked < 20 or not maps.exists():
        return
    _since_looked = 0
    if maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of real models and data: $BAYESFT_ASSETS, or ../shared/assets."""
    named = os.environ.get("BAYESFT_ASSETS")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "assets"
    if not folder.is_dir():
        pytest.skip(f"no real models and data at {folder} (name their folder in $BAYESFT_ASSETS)")
    return folder


@pytest.fixture(scope="session")
def golden(assets: Path) -> Path:
    """Folder of reference logits, beside the assets."""
    folder = assets.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"no reference logits at {folder}")
    return folder
