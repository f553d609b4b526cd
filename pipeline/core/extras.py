"""Libraries that not everybody needs: imported where they are used, and named by their extra where they are absent."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.core.errors import UserError


def library(module: str, extra: str, purpose: str) -> Any:
    """Return a module that an extra of ours installs; a UserError says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(purpose, f"needs {module.partition('.')[0]}", f"pip install 'sightline[{extra}]'") from None
