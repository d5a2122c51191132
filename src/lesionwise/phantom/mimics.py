"""Bright things that are not lesions: the false positives of real scans, so that they exist and can be learned."""

import numpy as np

from lesionwise.phantom.anatomy import Anatomy
from lesionwise.phantom.fields import blur, sheets, smooth_field
from lesionwise.phantom.lesions import LesionMap
from lesionwise.types import Shape

MIMICS = ("rim", "cap", "vessel", "pulse", "choroid", "septum", "halo")


def mimic_maps(rng: np.random.Generator, anatomy: Anatomy, lesions: LesionMap) -> dict[str, np.ndarray]:
    """Amount 0..1 of each kind (i, j, k), in the box.

    rim: thin bright line around the ventricles; cap: at their horns; vessel: in white matter and sulci (perivascular
    spaces where the contrast is negative); pulse: flow in fluid; choroid: the plexus in the ventricles; septum: the
    membrane between them; halo: dirty white matter around lesions, which raters leave out.
    """
    shape = anatomy.box.shape
    d = anatomy.ventricle_mm
    wave = smooth_field(rng, shape, spacing_vox=9)
    width = rng.uniform(0.5, 1.3)
    rim = np.exp(-(((d - 0.5) / width) ** 2)) * np.clip(0.7 + 0.6 * wave, 0, 1.5)
    horn = np.clip(smooth_field(rng, shape, spacing_vox=13) - 0.2, 0, 1.2)
    cap = np.exp(-np.clip(d, 0, 40) / rng.uniform(1.2, 3.0)) * horn
    tube = _tubes(rng, shape, spacing=rng.uniform(7, 11), radius=rng.uniform(0.5, 0.9))
    flow = np.clip(smooth_field(rng, shape, spacing_vox=rng.uniform(4, 9)) - 0.8, 0, 1)
    low = np.clip(-(np.arange(shape[2])[None, None, :] + anatomy.box.start[2] - 72) / 15, 0.15, 1)
    plexus = np.clip(smooth_field(rng, shape, spacing_vox=rng.uniform(2.5, 4)) + rng.uniform(-0.8, 0.2), 0, 1.2)
    plexus = plexus * (d < -0.7) * np.clip(-anatomy.deep + 1.2, 0, 1)
    membrane = np.zeros(shape, dtype=np.float32)
    middle = round(90 - anatomy.box.start[0] + rng.normal()) if anatomy.shape[0] > 100 else shape[0] // 2
    if 1 <= middle < shape[0] - 1:
        membrane[middle : middle + 1 + int(rng.uniform() < 0.4)] = 1.0
    return {
        "rim": np.clip(rim, 0, 1).astype(np.float32),
        "cap": np.clip(cap, 0, 1).astype(np.float32),
        "vessel": tube,
        "pulse": (flow * low).astype(np.float32),
        "choroid": np.clip(plexus, 0, 1).astype(np.float32),
        "septum": membrane * (d < 0.5),
        "halo": np.clip(2.0 * blur(lesions.soft, (2.2, 2.2, 2.2)), 0, 1) * np.clip(0.8 + 0.5 * wave, 0, 1.2),
    }


def _tubes(rng: np.random.Generator, shape: Shape, *, spacing: float, radius: float) -> np.ndarray:
    """Thin tubes: where two families of sheets cross."""
    first, second = (sheets(rng, shape, spacing_vox=spacing) for _ in range(2))
    r2 = (first**2 + second**2) / radius**2
    present = smooth_field(rng, shape, spacing_vox=16) > 0.2
    return (np.exp(-np.minimum(r2, 20)) * present).astype(np.float32)


def non_lesion_labels(anatomy: Anatomy, mimics: dict[str, np.ndarray], reference: np.ndarray) -> np.ndarray:
    """Labels (i, j, k) uint8 of the strongest bright non-lesion per voxel: 0 none, else 1 + position in `MIMICS`."""
    stack = np.stack([mimics[name] for name in MIMICS])
    stack[3:6] *= anatomy.fluid > 0.5
    stack[:2] *= anatomy.fluid < 0.5
    best = stack.argmax(axis=0).astype(np.uint8) + 1
    return np.where((stack.max(axis=0) > 0.5) & ~reference & anatomy.brain, best, 0).astype(np.uint8)
