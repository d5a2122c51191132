"""Options that mean the same in every command, and how they become settings."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

from lesionwise.api import resolve_device
from lesionwise.attribution import METHODS, SmoothGrad
from lesionwise.attribution.method import AbstractMethod
from lesionwise.attribution.preset import PRESETS
from lesionwise.attribution.preset import preset as preset_named
from lesionwise.errors import InputError
from lesionwise.instances.components import parse_min_size
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Settings

_PUBLISHED_CHUNK = 512
Model = Annotated[str, typer.Option("--model", help="builtin, another shipped name, or a model's file or folder.")]
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
Seed = Annotated[int, typer.Option("--seed", help="Seed of the noise and of every random choice.")]
Triage = Annotated[
    str | None,
    typer.Option("--triage", help="builtin, or a fitted triage model's file: which lesions are probably false."),
]
Snr = Annotated[bool, typer.Option("--snr/--no-snr", help="Also write the map's signal-to-noise ratio.")]


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


def settings_of(
    segmenter: AbstractSegmenter,
    *,
    method: str,
    reduce: str,
    max_voxels: str,
    target: str,
    samples: int | None,
    noise: float | None,
    preset: str | None,
    lesions: str,
    controls: int,
    threshold: float | None,
    connectivity: int,
    min_size: str | None,
    rule: str,
    one_to_one: bool,
    tolerance: float | None,
    antithetic: bool | None,
    device: str,
    seed: int,
    snr: bool,
    approximate: Sequence[str] | None = None,
) -> Settings:
    """Settings from the command line; a preset comes first, --threshold and --samples change it.

    Raises InputError that names the option and what it takes.
    """
    size, unit = (None, "voxels") if min_size is None else parse_min_size(min_size)
    chosen: dict = {
        "target": one_of("--target", target, ("log_odds", "logit", "probability")),
        "connectivity": connectivity,
        "method": method_of(
            method,
            reduce=one_of("--reduce", reduce, ("mean", "max")),
            max_voxels=max_voxels,
            samples=samples,
            noise=noise,
            tolerance=tolerance,
            antithetic=antithetic,
        ),
    }
    if preset is not None:
        chosen |= published(preset, segmenter, method=method)
        if samples is not None and method != "gradcampp":
            chosen["method"] = replace(chosen["method"], n_samples=samples)
    if threshold is not None:
        chosen["threshold"] = threshold
    for name in approximate or ():
        one_of("--approximate", name, ("lesion-window", "chunked-max"))
    if "chunked-max" in (approximate or ()):
        chosen["method"] = with_chunks(chosen["method"])
    return Settings(
        lesions=lesions,
        controls=controls,
        min_size=size,
        min_size_unit=unit,
        rule=one_of("--rule", rule, ("overlap", "iou")),
        one_to_one=one_to_one,
        device=resolve_device(device),
        seed=seed,
        snr=snr,
        lesion_window="lesion-window" in (approximate or ()),
        **chosen,
    )


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


def method_of(
    name: str,
    *,
    reduce: str,
    max_voxels: str,
    samples: int | None,
    noise: float | None,
    tolerance: float | None,
    antithetic: bool | None,
) -> AbstractMethod:
    """A method with the options that it understands; an option it does not know is an error, not ignored."""
    if name not in METHODS:
        raise InputError(f"Expected --method to be one of {', '.join(METHODS)}, found {name!r}.")
    kind = METHODS[name]
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    if max_voxels != "all" and not (max_voxels.isdigit() and int(max_voxels) > 0):
        raise InputError(f"Expected --max-voxels to be a number above 0 or all, found {max_voxels!r}.")
    draws = "n_steps" if "n_steps" in known else "n_samples"
    given: dict = {}
    if "reduce" in known:
        given |= {"reduce": reduce, "max_voxels": None if max_voxels == "all" else int(max_voxels)}
    for option, value in (
        (draws, samples),
        ("noise", noise),
        ("tolerance", tolerance),
        ("antithetic", antithetic),
    ):
        if value is None:
            continue
        if option not in known:
            raise InputError(
                f"The method {name} has no option --{option.replace('n_', '').replace('steps', 'samples')}."
            )
        given[option] = value
    return kind(**given)


def one_of(option: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InputError(f"Expected {option} to be {' or '.join(choices)}, found {value!r}.")
    return value
