"""What must be known about a network to predict with it and to explain it, checked when it is written down."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from lesionwise.errors import InputError
from lesionwise.types import Shape

Blending = Literal["gaussian", "constant"]
WindowRule = Literal["monai", "nnunet"]
Activation = Literal["softmax", "sigmoid"]
Scheme = Literal["zscore", "none"]
_ORIENTATION = re.compile("(?=.*[RL])(?=.*[AP])(?=.*[SI])[RLAPSI]{3}")


@dataclass(frozen=True)
class FixedNormalisation:
    """(x - mean) / SD with numbers of the training data, one per channel, in the units of the scan; 0 outside the head."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "sd"):
            value = getattr(self, name)
            if not (isinstance(value, list | tuple) and value and all(_is_number(v) for v in value)):
                raise InputError(f"Expected the normalisation's {name} as one number per channel, found {value!r}.")
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if len(self.mean) != len(self.sd) or not all(v > 0 for v in self.sd):
            raise InputError(
                f"Expected a mean and an SD above 0 for every channel, found mean {list(self.mean)}, sd {list(self.sd)}."
            )


NormaliseFn = Callable[[Float[np.ndarray, "channels i j k"], np.ndarray], Float[np.ndarray, "channels i j k"]]
"""Image (channels, i, j, k) and head mask (i, j, k) -> the image in the network's units. It must stretch and shift every
channel by constants, because a map is the derivative with those held fixed."""


@dataclass(frozen=True)
class Spec:
    """What must be known about a network.

    `window` is in voxels of the network's grid; `overlap` is the fraction shared by neighbouring windows;
    `sigma_scale` the standard deviation of the Gaussian importance as a fraction of the window. `classes` counts the
    logit channels. With `activation="softmax"` the lesion is class `lesion_class`; with "sigmoid" it is that channel
    on its own; several lesion classes are taken together (one of them, whichever). `threshold` is on the lesion
    probability; components smaller than `min_size_vox` voxels are dropped.
    An ensemble that averages probabilities has `members` above 1; its network returns their logits one after another
    along the channel axis, `members * classes` in all, because logits fuse linearly and probabilities do not.
    `orientation` (such as "RAS") and `spacing_mm` describe the grid the network was trained on; None leaves the scan's.
    `normalisation` is "zscore" over the head, "none", a `FixedNormalisation`, or a function (`NormaliseFn`).
    `receptive_field_vox` is the extent per axis beyond which an input cannot matter, None if unbounded or unknown.
    `cam_layer` is the module name that Grad-CAM++ looks at unless told otherwise. `optional_channels` are those that a
    scan may lack, because the network was trained to do without them (0 everywhere) at times.

    Raises InputError that says what a field may be and what was found.
    """

    name: str
    channels: tuple[str, ...]
    window: Shape
    overlap: float = 0.25
    blending: Blending = "gaussian"
    sigma_scale: float = 0.125
    placement: WindowRule = "monai"
    activation: Activation = "softmax"
    classes: int = 2
    lesion_class: int | tuple[int, ...] = 1
    members: int = 1
    threshold: float = 0.5
    min_size_vox: int = 6
    orientation: str | None = "RAS"
    spacing_mm: float | None = 1.0
    normalisation: Scheme | FixedNormalisation | Callable[..., Any] = "zscore"
    receptive_field_vox: Shape | None = None
    cam_layer: str | None = None
    optional_channels: tuple[str, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_channels()
        _set(self, "window", _three(self.window, "the window"))
        if self.receptive_field_vox is not None:
            _set(self, "receptive_field_vox", _three(self.receptive_field_vox, "receptive_field_vox"))
        _one_of("blending", self.blending, get_args(Blending))
        _one_of("placement", self.placement, get_args(WindowRule))
        _one_of("activation", self.activation, get_args(Activation))
        self._check_numbers()
        self._check_classes()
        self._check_normalisation()
        if self.orientation is not None and not (
            isinstance(self.orientation, str) and _ORIENTATION.fullmatch(self.orientation)
        ):
            raise InputError(
                f"Expected an orientation such as RAS or LPS (one letter of each pair R/L, A/P, S/I), or none to leave the "
                f"scan's, found {self.orientation!r}."
            )
        if self.spacing_mm is not None and not (_is_number(self.spacing_mm) and 0.05 <= self.spacing_mm <= 20):
            raise InputError(
                f"Expected a voxel size of 0.05 to 20 mm, or none to leave the scan's, found {self.spacing_mm!r}."
            )

    @property
    def lesion_classes(self) -> tuple[int, ...]:
        """The classes that count as lesion."""
        return (self.lesion_class,) if isinstance(self.lesion_class, int) else self.lesion_class

    @property
    def outputs(self) -> int:
        """Channels that the network returns: members times classes."""
        return self.members * self.classes

    def _check_channels(self) -> None:
        for name in ("channels", "optional_channels"):
            value = getattr(self, name)
            if not (isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value)):
                raise InputError(f"Expected {name} as a list of names, such as ['FLAIR', 'T1w'], found {value!r}.")
            _set(self, name, tuple(value))
        if not self.channels:
            raise InputError("A model needs at least one input channel, found none.")
        twice = sorted({name for name in self.channels if self.channels.count(name) > 1})
        if twice:
            raise InputError(
                f"Expected every channel's name once, found {twice[0]} twice in {', '.join(self.channels)}: name the "
                "inputs in order with ?channels=."
            )
        odd = [name for name in self.optional_channels if name not in self.channels]
        if odd or set(self.optional_channels) == set(self.channels):
            raise InputError(
                f"Optional channels must be some of {', '.join(self.channels)} and not all, "
                f"found {', '.join(self.optional_channels)}."
            )

    def _check_numbers(self) -> None:
        if not (_is_number(self.overlap) and 0 <= self.overlap < 1):
            raise InputError(f"Window overlap must be at least 0 and below 1, found {self.overlap!r}.")
        if not (_is_number(self.sigma_scale) and self.sigma_scale > 0):
            raise InputError(f"Expected sigma_scale as a fraction of the window above 0, found {self.sigma_scale!r}.")
        if not (_is_number(self.threshold) and 0 < self.threshold < 1):
            raise InputError(f"A probability threshold must lie between 0 and 1, found {self.threshold!r}.")
        for name, least in (("classes", 1), ("members", 1), ("min_size_vox", 0)):
            value = getattr(self, name)
            if not (_is_whole(value) and value >= least):
                raise InputError(f"Expected {name} as a whole number of at least {least}, found {value!r}.")

    def _check_classes(self) -> None:
        found = self.lesion_class
        several = tuple(found) if isinstance(found, list | tuple) else (found,)
        if not several or not all(_is_whole(k) and 0 <= k < self.classes for k in several):
            raise InputError(f"The lesion class must be one of 0..{self.classes - 1}, found {found!r}.")
        if len(set(several)) != len(several):
            raise InputError(f"Expected every lesion class once, found {list(several)}.")
        _set(self, "lesion_class", several if len(several) > 1 else several[0])
        if self.activation == "softmax" and self.classes < 2:
            raise InputError("A softmax needs at least two classes, found one: a single channel goes with a sigmoid.")
        if self.activation == "softmax" and len(several) == self.classes:
            raise InputError("Expected a class that is no lesion, found that all of them are.")

    def _check_normalisation(self) -> None:
        found: Any = self.normalisation
        if isinstance(found, Mapping):
            if set(found) != {"mean", "sd"}:
                raise InputError(f"Expected a normalisation with mean and sd, found {', '.join(map(str, found))}.")
            found = FixedNormalisation(**found)
            _set(self, "normalisation", found)
        if isinstance(found, FixedNormalisation):
            if len(found.mean) != len(self.channels):
                raise InputError(
                    f"Expected mean and SD for the channels {', '.join(self.channels)}, found {len(found.mean)} of each."
                )
        elif not callable(found):
            choices = "zscore, none, a mean and an SD per channel, or a function"
            if not (isinstance(found, str) and found in get_args(Scheme)):
                raise InputError(f"Expected the normalisation to be {choices}, found {found!r}.")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not (isinstance(value, str) and value in choices):
        raise InputError(f"Expected {name} to be {' or '.join(choices)}, found {value!r}.")


def _three(value: Any, what: str) -> Shape:
    if not (isinstance(value, list | tuple) and len(value) == 3 and all(_is_whole(n) and n > 0 for n in value)):
        raise InputError(
            f"Expected {what} as three whole numbers of voxels above 0, such as (96, 96, 96), found {value!r}."
        )
    return int(value[0]), int(value[1]), int(value[2])


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _set(spec: Spec, name: str, value: object) -> None:
    object.__setattr__(spec, name, value)
