"""A folder of DICOM files becomes one scan of a BIDS data set, by dcm2niix (Li et al. 2016)."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import write_bids_description
from lesionwise.io.files import write_whole

WORDS: Mapping[str, tuple[str, ...]] = {
    "FLAIR": ("flair", "dark-fluid", "dark_fluid"),
    "T1w": ("t1", "mprage", "bravo", "spgr", "tfl3d"),
}
"""What the names of a channel's series contain."""

NOT: Mapping[str, tuple[str, ...]] = {
    "FLAIR": ("t1",),
    "T1w": ("localizer", "scout", "survey"),
}
"""What they do not contain: there are T1w FLAIR sequences."""

CONTRAST_AGENT = ("gd", "gado", "+c", "post", "contrast", " ce")


def convert_dicom(dicom_dir: Path, bids_dir: Path, name: ScanName, *, channels: Sequence[str]) -> dict[str, Path]:
    """Converts a folder of DICOM files and files its FLAIR and T1w as `name` in a BIDS data set; returns them by channel.

    A series is told by its names, as dcm2niix reports them; of several that fit, the one with most voxels that was scanned
    before contrast agent. Channels that are not there are left out.

    Raises InputError if dcm2niix is not installed or fails, or if no series fits the first channel.
    """
    if shutil.which("dcm2niix") is None:
        raise InputError(
            "Expected the command dcm2niix to read DICOM files, but it is not installed here: "
            "apt install dcm2niix, conda install -c conda-forge dcm2niix or pip install dcm2niix."
        )
    if not Path(dicom_dir).is_dir():
        raise InputError(f"Expected a folder of DICOM files, but there is no folder {dicom_dir}.")
    with tempfile.TemporaryDirectory(prefix="lesionwise-") as folder:
        command = ["dcm2niix", "-b", "y", "-z", "y", "-f", "series%s_%d", "-o", folder, str(dicom_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        series = _series(Path(folder))
        if not series:
            said = [line for line in (done.stdout + done.stderr).strip().splitlines() if line]
            raise InputError(
                f"Expected DICOM images in {dicom_dir}, but dcm2niix made nothing of it ({said[-1] if said else '?'})."
            )
        chosen = {channel: _best(series, channel) for channel in channels}
        found = {channel: path for channel, path in chosen.items() if path is not None}
        if channels[0] not in found:
            raise InputError(
                f"Expected a {channels[0]} series in {dicom_dir}, found {', '.join(sorted(_label(s) for s in series))}."
            )
        return {channel: _file(path, bids_dir, name, channel) for channel, path in found.items()}


def _series(folder: Path) -> list[dict[str, Any]]:
    """What dcm2niix says of every image that it wrote, with `image`, its path."""
    series = []
    for image in sorted(folder.glob("*.nii.gz")):
        sidecar = image.with_name(image.name.replace(".nii.gz", ".json"))
        facts = json.loads(sidecar.read_text(encoding="utf-8", errors="replace")) if sidecar.is_file() else {}
        series.append({**facts, "image": image})
    return series


def _label(series: Mapping[str, Any]) -> str:
    names = [str(series.get(key, "")) for key in ("SeriesDescription", "ProtocolName")]
    return next((each for each in names if each), series["image"].name)


def _text(series: Mapping[str, Any]) -> str:
    keys = ("SeriesDescription", "ProtocolName", "PulseSequenceName", "SequenceName")
    return " ".join(str(series.get(key, "")) for key in keys).lower()


def _best(series: Sequence[Mapping[str, Any]], channel: str) -> Path | None:
    words, barred = WORDS.get(channel, (channel.lower(),)), NOT.get(channel, ())
    fitting = []
    for one in series:
        text = _text(one)
        derived = "DERIVED" in one.get("ImageType", ()) or "MIP" in one.get("ImageType", ())
        if any(word in text for word in words) and not any(word in text for word in barred):
            agent = "ContrastBolusAgent" in one or any(word in text for word in CONTRAST_AGENT)
            fitting.append((derived, agent, -one["image"].stat().st_size, one["image"].name, one["image"]))
    return min(fitting)[-1] if fitting else None


def _file(image: Path, bids_dir: Path, name: ScanName, channel: str) -> Path:
    """Copies an image and its sidecar to their BIDS names, whole."""
    target = bids_dir / name.folder / f"{name.stem}_{channel}.nii.gz"
    if not (bids_dir / "dataset_description.json").exists():
        write_bids_description(bids_dir, name="Scans converted from DICOM by dcm2niix")
    for source, path in ((image, target), *_sidecars(image, target)):
        with write_whole(path) as temporary:
            shutil.copyfile(source, temporary)
    return target


def _sidecars(image: Path, target: Path) -> list[tuple[Path, Path]]:
    source, path = (each.with_name(each.name.replace(".nii.gz", ".json")) for each in (image, target))
    return [(source, path)] if source.is_file() else []
