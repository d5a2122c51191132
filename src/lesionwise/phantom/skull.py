"""What brain extraction removes, drawn around a synthetic brain: fluid, bone, scalp, eyes, jaw and neck."""

import numpy as np
from scipy import ndimage

from lesionwise.geometry.volume import Volume
from lesionwise.phantom.fields import smooth_field
from lesionwise.phantom.patient import Phantom

PAD_VOX = ((22, 22), (24, 34), (30, 18))
"""Room for the skull around the canvas of a whole brain, in voxels of 1 mm: left-right, back-front, down-up."""

_FLUID_MM, _BONE_MM, _SCALP_MM = 3.0, 9.0, 15.0
"""How far fluid, bone and scalp reach from the brain's surface."""

_LEVELS = {
    # relative to white matter, (FLAIR, T1w): fat is bright on T1w, fluid dark on both
    "fluid": (0.12, 0.18),
    "bone": (0.10, 0.10),
    "scalp": (0.75, 1.45),
    "muscle": (0.55, 0.55),
    "eye": (0.15, 0.25),
}


def with_skull(phantom: Phantom, *, seed: int = 0) -> Volume:
    """FLAIR and T1w of a whole patient (`size="full"`) as a scanner gives them: the head around the brain, and noise.

    The brain's voxels keep their values; the grid grows by `PAD_VOX`, its affine with it, so that the world stays.
    """
    rng = np.random.default_rng([seed, 11])
    head = np.pad(phantom.head, PAD_VOX)
    affine = phantom.image.affine.copy()
    affine[:3, 3] -= [before for before, _ in PAD_VOX]
    parts = _parts(head, affine)
    channels = []
    for number, channel in enumerate(phantom.image.data):
        white = float(np.median(channel[phantom.tissue == 3]))
        image = np.zeros(head.shape, dtype=np.float32)
        for name, part in parts.items():
            image[part] = _LEVELS[name][number] * white
        image = ndimage.gaussian_filter(image, 0.7)
        image *= 1 + 0.15 * smooth_field(rng, head.shape, spacing_vox=12.0)
        brain = np.pad(channel, PAD_VOX)
        image = np.where(head & (brain > 0), brain, image)
        noise = rng.normal(size=(2, *head.shape)).astype(np.float32) * (0.015 * white)
        channels.append(np.hypot(image + noise[0], noise[1]))
    return Volume(np.stack(channels).astype(np.float32), affine, phantom.image.channels)


def _parts(head: np.ndarray, affine: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of what lies around the brain, in the order in which they are painted."""
    x, y, z = (
        (np.arange(n) + affine[axis, 3]).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(head.shape)
    )
    smooth = ndimage.binary_closing(np.pad(head, 12), iterations=8)[12:-12, 12:-12, 12:-12]
    away = ndimage.distance_transform_edt(~smooth)
    low = z + 30 < 0
    face = ((x / 62) ** 2 + ((y - 48) / 46) ** 2 + ((z + 45) / 62) ** 2 < 1) & low
    neck = ((x / 52) ** 2 + ((y + 20) / 55) ** 2 < 1) & (z < -50)
    beyond = ~smooth
    skin = ndimage.binary_dilation(face | neck, iterations=3)
    eyes = sum(((x - side * 32) ** 2 + (y - 66) ** 2 + (z + 38) ** 2 < 12.5**2) for side in (-1, 1)) > 0
    return {
        "scalp": beyond & ((away <= _SCALP_MM) | skin),
        "muscle": beyond & (face | neck) & (away > _BONE_MM),
        "bone": beyond & (away <= _BONE_MM),
        "fluid": beyond & (away <= _FLUID_MM),
        "eye": beyond & eyes & (away > _FLUID_MM),
    }
