"""What a prepared scan is measured by, and the sentences where a measure is not as it should be."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from lesionwise.geometry.affine import closest_axes, to_mm, voxel_sizes_mm, voxel_volume_mm3
from lesionwise.metrics import dice
from lesionwise.prepare.registration import Rigid
from lesionwise.types import Affine, MaskArray

MEASURES: Mapping[str, str] = {
    "brain_ml": "Volume of the brain mask in ml (adults: 1000 to 1900)",
    "brain_solidity": "Volume of the brain mask over that of its convex hull (a brain: about 0.9; less with face or neck)",
    "brain_cut": "Largest area of brain on an outer slice over that on any slice: above 0 the field of view ends in it",
    "brain_agreement": "Dice of the brains found in the two channels apart, after alignment (1: the same)",
    "head_agreement": "Dice of the two channels' heads, after alignment, where both were scanned (1: the same)",
    "covered": "Share of the brain that the moved channel covers",
    "moved_mm": "Largest shift of the moved channel at the brain's surface, in mm, against the headers",
    "turned_degrees": "Angle of its rotation against the headers",
    "information_before": "Mutual information of the channels in the brain by the headers alone, in nats (higher is better)",
    "information_after": "The same after alignment",
    "information_mirrored": "The same for the best alignment of the moved channel's mirror image",
    "bias_fixed": "Brightness of the bias field in the fixed channel, 95th over 5th percentile in the brain (1: none)",
    "bias_moved": "The same in the moved channel",
}
"""Measures of a prepared scan, with unit and direction; those that do not apply are missing."""

BRAIN_ML = (900.0, 2000.0)
BRAIN_ML_ASIDE = (650.0, 2300.0)
SOLID = 0.85
SOLID_ASIDE = 0.75
CUT = 0.25
AGREE = 0.92
AGREE_ASIDE = 0.80
HEADS_AGREE = 0.7
COVERED = 0.98
COVERED_ASIDE = 0.80
FAR_MM = 20.0
WORSE = 0.03
FAINT_INFORMATION = 0.15
"""Bounds of the measures, chosen by hand after a look at the few real scans of docs/prepare.md, which went well. How
often they miss a scan that went wrong, or doubt one that did not, is not known."""


@dataclass(frozen=True)
class Doubt:
    """A sentence about what may be wrong with a prepared scan; `aside` if it must not be used until a person has looked."""

    sentence: str
    aside: bool = False


@dataclass(frozen=True)
class Quality:
    """Measures of a prepared scan (see `MEASURES`) and the doubts that they raise."""

    measures: Mapping[str, float] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()

    @property
    def set_aside(self) -> bool:
        """True if a person must look before the scan is used."""
        return any(doubt.aside for doubt in self.doubts)


def measure_brain(brain: MaskArray, affine: Affine) -> dict[str, float]:
    """Size and shape of a brain mask (i, j, k) without an empty one."""
    points = to_mm(np.argwhere(brain & ~ndimage.binary_erosion(brain)), affine)
    volume_mm3 = float(brain.sum()) * voxel_volume_mm3(affine)
    # the hull of voxel centres misses half a voxel all around
    hull = ConvexHull(points)
    hull_mm3 = hull.volume + hull.area * float(np.mean(voxel_sizes_mm(affine))) / 2
    through = closest_axes(affine)[0].index(2)
    areas = brain.sum(axis=tuple(axis for axis in range(3) if axis != through))
    return {
        "brain_ml": volume_mm3 / 1000,
        "brain_solidity": volume_mm3 / hull_mm3,
        "brain_cut": float(areas[-1] if affine[2, through] > 0 else areas[0]) / float(areas.max()),
    }


def measure_alignment(
    rigid: Rigid,
    brain: MaskArray,
    affine: Affine,
    *,
    brains: tuple[MaskArray, MaskArray],
    heads: tuple[MaskArray, MaskArray],
    covered: MaskArray,
    comparable: bool = True,
) -> dict[str, float]:
    """How well two channels fit; all masks (i, j, k) lie on the fixed channel's grid.

    `brains` and `heads` are those of the fixed and of the moved channel, `covered` is where the moved one was scanned.
    Heads are not `comparable` if one of them came with the brain alone.
    """
    surface = to_mm(np.argwhere(brain & ~ndimage.binary_erosion(brain)), affine)
    head_agreement = {"head_agreement": dice(heads[0] & covered, heads[1] & covered)} if comparable else {}
    return {
        "brain_agreement": dice(brains[0] & covered, brains[1] & covered),
        **head_agreement,
        "covered": float((brain & covered).sum() / brain.sum()),
        "moved_mm": float(rigid.moved_mm(surface).max()),
        "turned_degrees": rigid.degrees,
        "information_before": rigid.information_before,
        "information_after": rigid.information_after,
        "information_mirrored": rigid.information_mirrored,
    }


def judge(measures: Mapping[str, float], *, fixed: str = "", moved: str | None = None) -> Quality:
    """The doubts that the measures raise, the gravest first; `fixed` and `moved` are the channels' names."""
    doubts = [*_of_brain(measures), *([] if moved is None else _of_alignment(measures, fixed, moved))]
    return Quality(dict(measures), tuple(sorted(doubts, key=lambda doubt: not doubt.aside)))


def _of_brain(m: Mapping[str, float]) -> list[Doubt]:
    doubts = []
    low, high = BRAIN_ML
    if not low <= m["brain_ml"] <= high:
        aside = not BRAIN_ML_ASIDE[0] <= m["brain_ml"] <= BRAIN_ML_ASIDE[1]
        doubts.append(
            Doubt(
                f"The brain mask holds {m['brain_ml']:.0f} ml, where {low:.0f} to {high:.0f} are usual in adults.",
                aside,
            )
        )
    if m["brain_solidity"] < SOLID:
        doubts.append(
            Doubt(
                f"The brain mask fills {100 * m['brain_solidity']:.0f} % of its convex hull (a brain about 90 %): "
                "part of a face or neck may be left in it, or part of the brain missing.",
                m["brain_solidity"] < SOLID_ASIDE,
            )
        )
    if m["brain_cut"] > CUT:
        doubts.append(Doubt("The field of view ends inside the brain: lesions beyond it cannot be seen."))
    return doubts


def _of_alignment(m: Mapping[str, float], fixed: str, moved: str) -> list[Doubt]:
    doubts = []
    if m["information_mirrored"] >= m["information_after"]:
        doubts.append(
            Doubt(
                f"{moved} agrees better with {fixed} as its own mirror image: one of the two is stored with left and "
                "right exchanged.",
                True,
            )
        )
    if m["information_after"] < (1 - WORSE) * m["information_before"]:
        doubts.append(
            Doubt(
                f"Alignment did not improve on the headers (mutual information {m['information_before']:.2f} before, "
                f"{m['information_after']:.2f} after): look at the figure.",
            )
        )
    if m["information_after"] < FAINT_INFORMATION:
        doubts.append(
            Doubt(
                f"{moved} and {fixed} have little in common after alignment (mutual information "
                f"{m['information_after']:.2f}): they may be of two people, or the alignment failed.",
                True,
            )
        )
    if m["brain_agreement"] < AGREE:
        doubts.append(
            Doubt(
                f"The brains found in {fixed} and in {moved} overlap by {m['brain_agreement']:.2f} only (Dice): the "
                "alignment or one of the extractions may have failed.",
                m["brain_agreement"] < AGREE_ASIDE,
            )
        )
    if m.get("head_agreement", 1.0) < HEADS_AGREE:
        doubts.append(Doubt(f"The heads of {fixed} and {moved} overlap by {m['head_agreement']:.2f} only (Dice)."))
    if m["covered"] < COVERED:
        doubts.append(
            Doubt(
                f"{moved} covers {100 * m['covered']:.0f} % of the brain; it is 0 elsewhere.",
                m["covered"] < COVERED_ASIDE,
            )
        )
    if m["moved_mm"] > FAR_MM:
        doubts.append(
            Doubt(f"{moved} had to be moved by up to {m['moved_mm']:.0f} mm, more than people move in a scanner.")
        )
    return doubts
