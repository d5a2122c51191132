"""A synthetic patient: FLAIR, T1w, and everything that is true about them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.phantom.anatomy import Anatomy, bend
from lesionwise.phantom.contrast import ChannelContrast, Contrast, draw_contrast, render, strip
from lesionwise.phantom.lesions import LesionMap, LesionPlan, followed_up, plan_lesions, plant
from lesionwise.phantom.mimics import mimic_maps, non_lesion_labels

CHANNELS = ("FLAIR", "T1w")
TISSUES = {"csf": 1, "gm": 2, "wm": 3}
"""Values of the tissue labels; 0 is outside the head."""

_SMALL_SHARE = 0.12
"""Lesions of a small brain, as a share of a whole one's."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """One scan of one synthetic patient, on a 1 mm RAS grid.

    `image` has the channels FLAIR and T1w; `reference` the lesions (more than half of a voxel); `lesion_index` the
    number of the plan each lesion voxel belongs to (0 none); `head` the voxels left by skull stripping; `tissue` the
    labels of `TISSUES`, under the lesions too; `non_lesion` bright things that are not lesions; `ventricle_mm` the
    distance to the lateral and third ventricles, negative inside.
    """

    image: Volume
    reference: np.ndarray
    lesion_index: np.ndarray
    head: np.ndarray
    tissue: np.ndarray
    non_lesion: np.ndarray
    ventricle_mm: np.ndarray
    plans: tuple[LesionPlan, ...]
    seed: int
    visit: int = 1

    def case(self, *, subject: str = "01", session: str | None = None) -> Case:
        """The scan as the rest of the package takes it."""
        tissue = {"white_matter": self.tissue == 3, "grey_matter": self.tissue == 2, "csf": self.tissue == 1}
        return Case(self.image, self.head, self.reference, ScanName(subject, session), tissue)


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """Everything of a patient that does not depend on the scanner, as soft maps in the anatomy's box."""

    anatomy: Anatomy
    lesions: LesionMap
    maps: dict[str, np.ndarray]


def synthesise(
    seed: int,
    *,
    size: Literal["full", "small"] = "full",
    n_lesions: int | None = None,
    visible_on: tuple[str, ...] = CHANNELS,
    lesion_contrast: float | int | None = None,
    t1w_contrast: float | int | None = None,
    mimics: bool = True,
    visit: int = 1,
    wide: bool = False,
) -> Phantom:
    """Draws patient `seed`; equal arguments give equal arrays.

    `size="small"` is a 64 mm block, in a fraction of a second. `n_lesions` fixes the number of lesions planted (0 for a
    healthy brain; None draws it, METHOD section 8). `visible_on` names the channels in which lesions can be seen: they
    are in the reference either way. `lesion_contrast` is the lesions' FLAIR contrast above white matter as a fraction
    of white matter, `t1w_contrast` the T1w one (negative is dark); None draws them. `mimics=False` leaves out bright
    non-lesions. `visit` 2, 3, ... is a follow-up of the same brain with changed and new lesions on a new day's scanner.
    `wide` widens contrasts beyond practice, for training.

    Raises InputError for a channel, number or visit that does not exist.
    """
    unknown = set(visible_on) - set(CHANNELS)
    if unknown:
        raise InputError(f"Lesions can be visible on FLAIR and T1w, found {', '.join(sorted(unknown))}.")
    if visit < 1 or (n_lesions is not None and n_lesions < 0):
        raise InputError(f"Expected a visit from 1 and a number of lesions from 0, found {visit} and {n_lesions}.")
    scene = build_scene(seed, size=size, n_lesions=n_lesions, visit=visit)
    rng = np.random.default_rng([seed, visit, 7])
    contrast = draw_contrast(rng, wide=wide)
    contrast = _as_wished(contrast, lesion_contrast, t1w_contrast, mimics=mimics)
    scales = {name: 1.0 if name in visible_on else 0.0 for name in CHANNELS}
    data, head = image_of(rng, scene.maps, contrast, scene.lesions.plans, scales=scales)
    return _phantom(scene, data, head, seed, visit)


def build_scene(seed: int, *, size: str = "full", n_lesions: int | None = None, visit: int = 1) -> TissueMaps:
    """Brain, lesions and bright non-lesions of one visit, before any scanner."""
    anatomy = bend(np.random.default_rng([seed, 1]), size=size)
    share = 1.0 if size == "full" else _SMALL_SHARE
    plans = plan_lesions(np.random.default_rng([seed, 2]), n_lesions=n_lesions, share=share)
    for later in range(2, visit + 1):
        rng = np.random.default_rng([seed, 3, later])
        plans = followed_up(rng, tuple(plans), new_lesions=0.0 if n_lesions == 0 else 4.0 * share)
    lesions = plant(anatomy, plans)
    maps = mimic_maps(np.random.default_rng([seed, 4]), anatomy, lesions)
    zones = {
        name: getattr(anatomy, name)
        for name in ("fluid", "grey", "deep", "cerebellum", "stem", "insula", "tract", "ventricle_mm", "depth_mm")
    }
    return TissueMaps(anatomy, lesions, {**zones, **maps, "lesion": lesions.soft, "index": lesions.index})


def lesion_gains(contrast: ChannelContrast, deviates: np.ndarray, *, sign: float) -> np.ndarray:
    """Contrast of each lesion over its ground; entry 0 belongs to no lesion.

    Lesions are bright on FLAIR (`sign` 1) and at most as bright as white matter on T1w (`sign` -1).
    """
    gains = contrast.lesion + contrast.lesion_spread * np.clip(deviates, -1.5, 2.5)
    floor = max(0.18, 0.6 * contrast.lesion) if contrast.lesion_spread else 0.0
    return np.concatenate([[0.0], np.maximum(gains, floor) if sign > 0 else np.minimum(gains, 0.04)]).astype(np.float32)


def image_of(
    rng: np.random.Generator,
    maps: dict[str, np.ndarray],
    contrast: Contrast,
    plans: tuple[LesionPlan, ...],
    *,
    scales: dict[str, float] | None = None,
    step_mm: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Channels (2, i, j, k) with background 0, and the head mask (i, j, k).

    `scales` multiplies lesion contrast per channel.
    """
    scales = scales or dict.fromkeys(CHANNELS, 1.0)
    head = strip(rng, maps, contrast, step_mm=step_mm)
    bright, dark = np.array([p.brightness for p in plans]), np.array([p.darkness for p in plans])
    channels = []
    for name, channel, deviates, sign in (("FLAIR", contrast.flair, bright, 1.0), ("T1w", contrast.t1w, dark, -1.0)):
        gains = lesion_gains(channel, deviates, sign=sign) * scales[name]
        shown = maps
        if not scales[name]:
            channel = replace(channel, core=0.0, halo=0.0)
            shown = {**maps, "lesion": np.zeros_like(maps["lesion"])}
        image = render(rng, shown, channel, gains.astype(np.float32), step_mm=step_mm)
        kept = head if name == "FLAIR" else head | (maps["depth_mm"] > contrast.strip_mm - contrast.t1w_extra_mm)
        channels.append(np.where(kept, image, 0))
    return np.stack(channels).astype(np.float32), head


def _as_wished(contrast: Contrast, flair: float | int | None, t1w: float | int | None, *, mimics: bool) -> Contrast:
    """Fixes the contrasts that the caller chose."""
    first, second = contrast.flair, contrast.t1w
    if flair is not None:
        first = replace(first, lesion=flair, lesion_spread=0.0, core=0.0)
    if t1w is not None:
        second = replace(second, lesion=t1w, lesion_spread=0.0, core=0.0)
    if not mimics:
        first, second = _without_mimics(first), _without_mimics(second)
    return replace(contrast, flair=first, t1w=second)


def _without_mimics(c: ChannelContrast) -> ChannelContrast:
    c = replace(c, rim=0.0, cap=0.0, patches=0.0, dirty=0.0, vessel=0.0, pulse=0.0, choroid=0.0)
    # A vanishing shell still draws its field, so that everything after it stays the same as with mimics.
    return replace(c, shell=min(c.shell, 1e-9), halo=0.0, tract=0.0)


def _phantom(scene: TissueMaps, data: np.ndarray, head: np.ndarray, seed: int, visit: int) -> Phantom:
    anatomy, lesions = scene.anatomy, scene.lesions
    canvas = anatomy.on_canvas
    reference = (lesions.soft * (1 - anatomy.fluid) > 0.5) & (anatomy.fluid < 0.4) & head
    parts = np.stack([anatomy.fluid, anatomy.grey, anatomy.white])
    tissue = np.where(head, parts.argmax(axis=0) + 1, 0).astype(np.int16)
    others = non_lesion_labels(anatomy, scene.maps, reference)
    # Typical scanner numbers: white matter near 1000.
    image = np.stack([canvas(channel) for channel in data * np.float32(1000)])
    distance = np.full(anatomy.shape, 40.0, dtype=np.float32)
    distance[anatomy.box.slices] = anatomy.ventricle_mm
    return Phantom(
        image=Volume(image, anatomy.affine, CHANNELS),
        reference=canvas(reference),
        lesion_index=canvas(np.where(reference, lesions.index, 0)),
        head=canvas(head),
        tissue=canvas(tissue),
        non_lesion=canvas(others),
        ventricle_mm=distance,
        plans=lesions.plans,
        seed=seed,
        visit=visit,
    )
