"""Reading foreign .pth and .pt files without running what they hold. The only way in for pickled bytes.

torch's weights-only unpickler builds allow-listed types and calls nothing else. scikit-learn's PCA and DIR's training
bookkeeping become inert stubs registered under the old names. A refusal names the global that the file asked for.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import CheckpointRefused, UserError

_HARMLESS = re.compile(
    r"(torch(\._utils\._rebuild\w*|\.\w*Storage|\.storage\.\w+)?|numpy|collections\.OrderedDict)\b.*"
)
_MAX_PICKLE = 64 << 20


class StubPca:
    """Stands in for sklearn.decomposition.PCA: holds the unpickled attributes and does nothing."""


class StubRecord:
    """Stands in for DIR's training bookkeeping; holds attributes that nobody reads."""


def load_foreign(path: Path) -> Any:
    """Return what a checkpoint file holds; CheckpointRefused when it asks for anything outside the allow-list."""
    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(str(path), "does not exist", "check the path") from None
    except Exception as error:  # noqa: BLE001 - a malformed file can make the unpickler raise anything
        text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        asked = _asked_for(path, text)
    if asked:
        raise CheckpointRefused(path.name, f"asks for {asked}, which is not allowed", "do not trust this file")
    if "TorchScript" in text:
        raise CheckpointRefused(path.name, "is a TorchScript program, which is code", "export its weights instead")
    raise CheckpointRefused(path.name, "is no checkpoint that can be read", "fetch it again, or give .safetensors")


def _allowed() -> list[Any]:
    """The types that a checkpoint may name: numpy arrays under their old and new names, and the stubs."""
    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    allowed: list[Any] = [np.ndarray, np.dtype, codecs.encode]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(multiarray._reconstruct, f"{module}._reconstruct"), (multiarray.scalar, f"{module}.scalar")]
    names = ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")
    allowed += [getattr(np.dtypes, f"{name}DType") for name in names]
    allowed += [(StubPca, f"sklearn.decomposition.{module}.PCA") for module in ("pca", "_pca")]
    allowed += [(StubRecord, f"utils.watcher.{name}") for name in ("AverageMeter", "Watch")]
    return allowed


def _asked_for(path: Path, text: str) -> str:
    """Return the offending global: from the unpickler's words, else from the opcodes, which are listed, never run."""
    if named := re.search(r"(?:GLOBAL|instantiate|Unsupported class|function) ([\w.]+\.[\w.]+)", text):
        return named[1]
    known = {name if isinstance(name, str) else f"{name.__module__}.{name.__qualname__}" for name in _names()}
    strange = [name for name in _globals(path) if name not in known and not _HARMLESS.fullmatch(name)]
    return strange[0] if strange else ""


def _names() -> Iterator[Any]:
    for item in _allowed():
        yield item[1] if isinstance(item, tuple) else item


def _globals(path: Path) -> list[str]:
    """List the globals that a pickle names, in order; empty when it cannot be taken apart."""
    found: list[str] = []
    texts: list[str] = []
    memo: dict[int, str] = {}
    last: str | None = None
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_bytes(path)):
            if opcode.name in ("GLOBAL", "INST"):
                found.append(str(argument).replace(" ", "."))
                last = None
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                found.append(f"{texts[-2]}.{texts[-1]}")
                last = None
            elif opcode.name == "MEMOIZE" or opcode.name.endswith("BINPUT"):
                # Where the pickler refers back to a string later, the string is remembered under this number.
                memo[len(memo) if argument is None else int(argument)] = last or ""
            else:
                refers = opcode.name.endswith("BINGET")
                last = memo.get(int(str(argument))) if refers else argument if isinstance(argument, str) else None
                texts += [last] if last is not None else []
    except (ValueError, OSError, IndexError, zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError):
        return found
    return found


def _pickle_bytes(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        data = path.read_bytes()[:_MAX_PICKLE]
        # The old format is several pickles in a row: magic number, protocol, system, then the object.
        for _ in range(3):
            *_, (_, _, last) = pickletools.genops(data)
            data = data[(last or 0) + 1 :]
        return data
    with zipfile.ZipFile(path) as archive:
        name = next((n for n in archive.namelist() if n.endswith("data.pkl")), "")
        if not name:
            raise ValueError("no pickle inside")
        with archive.open(name) as file:
            return file.read(_MAX_PICKLE)
