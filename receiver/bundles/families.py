"""Find the families of networks that a part of a bundle may be of."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def families(package: ModuleType, default: str) -> dict[str, type[Any]]:
    """Return the configuration classes that modules of a package set as `FAMILY`, by the family's name.

    Args:
        package: one module per family, among others.
        default: the family that comes first: the one of a bundle that does not name any.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = (importlib.import_module(f"{package.__name__}.{name}") for name in names)
    found = {module.FAMILY.family: module.FAMILY for module in modules if hasattr(module, "FAMILY")}
    return {default: found.pop(default), **found}
