"""From tissue to a FLAIR and a T1w image: contrasts, bright things that are not lesions, and the scanner's defects.

Intensities are in units of normal white matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lesionwise.phantom.fields import blur, smooth_field, white_noise
from lesionwise.types import Shape

Maps = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ChannelContrast:
    """One channel: mean intensities relative to white matter, and what the scanner does to it."""

    fluid: float
    grey: float
    deep: float
    cerebellum: float
    stem: float
    insula: float
    tract: float
    texture: float
    lesion: float
    lesion_spread: float
    lesion_texture: float
    core: float
    halo: float
    rim: float
    cap: float
    patches: float
    dirty: float
    vessel: float
    pulse: float
    choroid: float
    shell: float
    bias: float
    gamma: float
    blur_vox: tuple[float, float, float]
    slice_axis: int
    slice_vox: int
    noise: float
    grain_vox: float
    ringing: float


@dataclass(frozen=True)
class Contrast:
    """Both channels, and how the skull was stripped."""

    flair: ChannelContrast
    t1w: ChannelContrast
    strip_mm: float
    strip_rough_mm: float
    t1w_extra_mm: float


def draw_contrast(rng: np.random.Generator, *, wide: bool = False) -> Contrast:
    """Draws a scanner and a patient's contrasts. `wide` is for training: beyond what is seen in practice."""
    u = rng.uniform
    w = 1.0 if wide else 0.0
    often = lambda chance, low, high: float(u(low, high)) if u() < chance else 0.0  # noqa: E731
    sharp = u() < 0.5
    grey = u(1.06 - 0.08 * w, 1.4 + 0.1 * w)
    flair = ChannelContrast(
        fluid=u(0.05, 0.4 + 0.1 * w),
        grey=grey,
        deep=u(0.92, 1.2),
        cerebellum=u(0.85, 1.15),
        stem=u(0.9, 1.15),
        insula=u(0.0, 0.2),
        tract=often(0.7, 0.05, 0.25),
        texture=u(0.0, 0.05 + 0.03 * w),
        lesion=max(u(0.3 if wide else 0.4, 0.95), grey - 0.92),  # lesions outshine cortex, most of the time
        lesion_spread=u(0.04, 0.15 + 0.05 * w),
        lesion_texture=u(0.02, 0.2),
        core=often(0.3, -0.5, -0.05),
        halo=often(0.6, 0.05, 0.35),
        rim=often(0.85, 0.1, 0.5 + 0.2 * w),
        cap=often(0.7, 0.05, 0.3 + 0.1 * w),
        patches=u(0.0, 0.15 + 0.15 * w),
        dirty=often(0.7, 0.01, 0.09 + 0.03 * w),
        vessel=u(-0.3, 0.5),
        pulse=often(0.6, 0.2, 1.1),
        choroid=u(0.2, 1.3),
        shell=often(0.4, 0.2, 1.2),
        bias=u(0.02, 0.16 + 0.06 * w),
        gamma=u(0.85, 1.2) if wide else u(0.95, 1.05),
        blur_vox=tuple(u(0.2, 0.7, 3)) if sharp else tuple(u(0.4, 1.0, 3)),
        slice_axis=int(rng.choice([0, 1, 2], p=[0.2, 0.1, 0.7])),
        slice_vox=int(rng.choice([1, 2, 3, 4], p=[0.65, 0.15, 0.15, 0.05])),
        noise=float(np.exp(u(np.log(0.01), np.log(0.09)))),
        grain_vox=u(0.0, 0.8),
        ringing=often(0.4, 0.1, 0.6),
    )
    t1w = replace(
        flair,
        fluid=u(0.15, 0.45),
        grey=u(0.6, 0.9),
        deep=u(0.75, 0.98),
        cerebellum=u(0.85, 1.1),
        stem=u(0.9, 1.08),
        insula=u(-0.05, 0.05),
        tract=0.0,
        texture=u(0.0, 0.05),
        lesion=-abs(often(0.9, 0.0, 0.35)),
        lesion_spread=u(0.03, 0.12),
        lesion_texture=u(0.0, 0.12),
        core=often(0.4, 0.0, 0.8),
        halo=0.2 * flair.halo,
        rim=u(-0.15, 0.02),
        cap=u(-0.1, 0.0),
        patches=u(0.0, 0.08),
        dirty=u(-0.3, 0.0) * flair.dirty,
        vessel=u(-0.3, 0.3),
        pulse=0.0,
        choroid=u(0.1, 0.6),
        shell=often(0.4, 0.2, 3.0),
        bias=u(0.02, 0.16 + 0.06 * w),
        gamma=u(0.85, 1.2) if wide else u(0.95, 1.05),
        blur_vox=tuple(u(0.2, 0.9, 3)),
        slice_axis=int(rng.choice([0, 1, 2], p=[0.15, 0.15, 0.7])),
        slice_vox=int(rng.choice([1, 2, 3, 4], p=[0.7, 0.1, 0.15, 0.05])),
        noise=float(np.exp(u(np.log(0.01), np.log(0.06)))),
        ringing=often(0.4, 0.1, 0.5),
    )
    strip_mm = u(-1.5, 1.5)
    return Contrast(flair, t1w, float(strip_mm), float(u(0, 1.2)), float(often(0.3, 0.5, 4.0)))


def render(
    rng: np.random.Generator, maps: Maps, contrast: ChannelContrast, gain: np.ndarray, *, step_mm: float = 1.0
) -> np.ndarray:
    """One channel (i, j, k) of the tissue `maps`, before the skull is stripped.

    `gain[n]` is the contrast of lesion n over its ground (gain[0] is not used). `step_mm` above 1 is for maps that were
    thinned out to estimate head statistics: nothing is blurred then.
    """
    c = contrast
    shape: Shape = maps["fluid"].shape
    fluid, grey, lesion = maps["fluid"], maps["grey"], maps["lesion"]
    zones = 1.0 + (c.cerebellum - 1.0) * maps["cerebellum"] + (c.stem - 1.0) * maps["stem"] + c.tract * maps["tract"]
    grey_level = c.grey + (c.deep - c.grey) * maps["deep"] + c.insula * maps["insula"]
    patchy = smooth_field(rng, shape, spacing_vox=9 / step_mm)
    spots = smooth_field(rng, shape, spacing_vox=max(1.0, 4 / step_mm))
    grey_level = grey_level + c.patches * (np.clip(patchy, 0, 2.5) + 1.5 * np.clip(spots - 1.0, 0, 1.5))
    broad = smooth_field(rng, shape, spacing_vox=12 / step_mm)
    near = np.exp(-np.clip(maps["ventricle_mm"], 0, 40) / 9)
    white_level = 1.0 + c.dirty * np.clip(0.4 + broad, 0, 2) * (0.35 + near)
    white_level = white_level + c.rim * maps["rim"] + c.cap * maps["cap"] + c.vessel * maps["vessel"]
    if c.texture > 0:
        white_level = white_level + c.texture * smooth_field(rng, shape, spacing_vox=max(1.0, 2.5 / step_mm))
    fluid_level = c.fluid + c.pulse * maps["pulse"] + c.choroid * maps["choroid"] + 0.5 * c.rim * maps["septum"]
    fluid_level = fluid_level + 1.5 * max(c.vessel, 0.0) * maps["vessel"]  # vessels in sulci
    tissue = (1 - fluid - grey) * white_level + grey * grey_level
    mottle = 1.0 + c.lesion_texture * smooth_field(rng, shape, spacing_vox=max(1.0, 2.0 / step_mm))
    amount = gain[maps["index"]] * mottle
    if c.core:
        amount = amount * (1.0 + c.core * np.clip(2 * lesion - 1.2, 0, 1) * np.clip(0.3 + broad, 0, 1))
    halo = min(c.halo, 0.5 * abs(c.lesion)) * maps["halo"] if c.halo else 0.0
    tissue = tissue + (1 - fluid) * (
        lesion * (amount + 0.5 * (1.0 - np.clip(white_level, 0.7, 1.3))) + (1 - lesion) * halo
    )
    image = (tissue * zones + fluid * fluid_level).astype(np.float32)
    if c.shell:
        bright = c.shell * np.clip(smooth_field(rng, shape, spacing_vox=7 / step_mm) - 0.6, 0, 2)
        image += bright * np.clip(1 - np.abs(maps["depth_mm"] + 1.0) / 2.5, 0, 1)
    image = np.sign(image) * np.abs(image) ** np.float32(c.gamma)
    image *= np.exp(c.bias * smooth_field(rng, shape, spacing_vox=55 / step_mm))
    return image if step_mm > 1 else _scan(rng, image, c)


def strip(rng: np.random.Generator, maps: Maps, contrast: Contrast, *, step_mm: float = 1.0) -> np.ndarray:
    """What a skull-stripping program would keep: the brain's surface, moved and roughened; head mask (i, j, k)."""
    shape: Shape = maps["fluid"].shape
    wobble = contrast.strip_rough_mm * smooth_field(rng, shape, spacing_vox=max(1.0, 7 / step_mm))
    return maps["depth_mm"] > contrast.strip_mm + wobble


def _scan(rng: np.random.Generator, image: np.ndarray, c: ChannelContrast) -> np.ndarray:
    """Resolution, slices, noise, ringing."""
    shape = image.shape
    image = blur(image, c.blur_vox)
    if c.slice_vox > 1:
        image = _through_slices(image, c.slice_axis, c.slice_vox, int(rng.integers(c.slice_vox)))
    noise = white_noise(rng, shape)
    if c.grain_vox > 0.3:
        noise = blur(noise, (c.grain_vox,) * 3)
        noise /= float(noise.std()) + 1e-6
    if c.slice_vox > 1:
        noise = _through_slices(noise, c.slice_axis, c.slice_vox, 0)
    real = image + c.noise * noise
    image = np.where(real < 3 * c.noise, np.sqrt(real**2 + (0.5 * c.noise) ** 2), real).astype(np.float32)
    if c.ringing:
        image = image + c.ringing * (image - blur(image, (0.9, 0.9, 0.9)))
    return image


def _through_slices(image: np.ndarray, axis: int, thick: int, first: int) -> np.ndarray:
    """Averages `thick` voxels to a slice, then interpolates linearly between slice centres."""
    n = image.shape[axis]
    moved = np.moveaxis(image, axis, 0)
    starts = np.arange(first, n - thick + 1, thick)
    if len(starts) < 2:
        return image
    sums = np.add.reduceat(moved[: starts[-1] + thick], starts, axis=0) / thick
    position = np.clip((np.arange(n) - starts[0] - (thick - 1) / 2) / thick, 0, len(starts) - 1)
    low = np.minimum(position.astype(int), len(starts) - 2)
    share = (position - low).astype(np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray(np.moveaxis(sums[low] * (1 - share) + sums[low + 1] * share, 0, axis), np.float32)
