"""Radiomics of a lesion's map by mirp (IBSI), as published for FLAIR: the lesion and 2 mm around it.

The intensity families of IBSI: statistics, co-occurrence, run length, size zone, distance zone, neighbourhood
difference and dependence. Shape is not asked for here: it is a baseline of its own.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lesionwise.errors import MissingExtraError
from lesionwise.triage.scan import LesionView

RIM_MM = 2.0
BINS = 32
FAMILIES = ("statistics", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm")


def radiomic_features(
    view: LesionView, *, channels: tuple[str, ...], of: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Features `radiomics_<name>_<channel>` of the map; empty if the lesion was not explained.

    `of` picks channels (default: the first, as published). Maps are binned into 32 levels between their extremes in the
    region. Raises MissingExtraError without mirp.
    """
    try:
        from mirp import extract_features
    except ImportError as error:
        raise MissingExtraError.of("mirp", extra="radiomics", purpose="Radiomics of saliency maps") from error
    if view.map is None:
        return {}
    region = (view.inside | view.shell(0.0, RIM_MM)).astype(np.uint8)
    found: dict[str, float] = {}
    for channel in of or channels[:1]:
        values = view.map[channels.index(channel)]
        # mirp bins in absolute units: a map of tiny values is scaled first, which no feature here is meant to know.
        scale = float(np.abs(values[region > 0]).max())
        with _quiet():
            table = extract_features(
                image=(values / scale if scale > 0 else values).astype(np.float32),
                mask=region,
                image_modality="mr",
                by_slice=False,
                base_feature_families=list(FAMILIES),
                base_discretisation_method="fixed_bin_number",
                base_discretisation_n_bins=BINS,
            )[0]
        for name in table.columns:
            if not name.startswith(("image_", "sample_")):
                value = table[name].iloc[0]
                found[f"radiomics_{name}_{channel}"] = (
                    float(value) if isinstance(value, int | float | np.number) else float("nan")
                )
        found[f"radiomics_scale_{channel}"] = scale
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """mirp reports every lesion on stdout through the root logger, which it configures: left as it was found."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
        root.handlers[:] = handlers
        root.setLevel(level)
