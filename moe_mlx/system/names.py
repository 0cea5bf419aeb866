"""Another library's function, some of whose names are ours: its code runs as it is, and calls what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any


def with_names(function: Any, names: Mapping[str, Any]) -> Any:
    """Returns a function whose code looks some names up here, and every other where it always does.

    Args:
        function: A plain function; it stays as it is.
        names: What its global names stand for.
    """
    made = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made
