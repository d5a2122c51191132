"""Class activation maps of one instance: Grad-CAM++, HiResCAM and Seg-Grad-CAM, through windows (METHOD section 4).

They say where a layer's activations and the derivative of the instance's target agree. They are not quantitative, and
have one map for all input channels.
"""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.network import layer_named
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution, trimmed
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import UnsupportedModelError
from lesionwise.geometry.box import Box
from lesionwise.segmenter import Spec, full_resolution
from lesionwise.types import Shape

Activations = Float[Tensor, "filters i j k"]


@dataclass(frozen=True)
class AbstractActivationMap(AbstractMethod):
    """One map from a layer's activations A and g = dY/dA with Y = sum of y over Omega.

    `layer` is a module's dotted name; None takes the spec's, or else the last hidden layer at half resolution.
    """

    layer: str | None = None

    @property
    def quantitative(self) -> bool:
        """False: values depend on the layer's own scale."""
        return False

    def channels(self, spec: Spec) -> tuple[str, ...]:
        """One map for all input channels."""
        return ("all",)

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return "arbitrary"

    @abstractmethod
    def combine(self, activations: Activations, gradient: Activations) -> Float[Tensor, "i j k"]:
        """The map of one window at the layer's resolution."""

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        network = scene.runner.network
        name = self.layer or scene.spec.cam_layer or _last_hidden_layer(scene, sites)
        module = layer_named(network, name)
        by_number = {site.number: site for site in sites}
        for members in work.groups:
            group = [by_number[number] for number in members]
            began = time.perf_counter()
            values = scene.values(group)
            maps = {site.number: scene.padded.new_zeros(site.box.shape) for site in group}
            spreads = {site.number: site.readout.spread(_seeds(scene, site)) for site in group}
            for w in sorted({w for site in group for w in site.windows}):
                own = [site for site in group if w in site.windows]
                with activations_of(module) as caught:
                    leaf = scene.window(w)[None].clone().requires_grad_(True)
                    with torch.enable_grad():
                        logits = full_resolution(network(leaf * 1.0), leaf.shape[2:])
                    layer = caught.take(name)
                    for position, site in enumerate(own):
                        self._add_window(
                            scene, site, w, logits, layer, spreads[site.number], maps, last=position == len(own) - 1
                        )
            each = (time.perf_counter() - began) / max(len(group), 1)
            for site, y in zip(group, values, strict=True):
                yield site.number, _attribution(scene, site, maps[site.number], y, each, {"layer": name, **self.facts})
            work.done()

    @property
    def facts(self) -> dict[str, Any]:
        """What the sidecar says about the settings."""
        return {"quantitative": False}

    def _add_window(
        self,
        scene: Scene,
        site: Site,
        window: int,
        logits: Tensor,
        layer: Tensor,
        spread: Tensor,
        maps: dict[int, Tensor],
        *,
        last: bool,
    ) -> None:
        local, own = scene.in_window(window, site.readout.source)
        cotangent = torch.zeros_like(logits)
        cotangent[(0, slice(None), *local.slices)] = spread[(slice(None), *own.slices)] * scene.share(window, local)
        (gradient,) = torch.autograd.grad(logits, layer, cotangent, retain_graph=not last, allow_unused=True)
        if gradient is None:
            return
        size: Shape = scene.grid.window
        low = self.combine(_filters_first(layer.detach()[0], size), _filters_first(gradient[0], size))
        fine = torch.nn.functional.interpolate(low[None, None], size, mode="trilinear", align_corners=False)[0, 0]
        whole = Box.whole(size)
        box, inside = scene.in_volume(window, whole, fine * scene.share(window, whole))
        maps[site.number][box.relative_to(site.box).slices] += inside


@dataclass(frozen=True)
class GradCAMPlusPlus(AbstractActivationMap):
    """Grad-CAM++ (Chattopadhay 2018), weights kept where they are: pooling over space would mix other instances in.

    alpha_k = g^2 / (2 g^2 + S_k), 0 where the denominator is not positive. `denominator="paper"`: S_k = g^3 sum A_k;
    "monai": S_k = sum (A_k g^3), as the published scripts use it.
    """

    denominator: Literal["paper", "monai"] = "paper"

    @property
    def name(self) -> str:
        """Name in files."""
        return "gradcampp"

    @property
    def facts(self) -> dict[str, Any]:
        """What the sidecar says about the settings."""
        return {"quantitative": False, "denominator": self.denominator}

    def combine(self, activations: Activations, gradient: Activations) -> Float[Tensor, "i j k"]:
        """ReLU(sum_k alpha_k ReLU(g_k) A_k)."""
        square = gradient.square()
        space = (1, 2, 3)
        if self.denominator == "paper":
            rest = activations.sum(dim=space, keepdim=True) * square * gradient
        else:
            rest = (activations * square * gradient).sum(dim=space, keepdim=True)
        below = 2 * square + rest
        alpha = torch.where(below > 0, square / torch.where(below > 0, below, torch.ones_like(below)), 0.0)
        return torch.relu((alpha * torch.relu(gradient) * activations).sum(dim=0))


@dataclass(frozen=True)
class HiResCAM(AbstractActivationMap):
    """HiResCAM (Draelos 2020): sum_k g_k A_k, position by position, signed."""

    @property
    def name(self) -> str:
        """Name in files."""
        return "hirescam"

    def combine(self, activations: Activations, gradient: Activations) -> Float[Tensor, "i j k"]:
        """sum_k g_k A_k."""
        return (gradient * activations).sum(dim=0)


@dataclass(frozen=True)
class SegGradCAM(AbstractActivationMap):
    """Seg-Grad-CAM (Vinogradova 2020): ReLU(sum_k mean(g_k) A_k). Weights are pooled over space, so that activations of
    other lesions show too."""

    @property
    def name(self) -> str:
        """Name in files."""
        return "seggradcam"

    def combine(self, activations: Activations, gradient: Activations) -> Float[Tensor, "i j k"]:
        """ReLU(sum_k mean(g_k) A_k)."""
        return torch.relu((gradient.mean(dim=(1, 2, 3), keepdim=True) * activations).sum(dim=0))


class _Caught:
    """What a hooked layer returned last."""

    def __init__(self) -> None:
        self.output: Tensor | None = None

    def take(self, name: str) -> Tensor:
        """The activations, which the graph still leads to."""
        if self.output is None or not self.output.requires_grad:
            raise UnsupportedModelError(
                f"Layer {name!r} returned nothing that depends on the input; expected a layer on the way to the logits."
            )
        output, self.output = self.output, None
        return output


@contextmanager
def activations_of(module: nn.Module) -> Iterator[_Caught]:
    """Catches a layer's output inside the block, and leaves no hook behind.

    What follows the layer gets a copy: an activation that works in place cannot change what was caught.
    """
    caught = _Caught()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, (list, tuple)):
            caught.output = output[0]
            return type(output)([output[0].clone(), *output[1:]])
        caught.output = output
        return output.clone()

    handle = module.register_forward_hook(hook)
    try:
        yield caught
    finally:
        handle.remove()
        caught.output = None


def _seeds(scene: Scene, site: Site) -> Tensor:
    """dy/dz at Omega for the scan as it is."""
    fused = scene.fused([site])[0]
    return scene.target.seeds(fused, scene.spec)


def _attribution(
    scene: Scene, site: Site, values: Tensor, y: Tensor, seconds: float, details: dict[str, Any]
) -> Attribution:
    data, box = _image_on_scan(scene, site, values)
    array = data[None].cpu().numpy()
    trim = trimmed(box, array)
    cut = np.ascontiguousarray(array[(slice(None), *trim.relative_to(box).slices)])
    return Attribution(
        data=cut,
        box=trim,
        se=None,
        n_samples=1,
        converged=None,
        peak=array.max(axis=(1, 2, 3)),
        trough=array.min(axis=(1, 2, 3)),
        peak_se=None,
        trough_se=None,
        target_mean=float(y.mean()),
        sign_flip_fraction=None,
        seconds=seconds,
        details=details,
    )


def _image_on_scan(scene: Scene, site: Site, values: Tensor) -> tuple[Tensor, Box]:
    """An image (not a derivative) on the network's grid, interpolated to the scan's like the prediction is."""
    to_scan = scene.placement.to_scan
    box = to_scan.support(site.box)
    if site.box.is_empty or box.is_empty:
        box = Box.around(site.voxels[:1])
        return values.new_zeros(box.shape), box
    part, source = to_scan.restrict(box)
    image = values.new_zeros(source.shape)
    shared = source.intersection(site.box)
    image[shared.relative_to(source).slices] = values[shared.relative_to(site.box).slices]
    return part.forward(image), box


def _filters_first(x: Tensor, window: Shape) -> Tensor:
    """(filters, i, j, k) from activations with filters first or last, or from a list of tokens."""
    if x.ndim == 4 and _like(x.shape[1:], window):
        return x
    if x.ndim == 4 and _like(x.shape[:3], window):
        return x.permute(3, 0, 1, 2)
    if x.ndim == 2:
        for patch in (2, 4, 8, 16, 32):
            grid = [n // patch for n in window]
            if int(np.prod(grid)) == len(x):
                return x.T.reshape(-1, *grid)
    raise UnsupportedModelError(
        f"The layer's activations of shape {tuple(x.shape)} do not lie on a grid over the window {window}; "
        "expected (filters, i, j, k), (i, j, k, filters) or tokens."
    )


def _like(shape: Sequence[int], window: Shape) -> bool:
    """True if a grid is the window's, coarser by one factor along all axes."""
    factors = [w / max(n, 1) for n, w in zip(shape, window, strict=True)]
    return max(factors) / min(factors) < 1.3 and min(factors) >= 0.99


def _last_hidden_layer(scene: Scene, sites: Sequence[Site]) -> str:
    """The last layer, in the order of execution, with more filters than logits at half resolution; else at any."""
    network = scene.runner.network
    if isinstance(network, torch.jit.ScriptModule):
        layer_named(network, "")
    seen: list[tuple[str, tuple[int, ...]]] = []
    handles = []
    try:
        for name, module in network.named_modules():
            if name and not list(module.children()):

                def note(_module: Any, _inputs: Any, output: Any, name: str = name) -> None:
                    if isinstance(output, Tensor) and output.ndim == 5:
                        seen.append((name, tuple(output.shape[1:])))

                handles.append(module.register_forward_hook(note))
        scene.runner.logits(scene.window(next((w for site in sites for w in site.windows), 0))[None])
    finally:
        for handle in handles:
            handle.remove()
    logits = scene.spec.classes * scene.spec.members
    hidden = [(name, shape[1:]) for name, shape in seen if shape[0] > logits and _like(shape[1:], scene.grid.window)]
    half = [name for name, shape in hidden if shape == tuple((n + 1) // 2 for n in scene.grid.window)]
    if not hidden:
        raise UnsupportedModelError("Found no hidden layer for an activation map; expected the name of one.")
    return half[-1] if half else hidden[-1][0]
