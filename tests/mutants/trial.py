"""A trial of one mutant: its tests in a forked process, in which the module is loaded from other source.

No file is changed: what a trial imports after the fork is the mutant, and what was imported before it is third-party
code alone, which takes most of the time of a test session to load.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

PRELOADED: tuple[str, ...] = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pydantic",
    "torch",
    "torchvision",
    "faiss",
)
PRELOADED += ("s3fs", "aiobotocore.session", "hypothesis.stateful", "pytest", "PIL.Image", "safetensors.torch", "typer")

OPTIONS: tuple[str, ...] = (
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "pytest_timeout",
    "-p",
    "_hypothesis_pytestplugin",
)
OPTIONS += ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Other plugins are not loaded: they would take longer than most tests."""

Verdict = Literal["killed", "survived", "timeout"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is run: the tests, in how many seconds. source: of the module; None for the module as it is.

    output: where what they print is kept.
    """

    module: Path
    output: Path
    source: str | None
    tests: Sequence[str]
    seconds: float


def preload() -> None:
    """Import what is third-party, once for all trials."""
    for name in PRELOADED:
        with suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def verdict(trial: Trial) -> tuple[Verdict, float]:
    """Return what became of a mutant, and the seconds that it took."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(trial)
    code = _waited(child, started + trial.seconds)
    took = time.monotonic() - started
    return ("timeout" if code is None else "killed" if code else "survived"), took


def _waited(child: int, until: float) -> int | None:
    """Return the exit code of a trial; None when it took too long. Whatever it started ends with it."""
    code = None
    while code is None and time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return code


def _run(trial: Trial) -> None:
    """Run the tests and end this process; it never returns."""
    code = 1
    try:
        os.setsid()
        os.nice(19)
        said = os.open(trial.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        if trial.source is not None:
            sys.meta_path.insert(0, _Mutated(trial.module, trial.source))
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        pytest = importlib.import_module("pytest")
        profile = importlib.import_module("hypothesis").settings
        profile.register_profile("mutants", database=None, derandomize=True, deadline=None)
        profile.load_profile("mutants")
        code = int(pytest.main([*OPTIONS, *trial.tests]))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Mutated(importlib.abc.MetaPathFinder):
    """Finds one module whose source is not that of its file."""

    def __init__(self, path: Path, source: str) -> None:
        self._name = ".".join(path.with_suffix("").parts)
        self._path, self._source = path.absolute(), source

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        loader = _Loader(name, str(self._path), self._source)
        return importlib.util.spec_from_file_location(name, self._path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._mutated = source

    def get_code(self, fullname: str) -> CodeType:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(self._mutated, self.path, "exec", dont_inherit=True)
