"""Options that mean the same in every command, and how they become settings."""

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from lesionwise.api import resolve_device
from lesionwise.attribution import METHODS, SmoothGrad
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.options import StatisticsName
from lesionwise.attribution.preset import PRESETS
from lesionwise.attribution.preset import preset as preset_named
from lesionwise.errors import InputError
from lesionwise.instances.components import parse_min_size
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Settings

_PUBLISHED_CHUNK = 512
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="builtin, another shipped name, or a model's file or folder. Options may follow: nnU-Net "
        "PATH?folds=0,1&checkpoint=best&mirroring=off&channels=FLAIR,T1w&lesion=1; bundles channels, lesion; folds of "
        "lesionwise fold. `lesionwise models show MODEL` lists them.",
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Let the model's files run code of their own.")]
Method = Annotated[str, typer.Option("--method", help=f"One of {', '.join(METHODS)}.")]
Reduce = Annotated[
    str, typer.Option("--reduce", help="mean over the lesion's voxels, or max (signed, largest magnitude).")
]
MaxVoxels = Annotated[str, typer.Option("--max-voxels", help="Voxels of a lesion that max looks at: a number, or all.")]
Target = Annotated[str, typer.Option("--target", help="log_odds, logit or probability of the lesion class.")]
Samples = Annotated[int | None, typer.Option("--samples", min=1, help="Noise samples (50).", show_default=False)]
Noise = Annotated[
    float | None,
    typer.Option("--noise", min=0.0, help="Noise SD as a fraction of a channel's range (0.05)."),
]
Preset = Annotated[str | None, typer.Option("--preset", help=f"Published settings: {', '.join(PRESETS)}.")]
Lesions = Annotated[
    str, typer.Option("--lesions", help="all, numbers such as 1,4, largest:5, or drawn:9 (over outcomes).")
]
Controls = Annotated[
    int, typer.Option("--controls", min=0, help="Control regions (TN) to place in healthy white matter.")
]
Threshold = Annotated[
    float | None, typer.Option("--threshold", help="Probability above which a voxel is lesion (the model's).")
]
Connectivity = Annotated[int, typer.Option("--connectivity", help="6, 18 or 26.")]
MinSize = Annotated[str | None, typer.Option("--min-size", help="Smallest lesion: voxels (6), or mm3 as in 10mm3.")]
Rule = Annotated[str, typer.Option("--rule", help="overlap (one voxel, published) or iou (0.25).")]
OneToOne = Annotated[bool, typer.Option("--one-to-one", help="Match each component with at most one.")]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", help="Stop when the peak's SE is below this fraction of it.")
]
Antithetic = Annotated[
    bool | None,
    typer.Option("--antithetic/--independent", help="Draw noise in pairs of opposite sign (from 16 samples on)."),
]
Approximate = Annotated[
    list[str] | None,
    typer.Option(
        "--approximate",
        help="lesion-window: one window around each lesion instead of those that predicted it. "
        f"chunked-max: max over sums of {_PUBLISHED_CHUNK} voxels. Named in every sidecar.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise and of every random choice.")]
Triage = Annotated[
    str | None,
    typer.Option("--triage", help="builtin, or a fitted triage model's file: which lesions are probably false."),
]
Statistics = Annotated[
    str,
    typer.Option(
        "--statistics",
        help="Instance and group norms: exact (their figures follow the noise), fixed (held, far cheaper), split "
        "(both, unbiased), auto (the plan's choice).",
    ),
]
Views = Annotated[
    str,
    typer.Option("--views", help="Mirrors and folds that each draw runs: all, spread (one, at random) or a number."),
]
SaveParts = Annotated[bool, typer.Option("--save-parts", help="Also write the two parts of a split map.")]
KeepMm = Annotated[
    float | None,
    typer.Option("--keep-mm", help="Keep maps up to so many mm from their lesion, at least 10 (everything)."),
]
Why = Annotated[
    bool,
    typer.Option("--why/--no-why", help="Also say what would have changed the network's mind about each lesion."),
]
Snr = Annotated[bool, typer.Option("--snr/--no-snr", help="Also write the map's signal-to-noise ratio.")]


ParticipantLabel = Annotated[
    list[str] | None,
    typer.Option("--participant-label", "--participant_label", help="Subjects, with or without sub- (all)."),
]
SessionLabel = Annotated[
    list[str] | None,
    typer.Option("--session-label", "--session_label", help="Sessions, with or without ses- (all)."),
]
Shard = Annotated[str, typer.Option("--shard", help="i/n: the i-th of n equal shares of the scans.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Local processes that share cores, or take a GPU each.")
]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="Address or scheduler file of a Dask cluster.")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Keep what is finished.")]
ReferenceFrom = Annotated[
    Path | None,
    typer.Option("--reference-from", help="Folder of reference masks, or none (the data set's derivatives)."),
]
ReferenceLabel = Annotated[
    str | None,
    typer.Option("--reference-label", help="Values of the reference that are lesion, such as 1,2 (the one besides 0)."),
]
ReferenceThreshold = Annotated[
    float | None,
    typer.Option("--reference-threshold", help="For soft masks: the value of the reference above which it is lesion."),
]
BidsFilter = Annotated[
    Path | None,
    typer.Option(
        "--bids-filter",
        "--bids-filter-file",
        help='JSON file of entities that images must have: {"FLAIR": {"acquisition": "3D", "space": null}}.',
    ),
]
Resample = Annotated[
    bool,
    typer.Option(
        "--resample",
        help="Bring other grids onto the first image's: channels by linear interpolation, masks by nearest neighbour.",
    ),
]

Prepare = Annotated[
    bool,
    typer.Option("--prepare", help="Scanner files: align them, extract the brain, correct the bias field first."),
]
BrainExtraction = Annotated[
    str, typer.Option("--brain-extraction", help="deepbet, hd-bet, synthstrip or none, where scans are prepared.")
]
Onto = Annotated[str, typer.Option("--onto", help="Channel whose grid the others go to, where scans are prepared.")]
Dicom = Annotated[Path | None, typer.Option("--dicom", help="Folder of one scan's DICOM files (needs dcm2niix).")]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What explain, study and experiment are asked for: one field per option, in the order of the help."""

    method: Method = "smoothgrad"
    reduce: Reduce = "mean"
    max_voxels: MaxVoxels = "64"
    target: Target = "log_odds"
    samples: Samples = None
    noise: Noise = None
    preset: Preset = None
    lesions: Lesions = "all"
    controls: Controls = 0
    threshold: Threshold = None
    connectivity: Connectivity = 18
    min_size: MinSize = None
    rule: Rule = "overlap"
    one_to_one: OneToOne = False
    tolerance: Tolerance = None
    antithetic: Antithetic = None
    approximate: Approximate = None
    device: Device = "auto"
    seed: Seed = 0
    snr: Snr = False
    statistics: Statistics = "auto"
    views: Views = "all"
    save_parts: SaveParts = False
    keep_mm: KeepMm = None


def with_choices(
    *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of `Choices` in the place of its parameter `choices`.

    Those in `without` are not offered and keep their default; `defaults` are what this command has in their place.
    """
    offered = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(item.name, item.default),
            annotation=item.type,
        )
        for item in fields(Choices)
        if item.name not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {option.name: given.pop(option.name) for option in offered}
            command(**given, choices=Choices(**chosen))

        shown: list[inspect.Parameter] = []
        for own in inspect.signature(command).parameters.values():
            shown += offered if own.name == "choices" else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return run

    return decorate


def images_of(pairs: Sequence[str]) -> dict[str, Path]:
    """`["FLAIR=a.nii.gz", ...]` as a mapping. Raises InputError for anything else."""
    images: dict[str, Path] = {}
    for pair in pairs:
        channel, equals, path = pair.partition("=")
        if not equals or not channel or not path:
            raise InputError(f"Expected an image as CHANNEL=FILE, such as FLAIR=flair.nii.gz, found {pair!r}.")
        if channel in images:
            raise InputError(f"Expected each channel once, found {channel} twice.")
        images[channel] = Path(path)
    return images


def subject_of(text: str) -> str:
    """A subject's label without `sub-`. Raises InputError for one that BIDS file names cannot hold."""
    label = text.removeprefix("sub-")
    if not (label.isascii() and label.isalnum()):
        raise InputError(f"Expected --subject to be letters and digits, such as 01, found {text!r}.")
    return label


def settings_of(segmenter: AbstractSegmenter, choices: Choices) -> Settings:
    """Settings from the command line; a preset comes first, --threshold and --samples change it.

    Raises InputError that names the option and what it takes.
    """
    size, unit = (None, "voxels") if choices.min_size is None else parse_min_size(choices.min_size)
    approximate = choices.approximate or []
    for name in approximate:
        one_of("--approximate", name, ("lesion-window", "chunked-max"))
    chosen: dict = {
        "target": one_of("--target", choices.target, ("log_odds", "logit", "probability")),
        "connectivity": choices.connectivity,
        "method": method_of(choices),
    }
    if choices.preset is not None:
        chosen |= published(choices.preset, segmenter, method=choices.method)
        if choices.samples is not None and choices.method != "gradcampp":
            chosen["method"] = replace(chosen["method"], n_samples=choices.samples)
    if choices.threshold is not None:
        chosen["threshold"] = choices.threshold
    if "chunked-max" in approximate:
        chosen["method"] = with_chunks(chosen["method"])
    return Settings(
        lesions=choices.lesions,
        controls=choices.controls,
        min_size=size,
        min_size_unit=unit,
        rule=one_of("--rule", choices.rule, ("overlap", "iou")),
        one_to_one=choices.one_to_one,
        device=resolve_device(choices.device),
        seed=choices.seed,
        snr=choices.snr,
        lesion_window="lesion-window" in approximate,
        statistics=statistics_of(choices),
        views=views_of(choices.views),
        save_parts=choices.save_parts,
        keep_mm=choices.keep_mm,
        **chosen,
    )


def statistics_of(choices: Choices) -> Any:
    """How statistics are treated; what was published followed the noise. Raises InputError for a word without meaning."""
    wanted = one_of("--statistics", choices.statistics, get_args(StatisticsName))
    return "exact" if wanted == "auto" and choices.preset is not None else wanted


def views_of(text: str) -> str | int:
    """Raises InputError for anything but all, spread and numbers above 0."""
    if text in ("all", "spread"):
        return text
    if not (text.isdigit() and int(text) > 0):
        raise InputError(f"Expected --views to be all, spread or a number above 0, found {text!r}.")
    return int(text)


def with_chunks(method: AbstractMethod) -> AbstractMethod:
    """The method with the published script's max over sums of chunks. Raises InputError for any other than max."""
    if not isinstance(method, SmoothGrad) or method.reduce != "max":
        raise InputError("Expected --approximate chunked-max with --reduce max.")
    return replace(method, chunk=_PUBLISHED_CHUNK)


def published(name: str, segmenter: AbstractSegmenter, *, method: str) -> dict:
    """What a preset sets: target, method (its Grad-CAM++ if that is asked for), connectivity, threshold of the network."""
    chosen = preset_named(name)
    return {
        "target": chosen.target,
        "method": chosen.gradcampp if method == "gradcampp" else chosen.smoothgrad,
        "connectivity": chosen.connectivity,
        "threshold": chosen.thresholds.get(type(segmenter.network).__name__.lower(), max(chosen.thresholds.values())),
    }


def method_of(choices: Choices) -> AbstractMethod:
    """A method with the options that it understands; an option it does not know is an error, not ignored."""
    name, voxels = choices.method, choices.max_voxels
    if name not in METHODS:
        raise InputError(f"Expected --method to be one of {', '.join(METHODS)}, found {name!r}.")
    kind = METHODS[name]
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    reduce = one_of("--reduce", choices.reduce, ("mean", "max"))
    if voxels != "all" and not (voxels.isdigit() and int(voxels) > 0):
        raise InputError(f"Expected --max-voxels to be a number above 0 or all, found {voxels!r}.")
    draws = "n_steps" if "n_steps" in known else "n_samples"
    given: dict = {}
    if "reduce" in known:
        given |= {"reduce": reduce, "max_voxels": None if voxels == "all" else int(voxels)}
    for field, option, value in (
        (draws, "samples", choices.samples),
        ("noise", "noise", choices.noise),
        ("tolerance", "tolerance", choices.tolerance),
        ("antithetic", "antithetic", choices.antithetic),
    ):
        if value is None:
            continue
        if field not in known:
            raise InputError(f"The method {name} has no option --{option}.")
        given[field] = value
    return kind(**given)


def one_of(option: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InputError(f"Expected {option} to be {' or '.join(choices)}, found {value!r}.")
    return value
