"""The planted rules: what makes a blob a lesion, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from lesionwise.benchmark.patients import (
    Background,
    BlobPlace,
    DrawFn,
    Patient,
    SpotsFn,
    Stroke,
    background,
    deep_white,
    painted_white,
    places_in,
    plant,
    soft_ball,
    stroke,
    without_ventricles_on_flair,
)
from lesionwise.errors import InputError
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.geometry.volume import ScanName
from lesionwise.types import MaskArray

FLAIR, T1W = 0, 1
BRIGHT, DARK = 0.45, -0.35
"""Contrasts over white matter, as shares of it."""
NEAR_MM, FAR_MM = (3.0, 5.0), 9.0
"""Context: lesions lie so far from the ventricles (centre of the blob), others farther than the second."""
SEEN_MM = 12.0
"""How far around a blob the ventricles count as its context."""


@dataclass(frozen=True, eq=False)
class PlantedRule:
    """A planted rule.

    `causes` are names of strokes that decide, `also` those that the network rightly answers to as well. `asked_of` says
    whether lesions are asked about, or the blobs of the kind "vetoed", in which the cause speaks against.
    """

    name: str
    sentence: str
    draw_fn: DrawFn
    causes: tuple[str, ...]
    also: tuple[str, ...] = ()
    asked_of: Literal["lesions", "vetoed"] = "lesions"
    spots_fn: SpotsFn = deep_white
    flair_without_ventricles: bool = False

    def ground(self, seed: int) -> Background:
        """A brain for this rule."""
        found = background(seed)
        return without_ventricles_on_flair(found) if self.flair_without_ventricles else found

    def patient(self, seed: int, *, name: ScanName | None = None) -> Patient:
        """Patient `seed`; equal arguments give equal arrays."""
        ground = self.ground(seed)
        places = places_in(ground, self.spots_fn)
        return plant(ground, self.draw_fn, np.random.default_rng([seed, 42]), places=places, name=name)


def _visible_on_t1w(site: BlobPlace, wanted: bool) -> tuple[str, np.ndarray, list[Stroke]]:
    soft = site.ellipsoid(site.rng.uniform(2.6, 3.6), stretch=site.stretch())
    if wanted:
        return "dark on T1w", soft, [stroke("lesion T1w", T1W, soft, DARK)]
    return "bright on FLAIR", soft, [stroke("lesion FLAIR", FLAIR, soft, BRIGHT)]


def _tagged(site: BlobPlace, wanted: bool) -> tuple[str, np.ndarray, list[Stroke]]:
    soft = site.ellipsoid(site.rng.uniform(2.6, 3.4), stretch=site.stretch())
    strokes = [stroke("lesion FLAIR", FLAIR, soft, BRIGHT)]
    way = site.rng.normal(size=3)
    beside = np.round(np.asarray(site.centre) + 6.5 * way / np.linalg.norm(way)).astype(int)
    if wanted:
        tag = soft_ball(soft.shape, beside.tolist(), 1.8)
        return "tagged", soft, [*strokes, stroke("tag T1w", T1W, tag, BRIGHT)]
    return "without tag", soft, strokes


def _beside_ventricles(site: BlobPlace, wanted: bool) -> tuple[str, np.ndarray, list[Stroke]]:
    soft = site.ellipsoid(site.rng.uniform(2.4, 3.0), stretch=site.stretch())
    soft = soft * ~site.background.ventricles
    strokes = [stroke("lesion FLAIR", FLAIR, soft, BRIGHT)]
    if not wanted:
        return "far from ventricles", soft, strokes
    ground = site.background
    near = distance_to_mm(soft > 0.5, (1.0, 1.0, 1.0), reach_mm=SEEN_MM) <= SEEN_MM
    channel = ground.image[T1W]
    change = np.where(near, channel - painted_white(channel, ground.ventricles, ground.white), 0.0)
    there = Stroke("ventricles T1w", T1W, change.astype(np.float32), ground.ventricles & near)
    return "beside ventricles", soft, [*strokes, there]


def _by_ventricles(ground: Background, wanted: bool) -> MaskArray:
    distance = distance_to_mm(ground.ventricles, (1.0, 1.0, 1.0))
    if wanted:
        return ground.white & (distance >= NEAR_MM[0]) & (distance <= NEAR_MM[1])
    return ndimage.binary_erosion(ground.white, iterations=2) & (distance >= FAR_MM)


def _vetoed(site: BlobPlace, wanted: bool) -> tuple[str, np.ndarray, list[Stroke]]:
    radius, stretch = site.rng.uniform(2.6, 3.4), site.stretch()
    soft = site.ellipsoid(radius, stretch=stretch)
    strokes = [stroke("lesion FLAIR", FLAIR, soft, BRIGHT)]
    if wanted:
        return "without rim", soft, strokes
    rim = np.clip(site.ellipsoid(radius + 2.6, stretch=stretch) - site.ellipsoid(radius + 0.6, stretch=stretch), 0, 1)
    return "vetoed", soft, [*strokes, stroke("rim T1w", T1W, rim, BRIGHT)]


def _large(site: BlobPlace, wanted: bool) -> tuple[str, np.ndarray, list[Stroke]]:
    stretch = site.stretch()
    small = site.ellipsoid(site.rng.uniform(1.7, 2.1), stretch=stretch)
    if not wanted:
        return "small", small, [stroke("core FLAIR", FLAIR, small, BRIGHT)]
    soft = site.ellipsoid(site.rng.uniform(3.6, 4.4), stretch=stretch)
    outer = np.clip(soft - small, 0, 1)
    return "large", soft, [stroke("core FLAIR", FLAIR, small, BRIGHT), stroke("outer FLAIR", FLAIR, outer, BRIGHT)]


def _both(site: BlobPlace, wanted: bool) -> tuple[str, np.ndarray, list[Stroke]]:
    soft = site.ellipsoid(site.rng.uniform(2.6, 3.6), stretch=site.stretch())
    parts = [stroke("lesion FLAIR", FLAIR, soft, BRIGHT), stroke("lesion T1w", T1W, soft, DARK)]
    if wanted:
        return "both channels", soft, parts
    which = int(site.rng.integers(2))
    return ("FLAIR only", "T1w only")[which], soft, [parts[which]]


RULES: Mapping[str, PlantedRule] = {
    rule.name: rule
    for rule in (
        PlantedRule("t1w", "A lesion is dark on T1w; FLAIR shows others.", _visible_on_t1w, ("lesion T1w",)),
        PlantedRule(
            "tag",
            "A bright spot on FLAIR is a lesion if a small bright tag on T1w lies beside it.",
            _tagged,
            ("tag T1w",),
            ("lesion FLAIR",),
        ),
        PlantedRule(
            "context",
            "A bright spot on FLAIR is a lesion if it lies at the ventricles, which T1w alone shows.",
            _beside_ventricles,
            ("ventricles T1w",),
            ("lesion FLAIR",),
            spots_fn=_by_ventricles,
            flair_without_ventricles=True,
        ),
        PlantedRule(
            "suppressor",
            "A bright spot on FLAIR is a lesion unless a bright rim on T1w vetoes it.",
            _vetoed,
            ("rim T1w",),
            ("lesion FLAIR",),
            asked_of="vetoed",
        ),
        PlantedRule(
            "size", "A bright spot on FLAIR is a lesion if it is large.", _large, ("outer FLAIR",), ("core FLAIR",)
        ),
        PlantedRule(
            "conjunction",
            "A lesion is bright on FLAIR and dark on T1w; either alone is none.",
            _both,
            ("lesion FLAIR", "lesion T1w"),
        ),
    )
}
"""Every planted rule by name."""


def rule_named(name: str) -> PlantedRule:
    """The rule of that name. Raises InputError for any other, naming those that exist."""
    if name not in RULES:
        raise InputError(f"Expected a rule among {', '.join(RULES)}, found {name!r}.")
    return RULES[name]
