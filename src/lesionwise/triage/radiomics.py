"""Radiomics of a lesion's map by mirp, by the published recipe: the map z-scored, bins of fixed width, no shape.

Spagnolo 2026 takes the FLAIR map of reduction max, z-scored map by map, the lesion dilated by a cube of 5 voxels, bin width 10,
and 93 features of intensity and texture (pyradiomics' families; shape is off). The z-score discards the absolute scale: a strong
and a weak map of one shape have the same features. What it is taken over, and times what, is not said; here, the lesion and 10 mm
around it, and pyradiomics' usual factor of 100, without which bins of 10 would hold everything.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from scipy import ndimage

from lesionwise.errors import MissingExtraError
from lesionwise.triage.features import Feature
from lesionwise.triage.scan import LesionView

CUBE_VOX = 5
BIN_WIDTH = 10.0
SCALE = 100.0
FAMILIES = ("statistics", "glcm", "glrlm", "glszm", "ngtdm", "ngldm")


def features(names: Iterable[str]) -> list[Feature]:
    """The features of the family radiomics: whatever columns mirp made; they need its package and the maps."""
    return [Feature(name, "radiomics", "texture of the map", f"the radiomic feature {name}") for name in names]


def radiomic_features(
    view: LesionView, *, channels: tuple[str, ...], of: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Features `radiomics_<name>_<channel>` of the map; empty if the lesion was not explained.

    `of` picks channels (default: the first, as published). A map without any spread gives nan. Raises MissingExtraError
    without mirp.
    """
    try:
        from mirp import extract_features
    except ImportError as error:
        raise MissingExtraError.of("mirp", extra="radiomics", purpose="Radiomics of saliency maps") from error
    if view.map is None:
        return {}
    region = ndimage.binary_dilation(view.inside, structure=np.ones((CUBE_VOX,) * 3)).astype(np.uint8)
    found: dict[str, float] = {}
    for channel in of or channels[:1]:
        values = view.map[channels.index(channel)]
        spread = float(values.std())
        scored = SCALE * (values - values.mean()) / (spread if spread > 0 else 1.0)
        with _quiet():
            table = extract_features(
                image=scored.astype(np.float32),
                mask=region,
                image_modality="mr",
                by_slice=False,
                base_feature_families=list(FAMILIES),
                ibsi_compliant=False,  # the published recipe bins as pyradiomics does, which IBSI does not
                base_discretisation_method="fixed_bin_size_pyradiomics",  # as pyradiomics bins, from a multiple of the width
                base_discretisation_bin_width=BIN_WIDTH,
            )[0]
        for name in table.columns:
            if not name.startswith(("image_", "sample_")):
                value = table[name].iloc[0]
                found[f"radiomics_{name}_{channel}"] = (
                    float(value) if spread > 0 and isinstance(value, int | float | np.number) else float("nan")
                )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """mirp reports every lesion on stdout through the root logger, which it configures: left as it was found.

    It also warns that bins of fixed width are for calibrated units, which a z-scored map does not have: so is the recipe.
    """
    root, before = logging.getLogger(), logging.root.manager.disable
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"mirp\b")
            yield
    finally:
        logging.disable(before)
        root.handlers[:] = handlers
        root.setLevel(level)
