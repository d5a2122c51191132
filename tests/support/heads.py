"""A small synthetic head with skull, and rigid motions of known size."""

from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from lesionwise.geometry.volume import Volume
from lesionwise.phantom.patient import Phantom, synthesise
from lesionwise.phantom.skull import PAD_VOX, with_skull


@lru_cache(maxsize=1)
def small_patient() -> Phantom:
    """A block of a brain, with lesions."""
    return synthesise(5, size="small")


@lru_cache(maxsize=1)
def small_head() -> tuple[Volume, np.ndarray]:
    """The block with a skull around it, and its brain."""
    patient = small_patient()
    return with_skull(patient), np.pad(patient.head, PAD_VOX)


def channel(volume: Volume, name: str, *, every: int = 1, first: int = 0) -> Volume:
    """One channel alone; `every` slices from `first` on averaged into a thick one."""
    data = volume.channel(name)[:, :, first:]
    slices = data.shape[2] // every
    data = data[:, :, : slices * every].reshape(*data.shape[:2], slices, every).mean(axis=3)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (first + (every - 1) / 2)
    affine[:3, 2] *= every
    return Volume(np.ascontiguousarray(data[None], dtype=np.float32), affine, (name,))


def motion(shift_mm: tuple[float, float, float], degrees: tuple[float, float, float], about: np.ndarray) -> np.ndarray:
    """A rigid motion (4, 4) in RAS mm: turns about a point, then shifts."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = about + np.asarray(shift_mm) - matrix[:3, :3] @ about
    return matrix


def moved(volume: Volume, matrix: np.ndarray) -> Volume:
    """The same voxels, elsewhere in the world."""
    return Volume(volume.data, matrix @ volume.affine, volume.channels)
