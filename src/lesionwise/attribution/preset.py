"""Named settings: what a paper did, so that it can be done again."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lesionwise.attribution.methods.cam import GradCAMPlusPlus
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.errors import InputError
from lesionwise.types import TargetName


@dataclass(frozen=True)
class Preset:
    """Settings of a published protocol. `thresholds` are on the lesion probability, by architecture."""

    name: str
    target: TargetName
    smoothgrad: SmoothGrad
    gradcampp: GradCAMPlusPlus
    connectivity: int
    min_size_vox: int
    thresholds: Mapping[str, float]
    citation: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "spagnolo2026": Preset(
            name="spagnolo2026",
            target="logit",
            smoothgrad=SmoothGrad(
                n_samples=50, reduce="max", noise=0.05, max_voxels=None, noise_rule="published", antithetic=False
            ),
            gradcampp=GradCAMPlusPlus(denominator="monai"),
            connectivity=18,
            min_size_vox=6,
            thresholds=MappingProxyType({"unet": 0.3, "dynunet": 0.4, "swinunetr": 0.4}),
            citation="Spagnolo et al., Sci Rep 2026, 10.1038/s41598-026-36560-9",
        )
    }
)


def preset(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise InputError(f"The preset must be one of {', '.join(PRESETS)}, found {name!r}.")
    return PRESETS[name]
