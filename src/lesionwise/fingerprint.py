"""One hash over all that decides what a model answers: weights, structure, settings, and code that is not of a known package.

Two models with one fingerprint give one map; a model that could give another one must not share it.
"""

import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LENGTH = 16
KNOWN = (
    "torch",
    "monai",
    "lesionwise",
    "dynamic_network_architectures",
    "nnunetv2",
    "timm",
    "numpy",
    "builtins",
    "abc",
    "typing",
)
"""Packages whose classes are told by their name; the code of all others is part of the hash."""
_DEEPEST = 12
_IN_PLACE = re.compile(r"(, )?inplace(=(True|False))?")
"""Whether an activation works in place changes no value."""


def fingerprint(*parts: Any) -> str:
    """First 16 hex digits of a SHA-256 over the parts: see `describe` for what counts of each."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(describe(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:LENGTH]


def describe(value: Any, depth: int = 0) -> str:
    """Everything about a value that decides what it does, as text.

    Plain values, arrays and tensors by content; mappings, sequences and dataclasses part by part; networks module by
    module; functions and classes by name, and by their code where they are not of a `KNOWN` package. What else an object
    is goes by its class and attributes.
    """
    if value is None or isinstance(value, str | int | float | complex | bytes | PurePath | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, Enum | np.generic | np.dtype):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, np.ndarray):
        return f"array{value.shape}{value.dtype}{_sha(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, Tensor):
        return _tensor(value)
    if depth > _DEEPEST:
        return type(value).__qualname__
    if isinstance(value, nn.Module):
        return network(value)
    if isinstance(value, Mapping):
        return (
            "{" + ",".join(sorted(f"{describe(k, depth + 1)}:{describe(v, depth + 1)}" for k, v in value.items())) + "}"
        )
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(describe(item, depth + 1) for item in value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(describe(item, depth + 1) for item in value) + "]"
    if isinstance(value, type):
        return code_of(value)
    if isinstance(value, functools.partial):
        return describe((value.func, value.args, value.keywords), depth + 1)
    if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return _function(value, depth)
    return f"{code_of(type(value))}({_attributes(value, depth)})"


def code_of(kind: type) -> str:
    """A class by its name, with the code of its methods and of its bases where those are not of a `KNOWN` package."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    own = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in KNOWN]
    parts = [
        f"{key}={_function(getattr(member, '__func__', getattr(member, 'fget', member)), 1)}"
        for base in own
        for key, member in sorted(vars(base).items())
        if isinstance(member, types.FunctionType | classmethod | staticmethod | property)
    ]
    return f"{name}<{';'.join(parts)}>" if parts else name


def network(module: nn.Module) -> str:
    """A network: of every module its class, settings, parameters and buffers (also those that are not saved), hooks; the
    code of TorchScript, the graph of exported programs. Whether it is in training mode does not count.
    """
    lines = []
    for name, inner in module.named_modules():
        kind = str(getattr(inner, "original_name", "")) or code_of(type(inner))
        tensors = [*inner.named_parameters(recurse=False), *inner.named_buffers(recurse=False)]
        hooks = [*inner._forward_hooks.values(), *inner._forward_pre_hooks.values()]
        lines.append(
            f"{name}:{kind}({_settings(inner)})"
            + "".join(f"|{key}={_tensor(value)}" for key, value in sorted(tensors, key=lambda pair: pair[0]))
            + "".join(f"|hook={describe(hook, 1)}" for hook in hooks)
            + _program(inner)
        )
    return "\n".join(lines)


def _settings(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    if type(module).__module__.partition(".")[0] == "torch":
        return _IN_PLACE.sub("", module.extra_repr())
    settings = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in ("training", "inplace")}
    return ",".join(f"{key}={describe(value, 6)}" for key, value in sorted(settings.items()) if _is_setting(value))


def _is_setting(value: Any, depth: int = 0) -> bool:
    """False for what a network keeps from its last pass, and for objects whose content is not ours to read."""
    if depth > _DEEPEST or isinstance(value, nn.Module | Tensor):
        return False
    if isinstance(value, list | tuple):
        return all(_is_setting(item, depth + 1) for item in value)
    if isinstance(value, Mapping):
        return all(_is_setting(item, depth + 1) for item in value.values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_is_setting(getattr(value, f.name, None), depth + 1) for f in dataclasses.fields(value))
    plain = str | int | float | bool | torch.dtype | types.FunctionType | np.ndarray | type
    return value is None or isinstance(value, plain)


def _program(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        try:
            return f"|code={_sha(str(module.code).encode())}"
        except (RuntimeError, AttributeError):
            return ""
    graph = getattr(module, "graph", None)
    return f"|graph={_sha(str(graph).encode())}" if isinstance(graph, torch.fx.Graph) else ""


def _attributes(value: Any, depth: int) -> str:
    if dataclasses.is_dataclass(value):
        pairs: Iterable[tuple[str, Any]] = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    else:
        slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
        pairs = [*sorted(getattr(value, "__dict__", {}).items()), *((s, getattr(value, s, None)) for s in slots)]
    return ",".join(f"{key}={describe(item, depth + 1)}" for key, item in pairs)


def _function(function: Any, depth: int) -> str:
    code = getattr(function, "__code__", None)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
    if not isinstance(code, types.CodeType) or name.partition(".")[0] in KNOWN:
        return name
    bound = getattr(function, "__self__", None)
    closure = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    context = [*(getattr(function, "__defaults__", None) or ()), getattr(function, "__kwdefaults__", None), *closure]
    around = ",".join(describe(item, depth + 2) for item in context if not isinstance(item, type))
    return f"{name}:{_code(code)}({around}){'' if bound is None else describe(bound, depth + 2)}"


def _code(code: types.CodeType) -> str:
    constants = [_code(item) if isinstance(item, types.CodeType) else repr(item) for item in code.co_consts]
    return _sha(repr((code.co_code, code.co_names, code.co_varnames, constants)).encode())


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _tensor(value: Tensor) -> str:
    array = value.detach().to("cpu").contiguous()
    content = array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return f"tensor{tuple(array.shape)}{array.dtype}{_sha(content)}"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
