"""beartype as the shape checker wants it: an int is a float where a float is asked for (PEP 484)."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

ANSWER_THEMSELVES = ("lesionwise.spec", "lesionwise.api")
"""Modules where people's values arrive and wrong ones get a sentence: the checker would speak first."""

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its hints enforced, unless its module answers wrong values itself."""
    return function if getattr(function, "__module__", "") in ANSWER_THEMSELVES else _check(function)
