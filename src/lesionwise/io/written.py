"""Which scans of an output folder can be used: their files are as they were written.

Whoever writes a scan's files notes them last (`OUT/.lesionwise/written/<stem>_<what>.json`: size, times, SHA-256), so that
whoever reads them can tell damage from a result. Folders without notes (of earlier versions) are checked by content alone.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import LeftOut
from lesionwise.io.checks import read_json
from lesionwise.io.derivative import ScanOutput, list_scans, read_scan, write_json
from lesionwise.io.noted import Noted, damaged_files, note_files

WHAT = ("maps", "triage")
"""Who notes: the explanation and triage, each its own files."""


def note_written(out: Path, name: ScanName, what: str, paths: Iterable[Path]) -> None:
    """Notes all files of a scan that are in place now."""
    noted = note_files(out, paths)
    write_json(_path(out, name, what), {file: one.as_dict() for file, one in noted.items()})


def forget_written(out: Path, name: ScanName, what: str) -> None:
    """To be called before files are replaced: they are not as noted from now on."""
    _path(out, name, what).unlink(missing_ok=True)


def check_written(out: Path, name: ScanName) -> None:
    """Raises InputError that names the file if one of the scan is gone, or is not as it was written."""
    for what in WHAT:
        damaged = damaged_files(out, _noted(_path(out, name, what)))
        if damaged:
            state = "it was changed or damaged" if damaged[0].is_file() else "it is gone"
            again = "explain" if what == "maps" else "judge"
            raise InputError(f"Expected {damaged[0]} as it was written, but {state}: {again} {name.stem} again.")


def read_sound_scan(out: Path, name: ScanName) -> ScanOutput:
    """A finished scan whose files are as they were written. Raises InputError for any other."""
    check_written(Path(out), name)
    return read_scan(Path(out), name)


def check_images(scan: ScanOutput) -> None:
    """Raises InputError unless probability, mask, instances, maps and table of a scan are of one grid and of the same lesions."""
    files, shape = scan.files, scan.probability.shape
    for path, data in ((files.mask, scan.mask), (files.labels, scan.labels)):
        if data.shape != shape:
            raise InputError(f"Expected {path} with the shape of the probability, {shape}, found {data.shape}.")
    drawn, listed = {*np.unique(scan.labels).tolist()} - {0}, {*scan.lesions["lesion"].astype(int)}
    if not drawn <= listed:
        number = min(drawn - listed)
        raise InputError(
            f"Expected the lesions of {files.lesions.name} in {files.labels}, but it has a lesion {number}."
        )
    for (label, _), path in files.saliency_files().items():
        stop = read_json(path.with_name(path.name.replace(".nii.gz", ".json"))).get("CropStop")
        beyond = isinstance(stop, list) and any(
            type(n) is int and n > size for n, size in zip(stop, shape, strict=False)
        )
        if label not in listed or beyond:
            raise InputError(f"Expected a map of one of the scan's lesions, inside it, found another in {path}.")


def usable_scans(out: Path) -> tuple[list[ScanOutput], list[LeftOut]]:
    """All scans of an output folder that can be used, and the others with the reason."""
    out = Path(out)
    usable, left_out = [], []
    for name in list_scans(out):
        try:
            usable.append(read_sound_scan(out, name))
        except InputError as error:
            left_out.append(LeftOut(name, str(error)))
    known = {name.stem for name in list_scans(out)}
    for path in sorted((out / ".lesionwise" / "written").glob("[!.]*_maps.json")):
        stem = path.name.removesuffix("_maps.json")
        if stem not in known:
            name = ScanName.of_stem(stem)
            left_out.append(LeftOut(name, f"Expected {stem}_lesions.json in {out / name.folder}, but it is gone."))
    return usable, left_out


def require_usable(out: Path) -> tuple[list[ScanOutput], list[LeftOut]]:
    """As `usable_scans`. Raises InputError if there is none that can be used."""
    usable, left_out = usable_scans(out)
    if not usable and left_out:
        raise InputError(f"Expected finished scans in {out}, found none that can be used: {left_out[0].reason}")
    if not usable:
        raise InputError(f"Expected finished scans in {out}, found none: run explain or study first.")
    return usable, left_out


def _path(out: Path, name: ScanName, what: str) -> Path:
    return Path(out) / ".lesionwise" / "written" / f"{name.stem}_{what}.json"


def _noted(path: Path) -> Mapping[str, Noted]:
    """The notes; empty where there are none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(file): Noted.from_dict(entry) for file, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
