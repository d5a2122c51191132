"""What a loaded model is, for people: channels, window, classes, preprocessing, layers that Grad-CAM can look at."""

from dataclasses import dataclass

import torch

from lesionwise.network import Layer, probe
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
            ("classes", f"{_classes(spec)}; {spec.activation}"),
            ("threshold", f"{spec.threshold:g}, lesions of at least {spec.min_size_vox} voxels"),
            *(("preprocessing" if n == 0 else "", step) for n, step in enumerate(self.preprocessing)),
            ("Grad-CAM", f"default layer: {default}" if self.cam else "not possible: this format allows no hooks"),
            *((str(key), str(value)) for key, value in sorted(spec.card.items()) if key != "class_names"),
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
        preprocessing=model.preprocessing,
        layers=tuple(seen[1]) if seen is not None and hooks else (),
        cam=hooks,
    )


def _classes(spec: Spec) -> str:
    """Number of classes, by name where they are known, and which of them are the lesion."""
    names = [str(name) for name in spec.card.get("class_names", [])]
    lesion = " or ".join(names[k] if k < len(names) else str(k) for k in spec.lesion_classes)
    listed = f" ({', '.join(names)})" if names else ""
    return f"{spec.classes}{listed}, lesion: {lesion}"


def _class_name(network: torch.nn.Module) -> str:
    inner = getattr(network, "network", network)
    return str(getattr(inner, "original_name", type(inner).__name__))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
