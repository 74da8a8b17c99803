"""The data sets there are, found by walking this package."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules

from streamrec.data import importers
from streamrec.data.importers.dataset import DataSet
from streamrec.data.mapping import nearest


def data_sets() -> dict[str, type[DataSet]]:
    """Name -> class, by name. The name is that of the module, with `-` for `_`."""
    found: dict[str, type[DataSet]] = {}
    for module in iter_modules(importers.__path__):
        name = f"{importers.__name__}.{module.name}"
        for _, member in inspect.getmembers(import_module(name), inspect.isclass):
            if issubclass(member, DataSet) and member.__module__ == name and not inspect.isabstract(member):
                found[module.name.replace("_", "-")] = member
    return dict(sorted(found.items()))


def named(name: str) -> type[DataSet]:
    """The data set of this name.

    Raises:
        ValueError: there is none.
    """
    found = data_sets()
    if name not in found:
        near = nearest(name, list(found))
        meant = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"expected one of the data sets {', '.join(found)}, got {name!r}{meant}")
    return found[name]
