"""Networks built from a name and plain arguments, and weights put into them strictly.

Only classes of `monai.networks.nets` can be named, and only with numbers, strings and lists of them: a file that names
an architecture cannot make anything else run.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import ModelFileError, UnsupportedModelError, with_words_of
from lesionwise.network import answer, check_fits, full_resolution, without_in_place
from lesionwise.types import Shape

ALLOWED_PACKAGE = "monai.networks.nets"
"""The only package whose classes a model file may name."""

PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""What DataParallel, torch.compile and trainers put before every weight's name."""

OBSOLETE_ARGUMENTS = ("img_size",)
"""Arguments that older versions of a class took and that decide nothing: dropped where the class does not know them."""

FORBIDDEN_ARGUMENTS = ("pretrained", "pretrained_path", "weights", "ckpt_path", "device")
"""Arguments that would fetch or read other files."""


def build(class_name: str, arguments: Mapping[str, Any], *, where: str) -> nn.Module:
    """The network `class_name` (such as "monai.networks.nets.UNet") with plain keyword arguments.

    `where` names the file in messages. Raises ModelFileError if the class is not on the allow-list, unknown, or does
    not take these arguments.
    """
    import monai.networks.nets as nets

    package, _, short = class_name.rpartition(".")
    network_class: Any = getattr(nets, short, None)
    known = isinstance(network_class, type) and issubclass(network_class, nn.Module)
    if not known or package not in (ALLOWED_PACKAGE, "", network_class.__module__):
        raise ModelFileError(f"Expected a network class of {ALLOWED_PACKAGE}, found {class_name} in {where}.")
    if not isinstance(arguments, Mapping):
        raise ModelFileError(f"Expected the network's arguments by name in {where}, found something else.")
    odd = [name for name, value in arguments.items() if name in FORBIDDEN_ARGUMENTS or not _is_plain(value)]
    if odd:
        raise ModelFileError(f"Expected plain numbers, strings and lists as arguments, found {odd[0]} in {where}.")
    taken = inspect.signature(network_class).parameters
    given = {name: value for name, value in arguments.items() if name not in OBSOLETE_ARGUMENTS or name in taken}
    unknown = sorted(given.keys() - taken.keys())
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        raise ModelFileError(f"Expected arguments that {class_name} takes, found {unknown[0]} in {where}.")
    try:
        return network_class(**given)
    except (ValueError, AssertionError) as error:  # what the class itself says of its arguments
        said = with_words_of(error)
        raise ModelFileError(f"{class_name} cannot be built with the arguments in {where}{said}") from error
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ModelFileError(f"{class_name} cannot be built with the arguments in {where}.") from error


def load_weights(network: nn.Module, state: Mapping[str, Any], *, where: str) -> nn.Module:
    """Puts weights into a network, every one of them, and returns it in evaluation mode.

    Prefixes left by wrappers are stripped. Raises ModelFileError that lists what is missing, left over or of another
    shape.
    """
    wanted = network.state_dict()
    found = match_prefix({k: v for k, v in state.items() if isinstance(v, Tensor)}, wanted)
    complaints = difference(found, wanted)
    if complaints:
        raise ModelFileError(f"The weights in {where} do not fit {type(network).__name__}: {complaints}.")
    network.load_state_dict(found, strict=True)
    return network.eval().requires_grad_(False)


def match_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights with wrapper prefixes stripped as long as that makes more names fit."""
    best = dict(state)
    current = best
    for _ in range(4):
        stripped = _strip_one(current)
        if stripped is None:
            break
        current = stripped
        if len(current.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best = current
    return best


def difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A readable difference of two sets of weights, empty if there is none."""
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{k} is {tuple(found[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in sorted(found.keys() & wanted.keys())
        if found[k].shape != wanted[k].shape
    ]
    parts = []
    for what, names in (("missing", missing), ("left over", extra), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
    return "; ".join(parts)


class FullResolution(nn.Module):
    """A network whose list, tuple or dict of outputs is reduced to the one at full resolution.

    Deep supervision heads come first-to-last or last-to-first; of those with the input's size the last is taken (nested
    U-Nets end with their deepest head; everyone else has just one).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch classes i j k"]:
        """Logits at full resolution."""
        return full_resolution(self.network(x), x.shape[2:])


def checked(network: nn.Module, *, channels: int, classes: int, window: Shape, where: str) -> nn.Module:
    """The network, unwrapped to one full-resolution output and without in-place activations.

    Raises ModelFileError if it returns another number of channels than `classes` or another size than `window`.
    """
    network = without_in_place(network)
    try:
        output = answer(network, channels=channels, window=window)
        if not isinstance(output, Tensor):
            output, network = full_resolution(output, window), FullResolution(network)
        check_fits(network, channels=channels, outputs=classes, window=window)
    except UnsupportedModelError as error:
        raise ModelFileError(f"The network in {where} does not fit its description: {error}") from error
    return network


def _strip_one(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Takes one wrapper prefix off every name that has it; None if no name has any."""
    out, changed = {}, False
    for name, value in state.items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), "")
        out[name[len(prefix) :]] = value
        changed = changed or bool(prefix)
    return out if changed and len(out) == len(state) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)
