"""Why, for scans in memory and for finished ones of an output folder: the table, its sidecar, the cohort's columns."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.attribution.target import target_named
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.instances.matching import select
from lesionwise.io.cases import read_case
from lesionwise.io.derivative import WHY_WORDS, ScanFiles, ScanOutput, write_json, write_table
from lesionwise.io.masks import ReferenceRule
from lesionwise.io.written import read_sound_scan
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.store import write_columns
from lesionwise.units import Explained, Settings, find_case
from lesionwise.why.columns import described
from lesionwise.why.lesions import USUAL, Effort, why_scan

_NOT_SAVED = ("method", "device")


def explain_why(
    explained: Explained,
    model: AbstractSegmenter,
    out: Path,
    *,
    effort: Effort = USUAL,
    progress_fn: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Why for the lesions of a scan that was just explained into `out`; written beside its table and returned."""
    settings = explained.settings
    chosen = select(list(explained.instances), settings.lesions, seed=settings.seed) if explained.instances else []
    wanted = tuple(one.label for one in chosen)
    scan = Scan(model.for_case(explained.case), explained, settings.device, wanted)
    table = why_scan(scan, effort=effort, progress_fn=progress_fn, say=say)
    write_why(ScanFiles(Path(out), explained.case.name), table, WrittenAs.of_scan(scan))
    return table


def finished_scan(out: Path, name: ScanName, model: AbstractSegmenter, *, lesions: str, device: str = "cpu") -> Scan:
    """A scan of an output folder, ready to be asked about again by the model that explained it.

    `lesions` says which ("all", "largest:5", "1,4"). Raises InputError if its images are gone, or if the model or what
    is found now is not what the folder holds.
    """
    output = read_sound_scan(out, name)
    known = output.facts.get("Model", {}).get("Fingerprint")
    if known != model.fingerprint:
        raise InputError(
            f"Expected the model that explained {name.stem} in {out} (fingerprint {known}), found {model.spec.name} "
            f"({model.fingerprint}): name it with --model."
        )
    images = dict(output.sources)
    reference, brain_mask = images.pop("reference", None), images.pop("brain_mask", None)
    read = [*images.values(), *(path for path in (reference, brain_mask) if path is not None)]
    gone = [str(path) for path in read if not path.is_file()]
    if gone or not images:
        raise InputError(
            f"Asking again about {name.stem} needs its images, but {', '.join(gone) or 'none'} is missing."
        )
    rule = ReferenceRule.of_facts(output.facts.get("ReferenceRule"))
    case = read_case(images, reference=reference, reference_rule=rule, brain_mask=brain_mask, name=name, resample=True)
    settings = replace(settings_of(out), lesions=lesions, device=device)
    used, _, explained = find_case(model, case, settings, known=output.files)
    if explained.keys["InstancesKey"] != output.facts.get("InstancesKey"):
        raise InputError(
            f"The lesions of {name.stem} found again are not those in {out}: its images or settings changed since. "
            "Explain the scan again."
        )
    wanted = tuple(one.label for one in select(list(explained.instances), lesions, seed=settings.seed))
    return Scan(used, explained, device, wanted)


def settings_of(out: Path) -> Settings:
    """The settings in an output folder's `config.toml`, but for method and device."""
    saved = _config(out, "settings")
    names = {one.name for one in fields(Settings)} - set(_NOT_SAVED)
    try:
        return Settings(**{key: value for key, value in saved.items() if key in names})
    except (ValueError, TypeError) as error:
        raise _unreadable(out) from error


def _config(out: Path, table: str) -> dict[str, Any]:
    """One table of `config.toml`."""
    try:
        return dict(tomllib.loads((Path(out) / "config.toml").read_text(encoding="utf-8")).get(table, {}))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(out) from error


def _unreadable(out: Path) -> InputError:
    return InputError(f"Expected the settings of the run in {Path(out) / 'config.toml'}, but they cannot be read.")


@dataclass(frozen=True)
class WrittenAs:
    """What a scan was explained with, as its rows of the cohort's table are known by."""

    channels: tuple[str, ...]
    unit: str
    method: str
    fingerprint: str
    threshold: float

    @classmethod
    def of_scan(cls, scan: Scan) -> "WrittenAs":
        """Of a scan in memory."""
        settings, model = scan.explained.settings, scan.explained.model
        unit = target_named(settings.target).unit
        return cls(scan.channels, unit, settings.method.name, str(model["Fingerprint"]), scan.threshold)

    @classmethod
    def of(cls, output: ScanOutput) -> "WrittenAs":
        """Of a finished scan. Raises InputError if its run's settings cannot be read."""
        out, facts = output.files.out, output.facts
        return cls(
            output.channels,
            target_named(settings_of(out).target).unit,
            str(_config(out, "method").get("name", Settings().method.name)),
            str(facts["Model"]["Fingerprint"]),
            float(facts["Threshold"]),
        )


def write_why(files: ScanFiles, table: pd.DataFrame, kept: WrittenAs) -> None:
    """`<stem>_why.tsv` and its sidecar, and the numbers among its columns into the cohort's table."""
    columns = described(kept.channels, unit=kept.unit)
    sidecar: dict[str, Any] = {name: columns[name] for name in table.columns}
    sidecar["Model"] = {"Fingerprint": kept.fingerprint, "Threshold": kept.threshold}
    files.why_table.with_suffix(".json").unlink(missing_ok=True)
    write_table(files.why_table, table)
    write_json(files.why_table.with_suffix(".json"), sidecar)
    numbers = table.drop(columns=[name for name in WHY_WORDS if name in table]).astype(float).astype({"lesion": int})
    write_columns(files.out, files.name, numbers, model=kept.fingerprint, method=kept.method)
