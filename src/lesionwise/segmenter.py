"""What a segmentation model is, to everything above: a differentiable tensor-to-logits network plus a `Spec`.

`Segmenter` is the final, general implementation: it lays a case on the network's grid (orientation, spacing,
normalisation) and remembers the linear maps there and back. Loaders of foreign models either fill in a `Spec` or
subclass `AbstractSegmenter` with a placement of their own.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lesionwise.errors import InputError, UnsupportedModelError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import AbstractGridMap, on_spacing, sizes_on_spacing
from lesionwise.geometry.volume import Case
from lesionwise.types import Millimetres, Shape


@dataclass(frozen=True)
class Spec:
    """What must be known about a network to predict with it and to explain it.

    `window` is in voxels of the network's grid; `overlap` is the fraction shared by neighbouring windows;
    `sigma_scale` the standard deviation of the Gaussian importance as a fraction of the window. `classes` counts the
    logit channels. With `activation="softmax"` the lesion is class `lesion_class`; with "sigmoid" it is that channel
    on its own. `threshold` is on the lesion probability; components smaller than `min_size_vox` voxels are dropped.
    An ensemble that averages probabilities has `members` above 1; its network returns their logits one after another
    along the channel axis, `members * classes` in all, because logits fuse linearly and probabilities do not.
    `orientation` (such as "RAS") and `spacing_mm` describe the grid the network was trained on; None leaves the scan's.
    `receptive_field_vox` is the extent per axis beyond which an input cannot matter, None if unbounded or unknown.
    `cam_layer` is the module name that Grad-CAM++ looks at unless told otherwise. `optional_channels` are those that a
    scan may lack, because the network was trained to do without them (0 everywhere) at times.
    """

    name: str
    channels: tuple[str, ...]
    window: Shape
    overlap: float = 0.25
    blending: Literal["gaussian", "constant"] = "gaussian"
    sigma_scale: float = 0.125
    placement: Literal["monai", "nnunet"] = "monai"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    classes: int = 2
    lesion_class: int = 1
    members: int = 1
    threshold: float = 0.5
    min_size_vox: int = 6
    orientation: str | None = "RAS"
    spacing_mm: float | None = 1.0
    normalisation: Literal["zscore", "none"] = "zscore"
    receptive_field_vox: Shape | None = None
    cam_layer: str | None = None
    optional_channels: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.channels:
            raise InputError("A model needs at least one input channel, found none.")
        odd = [name for name in self.optional_channels if name not in self.channels]
        if odd or set(self.optional_channels) == set(self.channels):
            raise InputError(
                f"Optional channels must be some of {', '.join(self.channels)} and not all, "
                f"found {', '.join(self.optional_channels)}."
            )
        if not 0 <= self.overlap < 1:
            raise InputError(f"Window overlap must be at least 0 and below 1, found {self.overlap}.")
        if not 0 <= self.lesion_class < self.classes:
            raise InputError(f"The lesion class must be one of 0..{self.classes - 1}, found {self.lesion_class}.")
        if self.activation == "softmax" and self.classes < 2:
            raise InputError("A softmax needs at least two classes, found one: a single channel goes with a sigmoid.")


@dataclass(frozen=True, eq=False)
class Placement:
    """A case laid on the network's grid.

    `input` (1, channels, i, j, k) is exactly what windows are cut from; `head` marks its in-head voxels; `scale`
    (channels,) is each channel's in-head standard deviation in the units fed to the network. `to_network` took the
    scan to this grid; `to_scan` takes logits back to the scan's grid. `scan` (channels, i2, j2, k2) is the scan on its own
    grid in the units fed to the network, `scan_head` marks its in-head voxels; what is multiplied with a derivative, or
    taken away from the scan, is so there. `sizes_mm` are the voxel sizes of the network's grid, `scan_sizes_mm` of the
    scan's: distances are never counted in voxels. `passes` on the network's and
    `scan_passes` on the scan's grid are False where preprocessing clipped the intensity, so that the input does not
    follow the scan there; None if it clips nowhere.
    """

    input: Float[Tensor, "1 channels i j k"]
    head: Bool[Tensor, "i j k"]
    scale: Float[Tensor, " channels"]
    to_network: AbstractGridMap
    to_scan: AbstractGridMap
    scan: Float[Tensor, "channels i2 j2 k2"]
    scan_head: Bool[Tensor, "i2 j2 k2"]
    sizes_mm: Millimetres
    scan_sizes_mm: Millimetres
    passes: Bool[Tensor, "channels i j k"] | None = None
    scan_passes: Bool[Tensor, "channels i2 j2 k2"] | None = None

    def pull_back(self, gradient: Float[Tensor, "*lead channels i j k"]) -> Float[Tensor, "*lead channels i2 j2 k2"]:
        """Derivative with respect to the network's input -> target unit per SD of the scan's own voxels.

        M = R^T (g * sd_c), METHOD section 3.
        """
        scale = self.scale.to(gradient).reshape(-1, 1, 1, 1)
        if self.passes is not None:
            scale = scale * self.passes.to(gradient)
        pulled = self.to_network.adjoint(gradient * scale)
        return pulled if self.scan_passes is None else pulled * self.scan_passes.to(pulled)

    def pushed(
        self, change: Float[Tensor, "channels i j k"], box: Box
    ) -> tuple[Float[Tensor, "channels i2 j2 k2"], Box]:
        """What a change of the scan, which is 0 outside `box` of its grid, changes in the network's input, and where.

        The forward map R of which `pull_back` is the adjoint, where preprocessing clips nothing.
        """
        reached = self.to_network.support(box)
        if reached.is_empty:
            return change.new_zeros((len(change), *reached.shape)), reached
        part, source = self.to_network.restrict(reached)
        values = change.new_zeros((len(change), *source.shape))
        both = source.intersection(box)
        values[(slice(None), *both.relative_to(source).slices)] = change[(slice(None), *both.relative_to(box).slices)]
        moved = part.forward(values)
        if self.passes is not None:
            moved = moved * self.passes[(slice(None), *reached.slices)].to(moved)
        return moved, reached


class MeanOfViews(nn.Module, ABC):
    """A network whose logits are the mean over views of a window (mirrors, folds), each of which can be run alone."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many views there are."""

    @property
    @abstractmethod
    def wording(self) -> str:
        """What they are, such as "8 mirrors x 5 folds"."""

    @abstractmethod
    def one(self, x: Float[Tensor, "batch channels i j k"], view: int) -> Any:
        """Logits (batch, classes, i, j, k) of view number `view`."""

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch classes i j k"]:
        """Fused logits of a window."""
        fused = self.one(x, 0)
        for view in range(1, self.count):
            fused = fused + self.one(x, view)
        return fused / self.count


class AbstractSegmenter(ABC):
    """A model that can be explained: `network` (batch, channels, *window) -> logits (batch, classes, *window)."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What must be known about the network."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The differentiable network, without activation."""

    @abstractmethod
    def place(self, case: Case) -> Placement:
        """Lays a case on the network's grid, normalised as the network expects."""

    def for_case(self, case: Case) -> "AbstractSegmenter":
        """The model to ask about this case: itself, unless it has another for it.

        A cross-validated model answers with the network that has not seen the patient; a model with optional channels
        with one for the channels that the case has. Everything that predicts or explains a scan asks this first.
        """
        return self

    def prepare(self, case: Case) -> Float[Tensor, "1 channels i j k"]:
        """The exact input tensor that windows are cut from."""
        return self.place(case).input

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and the spec: two models with one fingerprint give one map."""
        return fingerprint(self.network, self.spec)


@dataclass(frozen=True, eq=False)
class AbstractModuleSegmenter(AbstractSegmenter):
    """A `torch.nn.Module` beside what is known about it; what is done before it is left to say."""

    module: nn.Module
    description: Spec

    @property
    def spec(self) -> Spec:
        """What must be known about the network."""
        return self.description

    @property
    def network(self) -> nn.Module:
        """The differentiable network, without activation."""
        return self.module


@dataclass(frozen=True, eq=False)
class Segmenter(AbstractModuleSegmenter):
    """Any `torch.nn.Module` with a `Spec`: orientation, spacing and z-score are applied as the spec says."""

    def for_case(self, case: Case) -> "AbstractSegmenter":
        """Itself, or its network without the optional channels that the case lacks."""
        lacking = [name for name in self.spec.optional_channels if name not in case.image.channels]
        return without_channels(self, lacking) if lacking else self

    def place(self, case: Case) -> Placement:
        """Selects channels by name, z-scores them in the head, lays them on the network's grid."""
        spec = self.spec
        image = select_channels(case, spec.channels)
        if spec.normalisation == "zscore":
            image = zscore(image, case.head)
        affine, shape = case.image.affine, case.image.shape
        maps = on_spacing(affine, shape, axes=spec.orientation, spacing_mm=spec.spacing_mm)
        sizes_mm = sizes_on_spacing(affine, shape, axes=spec.orientation, spacing_mm=spec.spacing_mm)
        return place_on(
            torch.from_numpy(image),
            torch.from_numpy(case.head),
            *maps,
            sizes_mm=sizes_mm,
            scan_sizes_mm=voxel_sizes_mm(affine),
        )


def without_channels(model: Segmenter, lacking: Sequence[str]) -> Segmenter:
    """The model for scans that lack some channels: the same numbers as with those channels 0 everywhere.

    Layers that read the input lose the weights of those channels, so that nothing is computed for them.
    """
    spec = model.spec
    kept = [n for n, name in enumerate(spec.channels) if name not in lacking]
    network = copy.deepcopy(model.network)
    if not _slice_input(network, kept, channels=len(spec.channels), window=spec.window):
        network = WithZeros(network, kept, len(spec.channels))
    channels = tuple(spec.channels[n] for n in kept)
    optional = tuple(name for name in spec.optional_channels if name in channels and len(channels) > 1)
    names = ", ".join(lacking)
    note = f"{names} was not given: the network sees 0 there, as in part of its training, and misses more than with it."
    card = {**spec.card, "lacking": note}
    return Segmenter(network.eval(), replace(spec, channels=channels, optional_channels=optional, card=card))


class WithZeros(nn.Module):
    """A network given some of its channels; the others are 0."""

    def __init__(self, network: nn.Module, kept: Sequence[int], channels: int) -> None:
        super().__init__()
        self.network, self.kept, self.channels = network, list(kept), channels

    def forward(self, x: Float[Tensor, "batch kept i j k"]) -> Any:
        """The network's output."""
        zero = torch.zeros_like(x[:, :1])
        parts = [x[:, [self.kept.index(n)]] if n in self.kept else zero for n in range(self.channels)]
        return self.network(torch.cat(parts, dim=1))


def _slice_input(network: nn.Module, kept: Sequence[int], *, channels: int, window: Shape) -> bool:
    """Takes the lacking channels' weights out of the convolutions that read the input, in place; False if others read it."""
    readers: list[nn.Module] = []
    x = torch.zeros((1, channels, *window))
    handles = [
        module.register_forward_pre_hook(lambda m, args: readers.append(m) if args and args[0] is x else None)
        for module in network.modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    plain = [m for m in readers if isinstance(m, nn.Conv3d) and m.groups == 1]
    if not readers or len(plain) != len(readers):
        return False
    for module in plain:
        module.weight = nn.Parameter(module.weight.detach()[:, list(kept)].clone(), requires_grad=False)
        module.in_channels = len(kept)
    return True


def select_channels(case: Case, channels: tuple[str, ...]) -> np.ndarray:
    """The case's channels (channels, i, j, k) in the network's order.

    Raises InputError that names what the network expects and what the case has.
    """
    missing = [name for name in channels if name not in case.image.channels]
    if missing:
        raise InputError(
            f"The model expects the channels {', '.join(channels)}, but the scan has {', '.join(case.image.channels)}: "
            f"{', '.join(missing)} is missing."
        )
    return case.image.data[[case.image.channels.index(name) for name in channels]]


def zscore(image: np.ndarray, head: np.ndarray) -> np.ndarray:
    """(x - mean) / SD of the in-head voxels per channel, 0 outside the head (METHOD section 1)."""
    out = np.zeros_like(image, dtype=np.float32)
    for target, source in zip(out, image, strict=True):
        inside = source[head].astype(np.float64)
        spread = inside.std()
        if not spread > 0:
            raise InputError(
                "An image channel has one and the same value everywhere in the head; expected a scan with contrast."
            )
        target[head] = (inside - inside.mean()) / spread
    return out


def place_on(
    image: Float[Tensor, "channels i j k"],
    head: Bool[Tensor, "i j k"],
    to_network: AbstractGridMap,
    to_scan: AbstractGridMap,
    *,
    sizes_mm: Millimetres,
    scan_sizes_mm: Millimetres,
) -> Placement:
    """Placement of a normalised image whose background is 0."""
    placed = to_network.forward(image)
    inside = to_network.forward(head.to(image.dtype)) > 0.5
    scale = torch.stack([channel[head].double().std(correction=0) for channel in image]).to(image.dtype)
    return Placement(
        placed[None].contiguous(), inside, scale, to_network, to_scan, image, head, sizes_mm, scan_sizes_mm
    )


def fingerprint(network: nn.Module, spec: Spec) -> str:
    """First 16 hex digits of a SHA-256 over the sorted weights (bytes, names, shapes) and the spec."""
    digest = hashlib.sha256(repr(sorted((k, v) for k, v in asdict(spec).items() if k != "card")).encode())
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().to("cpu").contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()[:16]


def full_resolution(output: Any, size: Sequence[int]) -> Float[Tensor, "batch outputs i j k"]:
    """The logits among what a network returns: a tensor, or the last of a list, tuple or dict that has the input's size.

    Deep supervision stacked along a second axis (batch, heads, outputs, i, j, k) counts as a list of heads. Raises
    UnsupportedModelError if there is none of that size.
    """
    wanted = tuple(size)
    found = output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        fitting = [part for part in output if isinstance(part, Tensor) and tuple(part.shape[2:]) == wanted]
        if not fitting:
            raise UnsupportedModelError(
                f"Expected logits of the window's size {wanted} among the network's {len(output)} outputs, found none."
            )
        found = fitting[-1]
    elif isinstance(output, Tensor) and output.ndim == 6:
        found = output[:, 0]
    if not isinstance(found, Tensor) or found.ndim != 5 or tuple(found.shape[2:]) != wanted:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UnsupportedModelError(
            f"Expected the network to return logits (batch, classes, *{wanted}) for a window of that size, found {what}."
        )
    return found
