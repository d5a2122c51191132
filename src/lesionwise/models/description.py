"""What a loaded model is, for people: channels, window, classes, preprocessing, layers that Grad-CAM can look at."""

from dataclasses import dataclass
from typing import Any

import torch

from lesionwise.models.architecture import Layer, probe
from lesionwise.segmenter import AbstractSegmenter, Spec


@dataclass(frozen=True)
class Description:
    """A model's spec with what its network shows: size, layers, whether hooks work.

    `parameters` counts weights; `layers` are the modules with a spatial output, in the order they run (empty where
    hooks do not work, as in TorchScript); `preprocessing` is a sentence per step, in order.
    """

    spec: Spec
    network: str
    parameters: int
    fingerprint: str
    preprocessing: tuple[str, ...]
    layers: tuple[Layer, ...]
    cam: bool

    def rows(self) -> list[tuple[str, str]]:
        """Label and text, as `lesionwise models show` prints them."""
        spec = self.spec
        default = spec.cam_layer or "the last hidden one at half resolution"
        return [
            ("model", spec.name),
            ("network", f"{self.network}, {self.parameters:,} parameters"),
            ("fingerprint", self.fingerprint),
            ("channels", ", ".join(spec.channels)),
            ("window", f"{_times(spec.window)} voxels, overlap {spec.overlap:g}, {spec.blending} weights"),
            ("classes", f"{spec.classes}, lesion class {spec.lesion_class}, {spec.activation}"),
            ("threshold", f"{spec.threshold:g}, lesions of at least {spec.min_size_vox} voxels"),
            *(("preprocessing" if n == 0 else "", step) for n, step in enumerate(self.preprocessing)),
            ("Grad-CAM", f"default layer: {default}" if self.cam else "not possible: this format allows no hooks"),
            *((str(key), str(value)) for key, value in sorted(spec.card.items())),
        ]


def describe(model: AbstractSegmenter) -> Description:
    """Looks a model over without running it on data."""
    spec, network = model.spec, model.network
    seen = probe(network, channels=len(spec.channels), window=spec.window)
    hooks = not any(isinstance(m, torch.jit.ScriptModule) for m in network.modules())
    return Description(
        spec=spec,
        network=_class_name(network),
        parameters=sum(p.numel() for p in network.parameters()),
        fingerprint=model.fingerprint,
        preprocessing=_steps(model),
        layers=tuple(seen[1]) if seen is not None and hooks else (),
        cam=hooks,
    )


def _steps(model: AbstractSegmenter) -> tuple[str, ...]:
    steps: Any = getattr(model, "preprocessing", None)
    if steps is not None:
        return tuple(steps)
    spec = model.spec
    lines = []
    if spec.normalisation == "zscore":
        lines.append("each channel z-scored over the head, 0 outside")
    lines.append(f"turned to {spec.orientation}" if spec.orientation else "orientation as scanned")
    lines.append(
        f"resampled to {spec.spacing_mm:g} mm (linear)" if spec.spacing_mm is not None else "voxel size as scanned"
    )
    return tuple(lines)


def _class_name(network: torch.nn.Module) -> str:
    inner = getattr(network, "network", network)
    return str(getattr(inner, "original_name", type(inner).__name__))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
