"""Loops that numba compiles (the extra `fast`); modules with such loops are imported where they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(reassoc: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called, for good where there is a folder to keep it in.

    Args:
        reassoc: sums may be taken in another order, always the same one.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract"} if reassoc else False}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any]
        try:
            made = njit(cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the user's cache
            made = njit(**options)(function)
        return made

    return decorate
