"""Loops that numba compiles, where it is installed (the extra `fast`).

Modules with such loops are imported where they are used: numba takes half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

AVAILABLE = find_spec("numba") is not None


def compiled(reassoc: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called, for good where there is a folder to keep it in.

    Args:
        reassoc: sums may be taken in another order, always the same one.
    """
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract"} if reassoc else False}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any]
        try:
            made = njit(cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the user's cache
            made = njit(**options)(function)
        return made

    return decorate
