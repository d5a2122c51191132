"""Lesions as METHOD section 8 counts them: where, how large, what shape."""

from dataclasses import dataclass, replace

import numpy as np

from lesionwise.geometry.box import Box
from lesionwise.phantom.anatomy import Anatomy
from lesionwise.phantom.fields import smooth_field
from lesionwise.types import Shape

COUNT_QUANTILES = ((0.0, 0.25, 0.5, 0.75, 1.0), (12, 25, 57, 99, 309))
BODY_QUANTILES_MM3 = ((0.0, 0.051, 0.255, 0.51, 0.765, 0.969, 1.0), (5, 7, 13, 27, 63, 355, 1000))
CONFLUENT_QUANTILES_MM3 = ((0.0, 0.5, 1.0), (1000, 3835, 50000))
DISTANCE_QUANTILES_MM = ((0.0, 0.134, 0.25, 0.5, 0.75, 1.0), (0.3, 3, 5, 9, 14, 34))
WITH_CONFLUENT, FURTHER_CONFLUENT = 0.6, 1.5
"""Share of patients with a lesion above 1000 mm3, and how many more such lesions they have on average."""

LARGEST_LOAD_MM3 = 52_000.0


@dataclass(frozen=True)
class LesionPlan:
    """One lesion to be planted: everything that is random about it, so that a follow-up can change one thing.

    `distance_mm` is from its near edge to the ventricles; its centre lies `centre_mm` from them, and `place` in 0..1
    picks among the voxels at that distance. Both stay when the lesion grows.
    `brightness` and `darkness` are standard normal deviates of its FLAIR and T1w contrast about the patient's.
    """

    volume_mm3: float
    distance_mm: float
    centre_mm: float
    place: float
    confluent: bool
    seed: int
    brightness: float
    darkness: float
    edge_mm: float


@dataclass(frozen=True, eq=False)
class LesionMap:
    """Planted lesions: `soft` 0..1 and `index` (0 none, else plan number + 1, also on the soft edge), in the box."""

    plans: tuple[LesionPlan, ...]
    soft: np.ndarray
    index: np.ndarray


def plan_lesions(rng: np.random.Generator, *, n_lesions: int | None = None, share: float = 1.0) -> list[LesionPlan]:
    """Draws a patient's lesions. `share` scales their number for a brain of which only a part is shown."""
    if n_lesions is None:
        count = float(np.exp(np.interp(rng.uniform(), COUNT_QUANTILES[0], np.log(COUNT_QUANTILES[1]))))
        large = 0
        if rng.uniform() < share**0.5 * np.clip(WITH_CONFLUENT * (count / 60) ** 0.7, 0.1, 0.95):
            large = 1 + int(rng.poisson(FURTHER_CONFLUENT * share * np.clip((count / 70) ** 0.5, 0.5, 2.0)))
        n_lesions = max(1, round(count * share))
    else:
        large = int(rng.binomial(n_lesions, 0.02))
    plans = [_draw(rng, confluent=i < large) for i in range(n_lesions)]
    return sorted(_within_load(plans), key=lambda plan: -plan.volume_mm3)


def _within_load(plans: list[LesionPlan]) -> list[LesionPlan]:
    """Shrinks confluent lesions, none below 1000 mm3, until the load is one that was seen."""
    for _ in range(3):
        confluent = sum(p.volume_mm3 for p in plans if p.confluent)
        excess = sum(p.volume_mm3 for p in plans) - LARGEST_LOAD_MM3
        if excess <= 0 or confluent == 0:
            break
        factor = max(0.02, 1 - excess / confluent)
        plans = [replace(p, volume_mm3=max(1000.0, p.volume_mm3 * factor)) if p.confluent else p for p in plans]
    return plans


def _draw(rng: np.random.Generator, *, confluent: bool) -> LesionPlan:
    quantiles = CONFLUENT_QUANTILES_MM3 if confluent else BODY_QUANTILES_MM3
    volume = float(np.exp(np.interp(rng.uniform(), quantiles[0], np.log(quantiles[1]))))
    distance = float(np.interp(rng.uniform(), *DISTANCE_QUANTILES_MM))
    if confluent:
        distance = rng.uniform(0.2, 1.5) if rng.uniform() < 0.91 else rng.uniform(3, 10)
    return LesionPlan(
        volume_mm3=volume,
        distance_mm=float(distance),
        centre_mm=float(distance + (1.0 if confluent else 0.85 * _radius_mm(volume))),
        place=float(rng.uniform()),
        confluent=confluent,
        seed=int(rng.integers(2**31)),
        brightness=float(rng.normal()),
        darkness=float(rng.normal()),
        edge_mm=float(rng.uniform(0.25, 0.8)),
    )


def followed_up(
    rng: np.random.Generator, plans: tuple[LesionPlan, ...], *, new_lesions: float | int = 4.0, growth: float = 0.15
) -> list[LesionPlan]:
    """The same lesions some time later: each grown or shrunk a little, some more, and new ones at the end.

    Shapes and places stay, because each plan keeps its own seed.
    """
    later = []
    for plan in plans:
        change = rng.normal(growth / 3, growth) if rng.uniform() < 0.8 else rng.normal(0.3, 0.5)
        later.append(replace(plan, volume_mm3=float(max(4.0, plan.volume_mm3 * np.exp(np.clip(change, -1.2, 1.2))))))
    fresh = [_draw(rng, confluent=False) for _ in range(int(rng.poisson(new_lesions)))]
    return later + fresh


def plant(anatomy: Anatomy, plans: list[LesionPlan]) -> LesionMap:
    """Puts the planned lesions into white matter. A plan without a free place is left out of the maps."""
    shape = anatomy.box.shape
    soft, index = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int16)
    ground = anatomy.white * (anatomy.depth_mm > 2) + 0.35 * anatomy.grey * (anatomy.depth_mm > 3)
    spots = np.flatnonzero((anatomy.white > 0.6) & (anatomy.depth_mm > 3) & (anatomy.ventricle_mm < 39))
    spots = spots[np.argsort(anatomy.ventricle_mm.ravel()[spots], kind="stable")]
    reach = anatomy.ventricle_mm.ravel()[spots]
    for number, plan in enumerate(plans, start=1):
        rng = np.random.default_rng(plan.seed)
        centre = _spot(plan, spots, reach, soft, shape)
        if centre is None:
            continue
        box, score = (_confluent if plan.confluent else _focal)(rng, plan, centre, anatomy)
        shade = _shade(score, plan, ground[box.slices], soft[box.slices])
        here, label = soft[box.slices], index[box.slices]
        label[(shade > here) & (shade > 0.05)] = number
        np.maximum(here, shade, out=here)
    return LesionMap(tuple(plans), soft, index)


def _spot(plan: LesionPlan, spots: np.ndarray, reach: np.ndarray, soft: np.ndarray, shape: Shape) -> np.ndarray | None:
    """A white matter voxel at the wished distance where no lesion is yet."""
    if len(spots) == 0:
        return None
    for widen in (0.4, 1.0, 3.0, 8.0):
        low, high = np.searchsorted(reach, [plan.centre_mm - widen, plan.centre_mm + widen])
        for attempt in range(6):
            if high <= low:
                break
            pick = (plan.place + 0.1618 * attempt) % 1.0
            voxel = np.array(np.unravel_index(spots[low + int(pick * (high - low))], shape))
            if soft[tuple(voxel)] < 0.1 or plan.confluent:
                return voxel
    return None


def _focal(rng: np.random.Generator, plan: LesionPlan, centre: np.ndarray, anatomy: Anatomy) -> tuple[Box, np.ndarray]:
    """Box and score of an ellipsoid with a rough border; near the ventricles it stands on end (Dawson's fingers)."""
    radius = _radius_mm(plan.volume_mm3)
    half = int(np.ceil(2.4 * radius)) + 3
    box = Box.around(centre[None], margin=half, shape=anatomy.box.shape)
    stretch = np.exp(rng.normal(0, 0.22, 3))
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    if anatomy.ventricle_mm[tuple(centre)] < 8 + radius:
        outward = _outward(anatomy.ventricle_mm, centre)
        axes[:, 0] = outward
        axes = np.linalg.qr(axes)[0]
        stretch[0] *= rng.uniform(1.0, 1.7)
    r2 = np.zeros(box.shape, dtype=np.float32)
    offsets = [np.arange(box.start[k], box.stop[k]) - centre[k] for k in range(3)]
    for column in range(3):
        along = sum(axes[k, column] * offsets[k].reshape([-1 if a == k else 1 for a in range(3)]) for k in range(3))
        r2 += (along / stretch[column]).astype(np.float32) ** 2
    rough = smooth_field(rng, box.shape, spacing_vox=max(2.0, 0.8 * radius))
    score = -np.sqrt(r2) * (1 + rng.uniform(0.05, 0.3) * rough)
    return box, score


def _confluent(
    rng: np.random.Generator, plan: LesionPlan, centre: np.ndarray, anatomy: Anatomy
) -> tuple[Box, np.ndarray]:
    """Box and score of a lesion that creeps along the ventricles and out of them into white matter."""
    radius = _radius_mm(plan.volume_mm3)
    half = int(np.ceil(2.6 * radius)) + 6
    box = Box.around(centre[None], margin=half, shape=anatomy.box.shape)
    r2 = np.zeros(box.shape, dtype=np.float32)
    for k in range(3):
        offset = np.arange(box.start[k], box.stop[k]) - centre[k]
        r2 += (offset.astype(np.float32) ** 2).reshape([-1 if a == k else 1 for a in range(3)])
    away = np.maximum(anatomy.ventricle_mm[box.slices] - plan.distance_mm, 0)
    rough = smooth_field(rng, box.shape, spacing_vox=max(4.0, rng.uniform(0.35, 0.8) * radius))
    fine = smooth_field(rng, box.shape, spacing_vox=3.0)
    score = -np.sqrt(r2 + rng.uniform(1.0, 6.0) * away**2)
    score += radius * rng.uniform(0.3, 0.7) * rough + 0.4 * fine
    return box, score


def _shade(score: np.ndarray, plan: LesionPlan, ground: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Soft lesion whose half-level set in white matter holds the planned volume. `score` is in mm, about."""
    penalty = 4.0 + _radius_mm(plan.volume_mm3)
    score = score - penalty * (1 - np.clip(1.6 * ground, 0, 1)) - 3.0 * (taken > 0.3)
    size = min(max(round(plan.volume_mm3), 2), score.size - 1)
    level = np.partition(score.ravel(), score.size - size)[score.size - size]
    return (1 / (1 + np.exp(np.clip((level - score) / plan.edge_mm, -30, 30)))).astype(np.float32)


def _radius_mm(volume_mm3: float) -> float:
    return float((3 * volume_mm3 / (4 * np.pi)) ** (1 / 3))


def _outward(distance: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Unit vector away from the ventricles."""
    gradient = np.empty(3)
    for k in range(3):
        low, high = centre.copy(), centre.copy()
        low[k], high[k] = max(low[k] - 2, 0), min(high[k] + 2, distance.shape[k] - 1)
        gradient[k] = distance[tuple(high)] - distance[tuple(low)]
    norm = np.linalg.norm(gradient)
    return gradient / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])
