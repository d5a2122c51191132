"""The MNI152 template as maps that a synthetic patient is bent from."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from lesionwise.geometry.distance import signed_distance_mm

_KEPT = ((18, 179), (20, 221), (0, 168))
"""Voxels of nilearn's 1 mm template (first voxel at -98, -134, -72 mm) that hold the brain and a margin."""

MAP_ORIGIN_MM = (-80.0, -114.0, -72.0)
"""World position of voxel 0, 0, 0 of the maps."""

DISTANCE_LIMIT_MM = 40.0
_VOXEL_MM = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Templates:
    """Maps (channel, i, j, k) of the template at 1 mm, float32, RAS, in the order of `names`."""

    maps: np.ndarray
    names: tuple[str, ...]


@lru_cache(maxsize=1)
def mni_templates() -> Templates:
    """Grey and white matter, signed distances to the ventricles and to the surface, and zones with habits of their own.

    Source: ICBM 2009 non-linear symmetric average as shipped by nilearn (no network needed).
    """
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    t1, grey, white = (
        load(resolution=1).get_fdata(dtype=np.float32)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    kept = tuple(slice(a, b) for a, b in _KEPT)
    t1, grey, white = t1[kept], grey[kept], white[kept]
    x, y, z = (
        np.arange(n, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)]) + MAP_ORIGIN_MM[axis]
        for axis, n in enumerate(t1.shape)
    )
    brain = _largest(ndimage.binary_opening(t1 > 0.05, iterations=2))
    brain = ndimage.binary_fill_holes(brain)
    depth = -signed_distance_mm(brain, _VOXEL_MM, reach_mm=DISTANCE_LIMIT_MM)
    fluid = np.where(brain, 1.0 - grey - white, 1.0).astype(np.float32)
    ventricles = _ventricles(fluid, x, y, z)
    ventricle_mm = signed_distance_mm(ventricles, _VOXEL_MM, reach_mm=DISTANCE_LIMIT_MM)
    zones = {
        "deep": _ellipsoid(x, y, z, (0, -5, 5), (34, 34, 19)),
        "cerebellum": _soft(-38 - y, 3.0) * _soft(-13 + 12 * np.exp(-((x / 16) ** 2)) - z, 3.0),
        "stem": _ellipsoid(x, y, z, (0, -28, -30), (17, 17, 32)),
        "insula": _ellipsoid(np.abs(x), y, z, (38, 5, 2), (9, 24, 16)) + _ellipsoid(x, y, z, (0, 10, 30), (10, 50, 18)),
        "tract": _ellipsoid(np.abs(x), y, z, (24, -18, 10), (5, 7, 16)),
    }
    maps = [grey, white, fluid, ventricle_mm, depth, *zones.values()]
    stacked = np.stack([np.clip(np.broadcast_to(m, t1.shape), -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM) for m in maps])
    names = ("grey", "white", "fluid", "ventricle_mm", "depth_mm", *zones)
    return Templates(np.ascontiguousarray(stacked, dtype=np.float32), names)


def _ventricles(fluid: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Lateral and third ventricles: fluid in the deep middle, and the temporal horns that hang on to it."""
    box = (np.abs(x) < 42) & (y > -62) & (y < 42) & (z > -14) & (z < 36)
    shell = ((x / 40) ** 2 + ((y + 12) / 48) ** 2 + ((z - 12) / 27) ** 2) < 1
    lateral = (fluid > 0.5) & box & shell & ~((np.abs(x) < 7) & (y < -36)) & ~((np.abs(x) > 24) & (y > -15) & (z > -5))
    labels, count = ndimage.label(lateral)
    if count == 0:
        return lateral
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= 150)[labels]


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == int(sizes.argmax())


def _ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    """1 inside, 0 outside, with a soft border."""
    r = np.sqrt(sum(((v - c) / s) ** 2 for v, c, s in zip((x, y, z), centre, radii, strict=True)))
    return _soft(1 - r, 0.12)


def _soft(value: np.ndarray, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip(-value / (0.5 * width), -30, 30)))
