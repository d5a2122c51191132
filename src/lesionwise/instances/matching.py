"""Which predicted lesions are true and which reference lesions were missed (METHOD section 1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.instances.components import SizeUnit, component_voxels, label_components, minimum_voxels
from lesionwise.instances.instance import Instance
from lesionwise.metrics import IOU_THRESHOLD, MatchRule, component_overlap
from lesionwise.types import Affine, MaskArray, Outcome, VoxelArray


@dataclass(frozen=True, eq=False)
class Matching:
    """Lesions, and how many reference lesions were met by predicted components below the minimum size only.

    These count as found (match first, then drop), so they are no false negatives; no predicted lesion stands for them.
    """

    instances: list[Instance]
    specks_only: int = 0


def find_instances(mask: MaskArray, *, affine: Affine, **options: Any) -> list[Instance]:
    """The lesions of `match_lesions`, which takes the same options."""
    return match_lesions(mask, affine=affine, **options).instances


def match_lesions(
    mask: MaskArray,
    *,
    affine: Affine,
    reference: Bool[np.ndarray, "_ _ _"] | None = None,
    connectivity: int = 18,
    min_size: int | float = 6,
    min_size_unit: SizeUnit = "voxels",
    rule: MatchRule = "overlap",
    iou_threshold: float = IOU_THRESHOLD,
    one_to_one: bool = False,
) -> Matching:
    """Lesions of a predicted mask, judged against a reference mask, and the reference lesions that were missed.

    First match, then drop: components are compared at full detail and only then those below `min_size` are left out, so
    that a speck of prediction on a reference lesion still means that the lesion was not missed.

    - `rule="overlap"` (published): a predicted component that shares a voxel with the reference is TP, else FP.
    - `rule="iou"`: TP if its best IoU reaches `iou_threshold`, US (under-segmented) if it is above 0, else FP.
    - FN: a reference component without a predicted voxel. With `one_to_one`, each component has at most one partner
      (the pairing with the largest sum of IoU), and what is left without one is FP or FN even where it overlaps.

    Without a reference every outcome is None. An empty reference makes all FP, an empty prediction all FN. Numbers
    start at 1: predicted lesions from large to small, then missed ones; equal sizes by scan order.

    Raises GridMismatchError if the masks differ in shape.
    """
    if reference is not None and reference.shape != mask.shape:
        raise GridMismatchError(f"The reference must have the prediction's shape {mask.shape}, not {reference.shape}.")
    least = minimum_voxels(min_size, unit=min_size_unit, affine=affine)
    predicted = label_components(mask, connectivity=connectivity)
    if reference is None:
        kept = _by_size(enumerate(component_voxels(predicted)), least=least)
        return Matching([Instance(label, voxels, affine) for label, (_, voxels) in enumerate(kept, start=1)])

    referenced = label_components(reference, connectivity=connectivity)
    overlap = component_overlap(predicted, referenced)
    iou, found_iou = overlap.one_to_one() if one_to_one else overlap.best()
    missed = found_iou == 0
    threshold = iou_threshold if rule == "iou" else 0.0
    found = _by_size(enumerate(component_voxels(predicted)), least=least)
    lost = _by_size(((n, v) for n, v in enumerate(component_voxels(referenced)) if missed[n]), least=least)
    instances = [
        Instance(
            label, voxels, affine, _outcome(iou[n], threshold), "prediction", float(iou[n]), overlap.covered(n + 1)
        )
        for label, (n, voxels) in enumerate(found, start=1)
    ]
    instances += [
        Instance(label, voxels, affine, "FN", "reference", reference_lesions=(n + 1,))
        for label, (n, voxels) in enumerate(lost, start=len(found) + 1)
    ]
    real = overlap.reference_vox >= least
    return Matching(instances, int((real & ~missed & ~overlap.reference_met(at_least_vox=least)).sum()))


@runtime_checkable
class Listed(Protocol):
    """What picking lesions needs to know of each: an `Instance`, or a row of a scan's table."""

    @property
    def label(self) -> int: ...

    @property
    def n_voxels(self) -> int: ...

    @property
    def outcome(self) -> str | None: ...

    @property
    def source(self) -> str: ...


One = TypeVar("One", bound=Listed)


def select(instances: list[One], lesions: str, *, seed: int = 0) -> list[One]:
    """Picks lesions as people ask for them: `all`, `largest:5`, `drawn:9`, or numbers such as `1,4`; order is kept.

    `largest` and `drawn` count lesions; control regions, which someone asked for by number, come along. `drawn` takes
    that many at random, as evenly over the outcomes (TP with US, FP, FN) as there are lesions, a function of `seed` alone.

    Raises InputError if the text cannot be read or a number does not exist.
    """
    kind, numbers = read_selection(lesions)
    if kind == "all":
        return instances
    if kind in ("largest", "drawn"):
        (count,) = numbers
        lesions_only = [one for one in instances if one.source != "control"]
        controls = [one for one in instances if one.source == "control"]
        chosen = _largest(lesions_only, count) if kind == "largest" else _drawn(lesions_only, count, seed)
        return sorted([*chosen, *controls], key=lambda one: one.label)
    absent = sorted(numbers - {one.label for one in instances})
    if absent:
        raise InputError(
            f"Lesions {', '.join(map(str, absent))} were asked for, but the scan has lesions 1 to "
            f"{max((one.label for one in instances), default=0)}."
        )
    return [one for one in instances if one.label in numbers]


def read_selection(lesions: str) -> tuple[str, set[int]]:
    """`largest:5` as ("largest", {5}), `1,4` as ("numbers", {1, 4}), `all` as ("all", {}).

    Raises InputError if the text cannot be read.
    """
    text = lesions.strip().lower()
    kind, _, count = text.partition(":")
    if text == "all":
        return "all", set()
    if kind in ("largest", "drawn") and count.isdigit():
        return kind, {int(count)}
    try:
        return "numbers", {int(part) for part in text.split(",")}
    except ValueError:
        raise InputError(
            f"Lesions must be 'all', 'largest:5', 'drawn:9' or numbers like '1,4', but are {lesions!r}."
        ) from None


def _largest(instances: list[One], count: int) -> list[One]:
    return sorted(instances, key=lambda one: (-one.n_voxels, one.label))[:count]


def _drawn(instances: list[One], count: int, seed: int) -> list[One]:
    """One of each outcome in turn, each outcome in a random order of its own, until there are `count`."""
    ranked: list[tuple[int, int, One]] = []
    for number, outcomes in enumerate((("TP", "US", None), ("FP",), ("FN",))):
        alike = [one for one in instances if one.outcome in outcomes]
        order = np.random.default_rng([seed, 31, number]).permutation(len(alike))
        ranked += [(turn, number, alike[place]) for turn, place in enumerate(order)]
    return [one for _, _, one in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def _outcome(iou: float, threshold: float) -> Outcome:
    if iou <= 0.0:
        return "FP"
    return "TP" if iou >= threshold else "US"


def _by_size(components: Iterable[tuple[int, VoxelArray]], *, least: float) -> list[tuple[int, VoxelArray]]:
    """Components of at least `least` voxels, large ones first; the sort is stable, so ties keep scan order."""
    kept = [(n, voxels) for n, voxels in components if len(voxels) >= least]
    return sorted(kept, key=lambda pair: -len(pair[1]))
