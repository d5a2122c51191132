"""What a segmentation model is, to everything above: a differentiable tensor-to-logits network plus a `Spec`.

`Segmenter` is the final, general implementation: it lays a case on the network's grid (orientation, spacing,
normalisation) and remembers the linear maps there and back. Loaders of foreign models either fill in a `Spec` or
subclass `AbstractSegmenter` with a placement of their own.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lesionwise.errors import InputError
from lesionwise.fingerprint import fingerprint
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import AbstractGridMap, on_spacing, sizes_on_spacing
from lesionwise.geometry.volume import Case
from lesionwise.network import check_fits, full_resolution
from lesionwise.spec import FixedNormalisation, Spec
from lesionwise.types import Millimetres, Shape

__all__ = [
    "AbstractModuleSegmenter",
    "AbstractSegmenter",
    "FixedNormalisation",
    "Placement",
    "Segmenter",
    "Spec",
    "full_resolution",
    "select_channels",
    "zscore",
]
NOTES = ("note", "chosen", "lacking")
"""Entries of a model's card that are said with every answer: how it was read, why it was chosen, what it does without."""


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
    def preprocessing(self) -> tuple[str, ...]:
        """The steps before the network, in words, in order."""
        spec = self.spec
        lines = []
        if isinstance(spec.normalisation, FixedNormalisation):
            pairs = zip(spec.channels, spec.normalisation.mean, spec.normalisation.sd, strict=True)
            lines.append(
                "; ".join(f"{name}: minus {mean:g}, by {sd:g}" for name, mean, sd in pairs) + "; 0 outside the head"
            )
        elif callable(spec.normalisation):
            lines.append(f"normalised by {getattr(spec.normalisation, '__name__', type(spec.normalisation).__name__)}")
        elif spec.normalisation == "zscore":
            lines.append("each channel z-scored over the head, 0 outside")
        lines.append(f"turned to {spec.orientation}" if spec.orientation else "orientation as scanned")
        lines.append(
            f"resampled to {spec.spacing_mm:g} mm (linear)" if spec.spacing_mm is not None else "voxel size as scanned"
        )
        return tuple(lines)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about how the model was read or chosen that go with everything it says."""
        return tuple(str(self.spec.card[key]) for key in NOTES if key in self.spec.card)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a map: network, spec, preprocessing, and code of one's own (`lesionwise.fingerprint`)."""
        spec = replace(self.spec, card={})
        if is_dataclass(self):
            own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("module", "description")}
        else:
            own = {key: value for key, value in vars(self).items() if not isinstance(value, nn.Module)}
        return fingerprint(spec, self.network, type(self), own)


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
    """Any `torch.nn.Module` with a `Spec`: orientation, spacing and normalisation are applied as the spec says.

    Raises UnsupportedModelError if the network does not take the spec's window, or returns another number of classes.
    """

    def __post_init__(self) -> None:
        spec = self.spec
        check_fits(self.network, channels=len(spec.channels), outputs=spec.outputs, window=spec.window)

    def for_case(self, case: Case) -> "AbstractSegmenter":
        """Itself, or its network without the optional channels that the case lacks."""
        lacking = [name for name in self.spec.optional_channels if name not in case.image.channels]
        return without_channels(self, lacking) if lacking else self

    def place(self, case: Case) -> Placement:
        """Selects channels by name, normalises them in the head, lays them on the network's grid."""
        spec = self.spec
        image = normalised(select_channels(case, spec.channels), case.head, spec)
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
    note = (
        f"{names} was not given: the network sees 0 there, as in part of its training, and may miss or invent lesions that "
        "it would not with it."
    )
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


def normalised(image: np.ndarray, head: np.ndarray, spec: Spec) -> np.ndarray:
    """The channels (channels, i, j, k) in the network's units, float32.

    Raises InputError if a function of the user's does anything but stretch and shift the head's intensities, channel by
    channel: the way back to the scan's own units would not be known.
    """
    scheme = spec.normalisation
    if isinstance(scheme, str):
        return zscore(image, head) if scheme == "zscore" else image
    if isinstance(scheme, FixedNormalisation):
        pairs = zip(image, scheme.mean, scheme.sd, strict=True)
        return np.stack([np.where(head, (channel - mean) / sd, 0) for channel, mean, sd in pairs]).astype(np.float32)
    out = np.asarray(scheme(image.copy(), head), dtype=np.float32)
    if out.shape != image.shape or not np.isfinite(out).all():
        raise InputError(
            f"Expected the normalisation to give finite numbers of shape {image.shape}, found shape {out.shape}"
            f"{'' if np.isfinite(out).all() else ' with nan or infinite values'}."
        )
    for name, before, after in zip(spec.channels, image, out, strict=True):
        x, y = before[head].astype(float), after[head].astype(float)
        slope = np.cov(x, y)[0, 1] / max(x.var(ddof=1), 1e-30)
        if np.abs(y - y.mean() - slope * (x - x.mean())).max() > 1e-3 * max(y.std(), 1e-12):
            raise InputError(
                f"Expected the normalisation to stretch and shift {name} by constants within the head, found that it does "
                "more (clips, bends or smooths): subclass AbstractModuleSegmenter and say in place() how values return."
            )
    return out


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
