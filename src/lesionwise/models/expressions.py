"""Expressions of a configuration that are mere arithmetic on literals, such as `[32] * 3`: worked out, never evaluated."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_LARGEST, _LONGEST = 10**9, 1000
_OPERATIONS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def worked_out(text: str) -> Any:
    """The value of numbers, strings and lists of them joined by + - * / // %.

    Raises ValueError for everything else: names, calls, attributes, and numbers or lists of unreasonable size.

    >>> worked_out("[32] * 3"), worked_out("(1 + 2) * 4 // 2")
    ([32, 32, 32], 6)
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(f"not arithmetic on literals: {text[:80]}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
        return _reasonable(node.value)
    if isinstance(node, ast.List | ast.Tuple):
        return _reasonable([_value(item) for item in node.elts])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(_value(node.operand))
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left), _value(node.right)
        _check_repetition(node.op, left, right)
        if isinstance(left, str) or isinstance(right, str):
            raise ValueError("text is not reckoned with")
        return _reasonable(_OPERATIONS[type(node.op)](left, right))
    raise ValueError(f"more than arithmetic: {type(node).__name__}")


def _check_repetition(operation: ast.operator, left: Any, right: Any) -> None:
    for one, times in ((left, right), (right, left)):
        repeated = isinstance(operation, ast.Mult) and isinstance(one, list | str)
        if repeated and (not isinstance(times, int) or len(one) * max(times, 0) > _LONGEST):
            raise ValueError("a list of unreasonable length")


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a sign before what is no number")
    return value


def _reasonable(value: Any) -> Any:
    if isinstance(value, int | float) and abs(value) > _LARGEST:
        raise ValueError("a number of unreasonable size")
    if isinstance(value, list | str) and len(value) > _LONGEST:
        raise ValueError("a list of unreasonable length")
    return value
