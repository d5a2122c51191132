"""Everything that decides a training run, as one value: what is written to config.toml and must not change on resuming."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lesionwise.errors import InputError
from lesionwise.types import Shape

WIDTHS: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "published": [32, 64, 128, 256, 512],
        "compact": [24, 48, 96, 128, 160],
        "small": [16, 32, 64, 128],
        "tiny": [4, 8, 8],
    },
    "dynunet": {"published": [16, 32, 64], "small": [12, 24, 48], "tiny": [4, 8, 8]},
    "swinunetr": {"published": 24, "small": 12, "tiny": 12},
}
"""Filters per level (feature size for Swin UNETR) of each network at each size; "compact" is the built-in model's."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "small-data": {
        "augmentation": "wide",
        "loss": "dice-ce",
        "average": 0.99,
        "keep": "last",
        "copy_paste": 0.3,
        "channel_dropout": 0.15,
        "positive": 0.6,
    },
}
"""Recipes by name: what the paper did, and what a dozen patients ask for. Any setting can still be changed."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "augmentation": ("published", "wide"),
    "loss": ("published", "dice-ce"),
    "keep": ("best", "last"),
}
"""Allowed words of the settings that are words."""

DIVISOR = {"unet": 16, "dynunet": 4, "swinunetr": 32}
"""What every side of a patch must be a multiple of, at the published size."""


@dataclass(frozen=True)
class Recipe:
    """A training run.

    `patch` in voxels at `spacing_mm` ("scan" grids where None). An epoch is `steps` optimiser steps of `batch` patches,
    of which `positive` centre on a lesion voxel (published 4:1). The loss is `ndsc_weight` times the soft normalised
    Dice loss plus `focal_weight` times the focal loss with `focal_gamma`. Training ends after `epochs`, or when the
    normalised Dice of the validation patients has not risen for `patience` validations, one every `validate_every`
    epochs. `fold` of `folds` is held out for validation; with one fold, `validation` is the share of the patients, and
    0 trains on all of them.

    `augmentation` "wide" adds gamma, blur, noise, bias fields and simulated thick slices to the published one; a share
    `copy_paste` of the patches receives a lesion of another training patient, in a share `channel_dropout` one of the
    channels after the first is missing (0 everywhere). `loss` "dice-ce" is soft Dice plus cross-entropy.
    `average` is the decay per step of an exponential average of the weights, which is then what is kept (0: none).
    `keep` says whether the weights of the best validation or the last ones are the result: with few patients, the
    best of many validations flatters. A share `mix` of the patches comes from the patients of a second kind (synthetic
    ones). `start` names the model whose weights are the first ones.
    """

    network: str
    channels: tuple[str, ...] = ("FLAIR", "T1w")
    size: str = "published"
    patch: Shape = (96, 96, 96)
    spacing_mm: float | None = 1.0
    epochs: int = 300
    steps: int = 100
    batch: int = 2
    positive: float = 0.8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    ndsc_weight: float = 0.5
    focal_weight: float = 1.0
    focal_gamma: float = 2.0
    shift: float = 0.1
    scale: float = 0.1
    rotation_deg: float = 15.0
    zoom: float = 0.1
    precision: str = "auto"
    checkpointing: bool = True
    patience: int = 20
    validate_every: int = 5
    folds: int = 1
    fold: int = 0
    validation: float = 0.2
    seed: int = 0
    augmentation: str = "published"
    loss: str = "published"
    average: float = 0.0
    keep: str = "best"
    copy_paste: float = 0.0
    channel_dropout: float = 0.0
    mix: float = 0.0
    start: str = ""

    def __post_init__(self) -> None:
        if self.network not in WIDTHS:
            raise InputError(f"Expected --network to be one of {', '.join(WIDTHS)}, found {self.network}.")
        if self.size not in WIDTHS[self.network]:
            raise InputError(f"Expected --size to be one of {', '.join(WIDTHS[self.network])}, found {self.size}.")
        step = self.divisor
        if any(n < step or n % step for n in self.patch):
            raise InputError(f"Expected patch sides to be multiples of {step} for {self.network}, found {self.patch}.")
        if max(self.patch) == step:
            raise InputError(f"Expected a patch above {step} voxels for {self.network}, found {self.patch}.")
        if not 0 <= self.fold < self.folds:
            raise InputError(f"Expected --fold to be 0 to {self.folds - 1}, found {self.fold}.")
        if not 0 <= self.validation < 1:
            raise InputError(f"Expected a share of validation patients from 0 to below 1, found {self.validation}.")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"Expected {name} to be one of {', '.join(allowed)}, found {getattr(self, name)}.")
        for name in ("average", "copy_paste", "channel_dropout", "mix"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Expected {name} to be from 0 to below 1, found {getattr(self, name)}.")
        if min(self.epochs, self.steps, self.batch, self.patience, self.validate_every) < 1:
            raise InputError("Expected epochs, steps, batch, patience and validate-every to be at least 1.")

    @property
    def divisor(self) -> int:
        """What every patch side must be a multiple of."""
        if self.network == "unet":
            return 2 ** (len(WIDTHS["unet"][self.size]) - 1)
        return DIVISOR[self.network]

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """MONAI class name and its arguments, as they are written into the model's TOML."""
        width = WIDTHS[self.network][self.size]
        channels = len(self.channels)
        if self.network == "unet":
            return "monai.networks.nets.UNet", {
                "spatial_dims": 3,
                "in_channels": channels,
                "out_channels": 2,
                "channels": list(width),
                "strides": [2] * (len(width) - 1),
                "norm": "batch",
                "num_res_units": 0,
            }
        if self.network == "dynunet":
            levels = len(width)
            return "monai.networks.nets.DynUNet", {
                "spatial_dims": 3,
                "in_channels": channels,
                "out_channels": 2,
                "kernel_size": [3] * levels,
                "strides": [1] + [2] * (levels - 1),
                "upsample_kernel_size": [2] * (levels - 1),
                "filters": list(width),
                "norm_name": "instance",
                "res_block": True,
            }
        return "monai.networks.nets.SwinUNETR", {"in_channels": channels, "out_channels": 2, "feature_size": width}

    @classmethod
    def named(cls, preset: str, network: str, **settings: Any) -> "Recipe":
        """The recipe of a preset with some settings changed. Raises InputError for an unknown preset."""
        if preset not in PRESETS:
            raise InputError(f"Expected --recipe to be one of {', '.join(PRESETS)}, found {preset}.")
        return cls(network, **{**PRESETS[preset], **settings})

    def table(self) -> dict[str, Any]:
        """Plain values for TOML; None is left out."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: "scan" if value is None else value for key, value in plain.items()}

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Recipe":
        """The recipe in a TOML table."""
        values = dict(table)
        for key in ("channels", "patch"):
            values[key] = tuple(values[key])
        if values.get("spacing_mm") == "scan":
            values["spacing_mm"] = None
        return cls(**values)

    def differences(self, other: "Recipe") -> list[str]:
        """Names of the settings in which two runs differ; more epochs or patience still is the same run."""
        same = replace(other, epochs=self.epochs, patience=self.patience)
        return [key for key, value in asdict(self).items() if value != asdict(same)[key]]
