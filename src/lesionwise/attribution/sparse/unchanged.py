"""Rules of the operations that leave every value as it is: the same for activations and for cotangents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

_aten = torch.ops.aten


def rules_that_keep_values(same_fn: Callable[..., Any], copied_fn: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """By operation; `same_fn(func, x)` passes a tensor on, `copied_fn(func, x, dtype=...)` copies it."""

    def reshaped(func: Any, x: Any, shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        return same_fn(func, x) if tuple(shape) == tuple(x.shape) else NotImplemented

    return {
        **dict.fromkeys((_aten.detach.default, _aten.alias.default), same_fn),
        **dict.fromkeys((_aten.clone.default, _aten._to_copy.default), copied_fn),
        **dict.fromkeys((_aten.view.default, _aten._unsafe_view.default, _aten.expand.default), reshaped),
        _aten.is_same_size.default: lambda func, a, b: tuple(a.shape) == tuple(b.shape),
    }
