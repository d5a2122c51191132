"""Images with damaged headers, a function of a seed: for the tests, and for `scripts/damaged_files.py --minutes`."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (7, 6, 5)
FIELDS = {
    name: (int(nib.Nifti1Header.template_dtype.fields[name][1]), nib.Nifti1Header.template_dtype.fields[name][0])
    for name in nib.Nifti1Header.template_dtype.names
}
"""Offset and type of every field of a NIfTI-1 header."""

_ODD = (0.0, -1.0, 1e-30, 1e38, -1e38, float("nan"), float("inf"), 1000.0, 3e-4, 32767.0, 255.0)


def whole_image() -> bytes:
    """A sound NIfTI-1 file of int16."""
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    return image.to_bytes()


def damaged(seed: int) -> tuple[str, bytes]:
    """A file name and content: bytes of the header changed, fields set to odd values, cut, packed or not, or all of it."""
    rng = np.random.default_rng([seed, 17])
    content = bytearray(whole_image())
    if seed % 5 == 4:
        second = nib.Nifti2Image.from_image(nib.Nifti1Image.from_bytes(bytes(content)))
        content = bytearray(second.to_bytes())
    for _ in range(int(rng.integers(0, 4))):
        content[int(rng.integers(0, 352))] = int(rng.integers(0, 256))
    for name in rng.choice(list(FIELDS), int(rng.integers(0, 4)), replace=False):
        place, kind = FIELDS[name]
        count = max(1, int(np.prod(kind.shape)))
        base = kind.base
        at = place + base.itemsize * int(rng.integers(0, count))
        if base.kind in "SV":
            content[place : place + kind.itemsize] = rng.bytes(kind.itemsize)
        elif base.kind == "f":
            content[at : at + 4] = struct.pack("<f", float(rng.choice(_ODD)))
        else:
            with np.errstate(all="ignore"):
                value = np.array(rng.integers(-(2**31), 2**31)).astype(base)
            content[at : at + base.itemsize] = value.tobytes()
    if rng.random() < 0.2:
        content = content[: int(rng.integers(0, len(content)))]
    packed = rng.random() < 0.4
    raw = gzip.compress(bytes(content), 1) if packed else bytes(content)
    if packed and rng.random() < 0.3:
        raw = raw[: int(rng.integers(0, len(raw)))]
    return ("image.nii.gz" if rng.random() < 0.5 else "image.nii"), raw


def damaged_files(folder: Path, seeds: range) -> Iterator[tuple[int, Path]]:
    """Each written in turn under its name."""
    for seed in seeds:
        name, content = damaged(seed)
        path = folder / name
        path.write_bytes(content)
        yield seed, path
        path.unlink()
