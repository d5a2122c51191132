"""Tissue of a scan: given masks, else three Gaussian classes of the T1w values."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.distance import depth_mm
from lesionwise.geometry.volume import Case
from lesionwise.types import MaskArray, Millimetres

T1W_NAMES = ("t1w", "t1", "mprage", "mp2rage", "uniden")
_MIXTURE_VOXELS = 50_000


@dataclass(frozen=True, eq=False)
class WhiteMatter:
    """White matter of a scan, where it comes from, and a sentence for tables and sidecars."""

    mask: MaskArray
    source: Literal["given", "mixture"]
    note: str


@dataclass(frozen=True, eq=False)
class Tissues:
    """White matter, grey matter and fluid of a scan, and where they come from."""

    white: MaskArray
    grey: MaskArray
    fluid: MaskArray
    source: Literal["given", "mixture"]
    note: str


def white_matter(case: Case, *, seed: int = 0) -> WhiteMatter:
    """White matter of a scan: the given mask `tissue["white_matter"]`, else the bright class of its T1w channel.

    Raises InputError if there is neither a mask nor a T1w channel.
    """
    given = case.tissue.get("white_matter")
    if given is not None:
        return WhiteMatter(given, "given", "White matter is from the given segmentation.")
    found = tissues(case, seed=seed)
    return WhiteMatter(found.white, found.source, found.note)


def tissues(case: Case, *, seed: int = 0) -> Tissues:
    """The three tissues: the given masks `white_matter`, `grey_matter` and `csf`, else a mixture of T1w values.

    Without them, three Gaussians are fitted to the T1w values of the inner head - deeper than a quarter of its greatest
    depth, so that scalp, fat and ringing left at the rim have no say. White matter is the brightest class up to three
    standard deviations above its mean, and of that the largest connected part; fluid is the darkest class. Lesions are
    dark on T1w and mostly fall outside white matter.

    Raises InputError if there are neither masks nor a T1w channel.
    """
    given = [case.tissue.get(name) for name in ("white_matter", "grey_matter", "csf")]
    white, grey, fluid = given
    if white is not None and grey is not None and fluid is not None:
        return Tissues(white, grey, fluid, "given", "Tissues are from the given segmentation.")
    names = [name for name in case.image.channels if name.lower() in T1W_NAMES]
    if not names:
        raise InputError(
            "Finding healthy tissue needs a white-matter mask or a T1w channel, but the scan has channels "
            f"{', '.join(case.image.channels)}."
        )
    values = case.image.channel(names[0])
    dark, bright, top = _cuts(values, case.head, sizes_mm=case.image.voxel_sizes_mm, seed=seed)
    mask = case.head & (values >= bright) & (values <= top)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    return Tissues(
        mask,
        case.head & (values >= dark) & (values < bright),
        case.head & (values < dark),
        "mixture",
        f"White matter is the brightest of three Gaussian classes of {names[0]} within the head.",
    )


def _cuts(
    values: Float32[np.ndarray, "i j k"], head: MaskArray, *, sizes_mm: Millimetres, seed: int
) -> tuple[float, float, float]:
    """Values between fluid and grey, between grey and white, and above which nothing is white matter."""
    from sklearn.mixture import GaussianMixture

    depth = depth_mm(head, sizes_mm)
    inner = values[depth > 0.25 * depth.max()].astype(np.float64)
    if inner.size < 3 or np.ptp(inner) == 0:
        raise InputError("White matter cannot be told apart: the T1w channel is constant within the head.")
    inner = np.clip(inner, *np.percentile(inner, [0.5, 99.5]))
    rng = np.random.default_rng(seed)
    sample = inner if inner.size <= _MIXTURE_VOXELS else rng.choice(inner, _MIXTURE_VOXELS, replace=False)
    floor = 1e-6 * float(np.var(sample))
    low, high = float(sample.min()), float(sample.max())
    # Where one tissue fills most of the head, percentiles find it twice: the likelier of two starts wins.
    starts = (np.percentile(sample, [2, 40, 80]), low + (high - low) * np.array([1, 3, 5]) / 6)
    fits = [
        GaussianMixture(3, means_init=start[:, None], random_state=seed, reg_covar=floor).fit(sample[:, None])
        for start in starts
    ]
    mixture = max(fits, key=lambda fit: float(fit.lower_bound_))
    dark, _, white = np.argsort(mixture.means_[:, 0])
    mean, deviation = float(mixture.means_[white, 0]), float(np.sqrt(mixture.covariances_[white, 0, 0]))
    # Between two means each class has its own side; beyond them a wide class could win again far from its mean.
    up_to_white = np.linspace(sample.min(), mean, 512)
    from_fluid = np.linspace(float(mixture.means_[dark, 0]), mean, 512)
    is_white = mixture.predict(up_to_white[:, None]) == white
    bright = up_to_white[int(np.argmax(is_white))] if is_white.any() else mean
    leaves = from_fluid[int(np.argmax(mixture.predict(from_fluid[:, None]) != dark))]
    return min(float(leaves), float(bright)), float(bright), mean + 3.0 * deviation
