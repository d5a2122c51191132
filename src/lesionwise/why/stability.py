"""Does an explanation stay when what should not matter is changed: other networks of the model, mirror image, other noise?

A standard error of a map knows the noise draws only. Here the effect of every channel on a lesion, and the decision about it,
are asked again of each member of an ensemble (or each view of a model that averages views), of the image mirrored left to
right, and under other seeds of the noise. Scans of another day are compared by `lesionwise experiment sanity`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from lesionwise.asking.scan import Scan
from lesionwise.asking.variants import Mirrored, networks_alone
from lesionwise.attribution import SmoothGrad
from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.volume import Case
from lesionwise.instances.instance import Instance
from lesionwise.segmenter import AbstractSegmenter, Placement, Spec
from lesionwise.why.question import Question

KINDS = ("networks", "mirrored", "seeds")
SEEDS = 2
"""Further seeds of the noise."""
MOST_VIEWS = 8
"""Views of a model that averages many (mirrors x folds) which are asked alone, evenly spread over them."""
SAME_SIZE = 2.0
"""Effects within this factor of one another count as the same."""
VERDICTS = ("stable", "size differs", "sign differs", "decision differs")


@dataclass(frozen=True, eq=False)
class Variant(AbstractSegmenter):
    """One member of a model, or the model before a mirrored scan, on the grid of a scan that lies there already."""

    kind: str
    description: Spec
    module: nn.Module
    placement: Placement

    @property
    def spec(self) -> Spec:
        """That of the model, with a single member."""
        return self.description

    @property
    def network(self) -> nn.Module:
        """The member."""
        return self.module

    def place(self, case: Case) -> Placement:
        """The scan as the model lays it."""
        return self.placement


@dataclass(frozen=True)
class Opinion:
    """What one variant says of a lesion: whether it is found (None where only the noise differs), and each channel's effect."""

    kind: str
    found: bool | None
    effects: tuple[float, ...]


@dataclass(frozen=True)
class Stability:
    """All that the variants say of one lesion, the whole model (`kind` "model") first."""

    channels: tuple[str, ...]
    told: tuple[Opinion, ...]

    @property
    def whole(self) -> Opinion:
        """What the whole model says."""
        return self.told[0]

    def of(self, kind: str) -> list[Opinion]:
        """The variants of one kind."""
        return [one for one in self.told if one.kind == kind]

    @cached_property
    def leading(self) -> int:
        """The channel with the largest effect."""
        return int(np.argmax(np.abs(self.whole.effects)))

    @property
    def verdict(self) -> str:
        """The worst that holds of `VERDICTS`: another decision, another sign or another size of the leading effect."""
        return VERDICTS[max(self._worst(one) for one in self.told)]

    @property
    def source(self) -> str:
        """The kind of variant that departs most; empty if the lesion is stable."""
        worst = max(self._worst(one) for one in self.told)
        return "" if worst == 0 else next(one.kind for one in self.told if self._worst(one) == worst)

    def _worst(self, one: Opinion) -> int:
        if one.found is not None and one.found != self.whole.found:
            return 3
        own, other = self.whole.effects[self.leading], one.effects[self.leading]
        if own * other <= 0:
            return 2
        return int(not 1 / SAME_SIZE <= other / own <= SAME_SIZE)


def stability_of(scan: Scan, instance: Instance, *, samples: int) -> Stability:
    """Asks every variant about one lesion; `samples` are the noise draws of each map."""
    told = [_told(scan, instance, "model", samples=samples)]
    for variant in variants_of(scan, instance):
        told.append(_told(replace(scan, model=variant), instance, variant.kind, samples=samples))
    for seed in range(SEEDS):
        told.append(Opinion("seeds", None, _effects(scan, instance, samples=samples, seed=1000 + seed)))
    return Stability(tuple(scan.channels), tuple(told))


def variants_of(scan: Scan, instance: Instance) -> Iterator[Variant]:
    """The members of the model, each alone, then the model before the mirror image."""
    spec, network = scan.model.spec, scan.model.network
    alone = replace(spec, members=1)
    for member in networks_alone(network, most_views=MOST_VIEWS):
        yield Variant("networks", alone, member, scan.placement)
    axis = _left_right(scan, instance)
    yield Variant("mirrored", spec, Mirrored(network, axis).eval(), scan.placement)


def _left_right(scan: Scan, instance: Instance) -> int:
    """The axis of the network's grid that runs closest to left-right."""
    probe = scan.probe(instance)
    shape = scan.case.image.shape
    corner, *ends = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    steps = [
        to_mm(end[None], scan.case.image.affine)[0, 0] - to_mm(corner[None], scan.case.image.affine)[0, 0]
        for end in ends
    ]
    grids = np.meshgrid(
        *(np.arange(n) * step for n, step in zip(shape, steps, strict=True)), indexing="ij", sparse=True
    )
    ramp = probe.field(np.broadcast_to(sum(grids), shape).astype(np.float32))
    inside = probe.head
    slopes = [np.abs(np.diff(ramp, axis=axis))[_between(inside, axis)] for axis in range(3)]
    return int(np.argmax([float(np.median(slope)) if len(slope) else 0.0 for slope in slopes]))


def _between(mask: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(mask, axis, 0)
    return np.moveaxis(moved[1:] & moved[:-1], 0, axis)


def _told(scan: Scan, instance: Instance, kind: str, *, samples: int) -> Opinion:
    found = Question.about(scan, instance).unchanged.found
    return Opinion(kind, found, _effects(scan, instance, samples=samples, seed=None))


def _effects(scan: Scan, instance: Instance, *, samples: int, seed: int | None) -> tuple[float, ...]:
    """Per channel the sum of the map over the lesion: what one SD more throughout it adds to the target."""
    found = scan.attribute([instance], SmoothGrad(n_samples=samples), seed=seed)[0]
    mask = instance.mask(scan.case.image.shape)[found.box.slices]
    return tuple(float(channel[mask].sum(dtype=float)) for channel in found.data)


def stability_row(one: Stability) -> dict[str, Any]:
    """The columns of the why table that say it."""
    networks = one.of("networks")
    row: dict[str, Any] = {
        "stability": one.verdict,
        "stability_source": one.source,
        "stability_networks": len(networks),
        "stability_networks_found": sum(bool(each.found) for each in networks),
        "stability_mirrored_found": one.of("mirrored")[0].found,
    }
    for number, channel in enumerate(one.channels):
        row[f"stability_effect_{channel}"] = one.whole.effects[number]
        for kind in KINDS:
            effects = [each.effects[number] for each in one.of(kind)]
            low, high = (min(effects), max(effects)) if effects else (np.nan, np.nan)
            row[f"stability_{kind}_low_{channel}"], row[f"stability_{kind}_high_{channel}"] = low, high
    return row


def stability_columns(channels: Sequence[str], *, unit: str) -> Mapping[str, dict[str, str]]:
    """What these columns mean."""
    words = {
        "networks": "the members of the ensemble (or views of the model), each asked alone; n/a for a single network",
        "mirrored": "the model before the image mirrored left to right",
        "seeds": f"the model under {SEEDS} other seeds of the noise",
    }
    found = {
        "stability": {
            "Description": f"stable, or the worst that holds: {', '.join(VERDICTS[1:])} (size: the effect of the leading channel "
            f"by more than a factor of {SAME_SIZE:g})"
        },
        "stability_source": {"Description": "What departs most: " + ", ".join(KINDS) + "; empty if stable"},
        "stability_networks": {"Description": "How many members were asked alone", "Units": "1"},
        "stability_networks_found": {"Description": "How many of them find the lesion", "Units": "1"},
        "stability_mirrored_found": {"Description": "True if the lesion is found in the mirror image"},
    }
    for channel in channels:
        found[f"stability_effect_{channel}"] = {
            "Description": f"Effect of {channel}: what one SD more throughout the lesion adds to the target",
            "Units": f"{unit}/SD",
        }
        for kind in KINDS:
            for end in ("low", "high"):
                found[f"stability_{kind}_{end}_{channel}"] = {
                    "Description": f"{'Smallest' if end == 'low' else 'Largest'} effect of {channel} over {words[kind]}",
                    "Units": f"{unit}/SD",
                }
    return found
