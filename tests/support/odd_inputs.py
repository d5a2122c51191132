"""Wrong or odd inputs, one by one: how each is built from a synthetic head with three lesions, for `scripts/wrong_inputs.py`."""

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import nn

SHAPE = (40, 44, 36)
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1.0, 0, -22], [0, 0, 1.0, -15], [0, 0, 0, 1]])
LESIONS = (((12, 20, 18), 2), ((28, 28, 20), 2), ((20, 14, 14), 2))
VOLUME_MM3 = 3 * 125.0


class Bright(nn.Module):
    """A lesion where FLAIR is above 750."""

    def forward(self, x):
        y = 0.05 * (x[:, :1] - 750.0)
        return torch.cat([torch.zeros_like(y), y], dim=1)


@dataclass(frozen=True)
class Wrong:
    """One wrong input: how to build it, and whether it can be read rightly (`told`: with which word) or must be refused."""

    name: str
    build: Callable[[Path], list[str]]
    told: str | None = None


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """FLAIR, T1w, lesions, brain."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    brain = sum(a**2 for a in axes) < 0.8
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for centre, half in LESIONS:
        mask[tuple(slice(c - half, c + half + 1) for c in centre)] = 1
    flair, t1w = (brain * (level + 10 * rng.normal(size=SHAPE)) for level in (500, 700))
    flair[mask > 0] += 500
    t1w[mask > 0] -= 200
    return flair.astype(np.float32), t1w.astype(np.float32), mask, brain


FLAIR, T1W, MASK, BRAIN = arrays()


def save(path: Path, data: np.ndarray, affine=AFFINE, *, qform=None, codes=(1, 1), units=2) -> Path:
    """An image with a header as asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, None)
    image.header.set_sform(affine, codes[0])
    image.header.set_qform(affine if qform is None else qform, codes[1])
    image.header["xyzt_units"] = units
    nib.save(image, path)
    return path


def scan(folder: Path, *, flair=None, t1w=None, mask=None) -> list[str]:
    """Arguments of `explain` for a scan whose parts are written unless a path is given."""
    paths = [
        flair or save(folder / "sub-01_FLAIR.nii.gz", FLAIR),
        t1w or save(folder / "sub-01_T1w.nii.gz", T1W),
        mask or save(folder / "mask.nii.gz", MASK),
    ]
    return ["-i", f"FLAIR={paths[0]}", "-i", f"T1w={paths[1]}", "--reference", str(paths[2])]


def headers() -> Iterator[Wrong]:
    """A field of a header set to what it must not be."""
    fields = {
        "sizeof_hdr": (0, "<i", (0, 1, 999)),
        "dim0": (40, "<h", (0, -1, 2, 5, 7, 8, 30000)),
        "dim1": (42, "<h", (0, -5, 32000)),
        "dim2": (44, "<h", (0, -5, 32000)),
        "dim3": (46, "<h", (0, -5, 32000)),
        "datatype": (70, "<h", (0, 1, 32, 128, 1792, 9999)),
        "bitpix": (72, "<h", ()),
        "vox_offset": (108, "<f", (1e9, float("nan"), float("inf"))),
        "scl_slope": (112, "<f", (1e38,)),
        "sform x": (280, "<f", (0.0, float("nan"), float("inf"), 1e30, 1e-9)),
        "sform y": (300, "<f", (0.0, float("nan"), 50.0, 0.01)),
        "sform z": (320, "<f", (0.0, float("nan"), 3e38)),
        "magic": (344, "4s", (b"abcd", b"\0\0\0\0", b"ni1\0")),
    }

    def build(place: int, kind: str, value, which: str) -> Callable[[Path], list[str]]:
        def made(folder: Path) -> list[str]:
            path = save(folder / f"sub-01_{which}.nii", {"FLAIR": FLAIR, "T1w": T1W}[which])
            content = bytearray(path.read_bytes())
            content[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
            path.write_bytes(bytes(content))
            return scan(folder, **{which.lower(): path})

        return made

    for name, (place, kind, values) in fields.items():
        for number, value in enumerate(values):
            which = ("FLAIR", "T1w")[number % 2]
            # Length and magic that nibabel mends, and more axes of length 1, change nothing: read rightly.
            harmless = name == "sizeof_hdr" or value == b"ni1\0" or (name == "dim0" and value in (5, 7))
            told = "" if harmless else None
            yield Wrong(f"header of {which}: {name} = {value!r}", build(place, kind, value, which), told)


def places() -> Iterator[Wrong]:
    """Headers that are sound and contradict themselves or one another."""
    moved, flipped, turned = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
    moved[:3, 3] += [10, -5, 3]
    flipped[0] *= -1
    turned[:2] *= -1
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.05
    far[0, 3] += 0.5

    def both(**header) -> Callable[[Path], list[str]]:
        return lambda folder: scan(
            folder,
            flair=save(folder / "sub-01_FLAIR.nii.gz", FLAIR, **header),
            t1w=save(folder / "sub-01_T1w.nii.gz", T1W, **header),
            mask=save(folder / "mask.nii.gz", MASK, **header),
        )

    def one(part: str, data, **header) -> Callable[[Path], list[str]]:
        return lambda folder: scan(folder, **{part: save(folder / f"{part}.nii.gz", data, **header)})

    yield Wrong("sform and qform apart", both(qform=moved), "mm apart")
    for which, other in (("mirrored", flipped), ("turned", turned)):
        yield Wrong(f"sform and qform {which}", both(qform=other))
        yield Wrong(f"sform and qform of T1w {which}", one("t1w", T1W, qform=other))
        yield Wrong(f"sform and qform of the mask {which}", one("mask", MASK, qform=other))
    yield Wrong("codes 0", both(codes=(0, 0)), "which side is right is not known")
    for part, data in (("t1w", T1W), ("mask", MASK), ("flair", FLAIR)):
        yield Wrong(f"codes 0 of {part} only", one(part, data, codes=(0, 0)))
        yield Wrong(f"{part} elsewhere", one(part, data, affine=moved))
        yield Wrong(f"{part} half a voxel off", one(part, data, affine=far))
        yield Wrong(f"{part} a twentieth of a voxel off", one(part, data, affine=near), "tenth of a voxel")
        yield Wrong(f"{part} with a slice less", one(part, data[..., :-1]))
        yield Wrong(f"{part} transposed", one(part, np.ascontiguousarray(data.T)))
    for unit, scale, word in ((1, 1e-3, "metres"), (3, 1e3, "micrometres")):
        small = AFFINE.copy()
        small[:3] *= scale
        yield Wrong(f"lengths in {word}", both(affine=small, units=unit), word)
        yield Wrong(f"lengths in mm called {word}", both(units=unit))
        yield Wrong(f"lengths in {word} called mm", both(affine=small))


def contents() -> Iterator[Wrong]:
    """Files that are no images, or not whole."""
    sound = nib.Nifti1Image(FLAIR, AFFINE).to_bytes()
    texts = {
        "empty": b"",
        "text": b"hello",
        "JSON": b'{"a": 1}',
        "HTML": b"<!DOCTYPE html><html></html>",
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "DICOM": bytes(128) + b"DICM" + bytes(200),
        "zip": b"PK\x03\x04" + bytes(100),
        "annex pointer": b"/annex/objects/MD5E-s1--0.nii.gz\n",
        "lfs pointer": b"version https://git-lfs.github.com/spec/v1\nsize 3\n",
        "packed text": gzip.compress(b"hello"),
        "zeros": bytes(5000),
        "noise": np.random.default_rng(0).bytes(5000),
    }

    def write(name: str, content: bytes, part: str) -> Callable[[Path], list[str]]:
        def made(folder: Path) -> list[str]:
            path = folder / name
            path.write_bytes(content)
            return scan(folder, **{part: path})

        return made

    for name, content in texts.items():
        yield Wrong(f"{name} as FLAIR", write("sub-01_FLAIR.nii.gz", content, "flair"))
        yield Wrong(f"{name} as mask", write("mask.nii", content, "mask"))
        yield Wrong(f"{name} as T1w", write("sub-01_T1w.img", content, "t1w"))
    for share in (0.001, 0.01, 0.3, 0.9, 0.999):
        packed = gzip.compress(sound, 1)
        yield Wrong(f"{share:.1%} of a .nii", write("sub-01_FLAIR.nii", sound[: int(share * len(sound))], "flair"))
        yield Wrong(f"{share:.1%} of a .nii.gz", write("a_FLAIR.nii.gz", packed[: int(share * len(packed))], "flair"))
    yield Wrong("gzipped .nii", write("sub-01_FLAIR.nii", gzip.compress(sound, 1), "flair"), "")
    yield Wrong("plain .nii.gz", write("sub-01_FLAIR.nii.gz", sound, "flair"), "")

    def link(folder: Path) -> list[str]:
        (folder / "sub-01_FLAIR.nii.gz").symlink_to("../.git/annex/objects/aa/bb/MD5E-s1--0.nii.gz")
        return scan(folder, flair=folder / "sub-01_FLAIR.nii.gz")

    def directory(folder: Path) -> list[str]:
        (folder / "sub-01_FLAIR.nii.gz").mkdir()
        return scan(folder, flair=folder / "sub-01_FLAIR.nii.gz")

    yield Wrong("annex link", link)
    yield Wrong("folder as image", directory)
    yield Wrong("no such file", lambda folder: scan(folder, flair=folder / "no.nii.gz"))


def values() -> Iterator[Wrong]:
    """Voxels that cannot be what they are given for."""

    def image(part: str, data) -> Callable[[Path], list[str]]:
        return lambda folder: scan(folder, **{part: save(folder / f"{part}.nii.gz", data)})

    def with_value(data, where, value):
        changed = data.copy()
        changed[where] = value
        return changed

    middle = tuple(n // 2 for n in SHAPE)
    for value in (np.nan, np.inf, -np.inf):
        for part, data in (("flair", FLAIR), ("t1w", T1W)):
            yield Wrong(f"{value} in the brain of {part}", image(part, with_value(data, middle, value)))
    yield Wrong("NaN outside the brain", image("flair", np.where(BRAIN, FLAIR, np.nan).astype(np.float32)), "held NaN")
    yield Wrong("1e300 as float64", image("flair", with_value(FLAIR.astype(np.float64), middle, 1e300)))
    yield Wrong("complex", image("flair", FLAIR.astype(np.complex64)))
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    yield Wrong("RGB", image("flair", rgb))
    for shape, what in (((*SHAPE, 2), "4-D"), ((*SHAPE, 1, 3), "5-D"), (SHAPE[:2], "2-D")):
        yield Wrong(what, image("flair", np.ones(shape, dtype=np.float32)))
    for value in (0.0, 4.0, -3.0):
        yield Wrong(f"constant {value}", image("t1w", np.full(SHAPE, value, dtype=np.float32)))
    yield Wrong("negative only", image("t1w", -np.abs(T1W) - 1))
    soft = ndimage.gaussian_filter(MASK.astype(np.float32), 1.2)
    two, seg = MASK.copy(), np.where(BRAIN, 41, 0).astype(np.int32)
    two[4:7, 20:23, 15:18] = 2
    seg[:20][BRAIN[:20]], seg[MASK > 0] = 2, 99
    refused = {
        "two labels": two,
        "SAMSEG": seg,
        "-1 and 1": MASK.astype(np.int16) * 2 - 1,
        "soft": soft,
        "soft uint8": np.round(255 * soft).astype(np.uint8),
        "soft percent": np.round(100 * soft).astype(np.int16),
        "inverted": 1 - MASK,
        "all ones": np.ones_like(MASK),
        "whole brain": BRAIN.astype(np.uint8),
        "an image": T1W,
    }
    for name, data in refused.items():
        yield Wrong(f"reference: {name}", image("mask", data))
    accepted = {
        "255": MASK * 255,
        "10.92": MASK * np.float32(10.921457),
        "0.99999": MASK * np.float32(0.99999),
    }
    for name, data in accepted.items():
        yield Wrong(f"reference: {name}", image("mask", data), "counts as lesion")
    yield Wrong("reference: NaN outside", image("mask", np.where(MASK > 0, 1.0, np.nan).astype(np.float32)), "held NaN")
    rules = {
        "--reference-label 1": (two, "count as lesion"),
        "--reference-label 99": (seg, "count as lesion"),
        "--reference-label x": (two, None),
        "--reference-label 0": (two, None),
        "--reference-threshold nan": (soft, None),
        "--reference-label 1 --reference-threshold 0.5": (soft, None),
    }
    for rule, (data, told) in rules.items():
        yield Wrong(
            f"reference: {rule}",
            lambda folder, data=data, rule=rule: [*image("mask", data)(folder), *rule.split()],
            told,
        )
    yield Wrong("T1w itself as reference", lambda f: scan(f, mask=save(f / "sub-01_T1w.nii.gz", T1W)))
    yield Wrong(
        "one file for two channels", lambda f: scan(f, t1w=save(f / "sub-01_FLAIR.nii.gz", FLAIR)), "same image"
    )
    for name, data in {"empty": MASK * 0, "soft": soft, "an image": T1W}.items():
        yield Wrong(
            f"brain mask: {name}",
            lambda f, data=data: [*scan(f), "--brain-mask", str(save(f / "brain.nii.gz", data))],
        )
    for label in ("../x", "", "a b", "sub-", "é"):
        yield Wrong(f"subject {label!r}", lambda f, label=label: [*scan(f), "--subject", label])
    pairs = (["-i", "FLAIR"], ["-i", "=x"], ["-i", "FLAIR="], ["-i", "T2w=x.nii"], [])
    for pair in pairs:
        yield Wrong(f"images: {' '.join(pair) or 'none'}", lambda f, pair=pair: list(pair))


A = "sub-01/anat/sub-01_"


def data_sets() -> Iterator[Wrong]:
    """Data sets in which the scan cannot be chosen, and filters that are none."""
    sets = {
        "no folder": None,
        "no subjects": ["README"],
        "no T1w": [A + "FLAIR"],
        "no FLAIR": [A + "T1w"],
        ".nii and .nii.gz": [A + "FLAIR", A + "FLAIR.nii", A + "T1w"],
        "two spaces": [A + "FLAIR", A + "space-MNI_FLAIR", A + "T1w"],
        "T1w in another space": [A + "FLAIR", A + "space-MNI_T1w"],
        "two descs": [A + "desc-a_FLAIR", A + "desc-b_FLAIR", A + "T1w"],
        "two resolutions": [A + "res-1_FLAIR", A + "res-2_FLAIR", A + "res-1_T1w"],
        "T1w at another resolution": [A + "res-1_FLAIR", A + "res-2_T1w"],
        "two T1w": [A + "FLAIR", A + "desc-a_T1w", A + "desc-b_T1w"],
        "phase only": [A + "part-phase_FLAIR", A + "T1w"],
        "T1w of another session": ["sub-01/ses-1/anat/sub-01_ses-1_FLAIR", "sub-01/ses-2/anat/sub-01_ses-2_T1w"],
        "mask in another space": [A + "FLAIR", A + "T1w", f"derivatives/m/{A}space-T1w_label-L_mask"],
    }

    def build(names: list[str] | None, *more: str) -> Callable[[Path], list[str]]:
        def made(folder: Path) -> list[str]:
            for name in names or ():
                path = folder / "bids" / (name if "." in name or "/" not in name else f"{name}.nii.gz")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            return ["study", str(folder / "bids"), str(folder / "out"), "participant", "--dry-run", *more]

        return made

    for name, names in sets.items():
        yield Wrong(f"data set: {name}", build(names))
    whole = [A + "FLAIR"]
    filters = {
        "no JSON": "{",
        "a list": "[]",
        "unknown image": '{"bold": {}}',
        "unknown entity": '{"FLAIR": {"colour": 1}}',
        "a number": '{"FLAIR": 3}',
        "deep": "[" * 100_000,
        "not text": "\x00\xff",
    }
    for name, text in filters.items():

        def filtered(folder: Path, text=text) -> list[str]:
            (folder / "filter.json").write_text(text, encoding="latin-1")
            return build(whole, "--bids-filter", str(folder / "filter.json"))(folder)

        yield Wrong(f"filter: {name}", filtered)
    yield Wrong("no filter file", build(whole, "--bids-filter", "/no/such/file.json"))
    yield Wrong("no folder of references", build(whole, "--reference-from", "/no/such/folder"))
    yield Wrong("no folder of brain masks", build(whole, "--brain-masks-from", "/no/such/folder"))
    yield Wrong("unknown participant", build(whole, "--participant-label", "99"))
