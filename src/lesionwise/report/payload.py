"""What a page carries of a scan: small, gzip-compressed arrays, and the plan that keeps a whole page below a budget."""

import base64
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.report.anatomy import display_window
from lesionwise.report.scene import ScanView
from lesionwise.saliency import SaliencyMap

MAP_BUDGET_BYTES = 9_000_000
"""Room for all maps of a one-file page, after base64; the head's images take about 7 MB, so a page stays below 20."""

IMAGE_BUDGET_VOX = 10_000_000
"""Voxels of all images together that a one-file page carries at full resolution; above, images (only) are halved."""

KEPT_INSIDE_SPHERE = 0.62
"""Share of a map crop's bytes that remains once the corners beyond the margin are zero and compressed."""

SNR_STEP = 0.5
"""Signal-to-noise is embedded in these steps, rounded down, so that the page's threshold is exact."""
SNR_TOP = 15

HEADROOM = 1.5
"""How far the 8 bits of an image reach beyond what is shown white at first."""

_MARGINS_MM = (24.0, 20.0, 16.0, 12.0, 8.0)


@dataclass(frozen=True)
class Blob:
    """A compressed array, Fortran order (first axis fastest), as the page's script reads it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Blob":
        """Little-endian, gzip level 6, no time stamp: the same data give the same page."""
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        raw = little.tobytes(order="F")
        return cls(array.dtype.name, tuple(array.shape), gzip.compress(raw, compresslevel=6, mtime=0))

    @property
    def text(self) -> str:
        """Base64 of the compressed bytes."""
        return base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True)
class PackingPlan:
    """How the maps of a page are cut: distance kept around each lesion, and bytes per value."""

    margin_mm: float
    dtype: str
    labels: tuple[int, ...]
    """Lesions whose maps are embedded."""

    @classmethod
    def of(cls, scene: ScanView, *, budget_bytes: int = MAP_BUDGET_BYTES) -> "PackingPlan":
        """The most generous plan that fits; when none does, the largest lesions go without a map in the page."""
        files = scene.map_files
        methods: dict[int, int] = {}
        for label, _ in files:
            methods[label] = methods.get(label, 0) + 1
        boxes = {label: voxels for label in methods if len(voxels := scene.voxels(label))}
        channels = max(len(scene.channels), 1)

        def cost(label: int, margin_mm: float, width: float) -> float:
            sizes = np.asarray(scene.voxel_sizes_mm)
            extent = np.ptp(boxes[label], axis=0) + 1 + 2 * margin_mm / sizes
            voxels = float(np.prod(np.minimum(extent, scene.shape)))
            # The signal-to-noise blob costs about half a byte per value.
            return voxels * KEPT_INSIDE_SPHERE * channels * methods[label] * (width + 0.5) * 4 / 3

        for margin_mm in _MARGINS_MM:
            for dtype, width in (("int16", 1.8), ("int8", 0.9)):
                if sum(cost(label, margin_mm, width) for label in boxes) <= budget_bytes:
                    return cls(margin_mm, dtype, tuple(sorted(boxes)))
        kept, spent = [], 0.0
        for label in sorted(boxes, key=lambda each: cost(each, _MARGINS_MM[-1], 0.9)):
            spent += cost(label, _MARGINS_MM[-1], 0.9)
            if spent > budget_bytes:
                break
            kept.append(label)
        return cls(_MARGINS_MM[-1], "int8", tuple(sorted(kept)))


@dataclass(frozen=True, eq=False)
class Frame:
    """The part of the scan that a page shows: the head, with a rim."""

    box: Box

    @classmethod
    def of(cls, scene: ScanView, *, rim_vox: int = 3) -> "Frame":
        """The bounding box of what is bright in any image, of every lesion, and of every likely miss in the scan."""
        inside = scene.labels > 0
        for image in scene.images.values():
            bright = np.percentile(image[::2, ::2, ::2], 99.5)
            inside = inside | (image > 0.05 * bright)
        for miss in scene.likely_misses:
            if miss.voxel is not None:
                inside[miss.voxel] = True
        if not inside.any():
            return cls(Box.whole(scene.shape))
        bounds = []
        for axis in range(3):
            rows = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
            bounds.append((max(rows[0] - rim_vox, 0), min(rows[-1] + 1 + rim_vox, scene.shape[axis])))
        (a, b), (c, d), (e, f) = ((int(low), int(high)) for low, high in bounds)
        return cls(Box((a, c, e), (b, d, f)))


def image_blob(
    image: np.ndarray, frame: Frame, *, window: tuple[float, float], step: int = 1
) -> tuple[Blob, dict[str, Any]]:
    """An image in 8 bits, the scale back to its own values, and the levels of the window that is shown at first.

    `window` is what is shown black and white; half as much above it is kept, for readers who move the window. With `step`
    2 each value is the mean of a block of eight voxels; an odd last plane is repeated to fill its block.
    """
    shown = image[frame.box.slices]
    low, high = window
    top = low + HEADROOM * (high - low)
    if step > 1:
        padded = np.pad(shown, [(0, -n % step) for n in shown.shape], mode="edge")
        a, b, c = (n // step for n in padded.shape)
        shown = padded.reshape(a, step, b, step, c, step).mean(axis=(1, 3, 5))
    levels = np.clip(np.round((shown - low) / (top - low) * 255), 0, 255).astype(np.uint8)
    return Blob.of(levels), {"offset": low, "scale": (top - low) / 255, "step": step, "white": 255 / HEADROOM}


def map_blobs(
    scene: ScanView, frame: Frame, saliency: SaliencyMap, label: int, *, margin_mm: float, dtype: str
) -> tuple[dict[str, Any], dict[str, Blob]]:
    """One lesion's map, kept within `margin_mm` of the lesion: 16 bits linear, or 8 bits on a square-root scale.

    The description says where the crop lies in the frame, the scale of each channel, and which share of |M| of each
    channel lies outside of what is kept.
    """
    margin = np.ceil(margin_mm / np.asarray(scene.voxel_sizes_mm)).astype(int)
    voxels = scene.voxels(label)
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    high = np.minimum(voxels.max(axis=0) + margin + 1, scene.shape)
    wide = Box((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
    box = wide.intersection(saliency.box).intersection(frame.box)
    lesion = scene.labels[wide.slices] == label
    near = np.isfinite(distance_to_mm(lesion, scene.voxel_sizes_mm, reach_mm=margin_mm))
    near = near[box.relative_to(wide).slices]
    inner = (slice(None), *box.relative_to(saliency.box).slices)
    values = np.where(near, saliency.data[inner], 0)
    total = np.abs(saliency.data).sum(axis=(1, 2, 3), dtype=float)
    kept = np.abs(values).sum(axis=(1, 2, 3), dtype=float)
    tops = np.abs(values).max(axis=(1, 2, 3), initial=0)
    scales = [float(top) if top > 0 else 1.0 for top in tops]
    unit = values / np.asarray(scales, dtype=np.float32)[:, None, None, None]
    if dtype == "int16":
        coded = np.round(unit * 32767).astype(np.int16)
    else:
        coded = np.round(np.sign(unit) * np.sqrt(np.abs(unit)) * 127).astype(np.int8)
    meta: dict[str, Any] = {
        "start": [int(a) for a in box.relative_to(frame.box).start],
        "channels": list(saliency.channels),
        "scales": scales,
        "outside": [float(1 - k / t) if t > 0 else 0.0 for k, t in zip(kept, total, strict=True)],
    }
    # The first axis runs fastest in the page, so channels go last: each is one contiguous volume.
    blobs = {"values": Blob.of(np.moveaxis(coded, 0, -1))}
    if saliency.snr is not None:
        snr = np.where(near, saliency.snr[inner], 0)
        blobs["snr"] = Blob.of(np.moveaxis(np.clip(np.floor(snr / SNR_STEP), 0, SNR_TOP).astype(np.uint8), 0, -1))
    return meta, blobs


@dataclass(frozen=True, eq=False)
class Store:
    """Where arrays go: into the page itself, or behind addresses that the page asks a local server for."""

    blobs: dict[str, Blob]
    address_fn: Callable[[str], str] | None = None

    def put(self, key: str, blob: Blob) -> dict[str, Any]:
        """Keeps an array and says how the page finds it."""
        self.blobs[key] = blob
        found = {"key": key} if self.address_fn is None else {"url": self.address_fn(key)}
        return {**found, "dtype": blob.dtype, "shape": list(blob.shape)}


def volumes(scene: ScanView, frame: Frame, store: Store) -> dict[str, Any]:
    """Images, labels, probability and reference of the frame."""
    images: dict[str, Mapping[str, Any]] = {}
    crowded = len(scene.images) * int(np.prod(frame.box.shape)) > IMAGE_BUDGET_VOX
    step = 2 if crowded and store.address_fn is None else 1
    for number, (channel, image) in enumerate(scene.images.items()):
        window = display_window(image, scene.voxel_sizes_mm)
        blob, scale = image_blob(image, frame, window=window, step=step)
        images[channel] = {**store.put(f"image-{number}", blob), **scale}
    labels = scene.labels[frame.box.slices]
    small = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    probability = np.round(np.clip(scene.probability[frame.box.slices], 0, 1) * 255).astype(np.uint8)
    found: dict[str, Any] = {
        "images": images,
        "labels": store.put("labels", Blob.of(labels.astype(small))),
        "probability": store.put("probability", Blob.of(probability)),
    }
    if scene.reference is not None:
        found["reference"] = store.put("reference", Blob.of(scene.reference[frame.box.slices].astype(np.uint8)))
    return found
