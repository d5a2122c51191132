"""`lesionwise triage`: fit, apply, and what it takes to fit honestly."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lesionwise import __version__
from lesionwise.attribution.gradient import SmoothGrad
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans, read_scan, write_json, write_table
from lesionwise.io.files import write_text
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import AbstractSegmenter, Segmenter
from lesionwise.triage.apply import triage_scan, write_triage
from lesionwise.triage.cohort import Extras, explain_cohort, measure_cohort, outcome_counts
from lesionwise.triage.evidence import evaluate, fit_sets, permutation_importance
from lesionwise.triage.model import load_triage, save_model
from lesionwise.triage.training import candidate_evidence, fit_output
from lesionwise.units import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Kind = Annotated[str, typer.Option("--kind", help="l1_logistic (published) or boosting.")]
MaxLoss = Annotated[float, typer.Option("--max-loss", min=0.0, max=0.5, help="Share of true lesions that may be lost.")]
Context = Annotated[bool, typer.Option("--context", help="Also ask the network again (features of context).")]
Radiomics = Annotated[bool, typer.Option("--radiomics", help="Also mirp's radiomics of the map (published).")]
Window = Annotated[
    int | None,
    typer.Option(
        "--window", min=16, help="Edge of the prediction window in voxels (the model's): small scans need no large one."
    ),
]
Network = Annotated[
    str | None, typer.Option("--network", help="The network that explained the scans, for features of context.")
]


@app.command()
def explain(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set with reference masks.")],
    out: Annotated[Path, typer.Argument(help="Output folder.")],
    model: o.Model = "builtin",
    trust: o.Trust = False,
    instances: Annotated[int, typer.Option("--instances", min=2, help="Lesions per scan, drawn by outcome.")] = 15,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Noise samples per lesion.")] = 8,
    threshold: o.Threshold = None,
    window: Window = None,
    participant: Annotated[
        list[str] | None, typer.Option("--participant-label", help="Only these participants; may be repeated.")
    ] = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
) -> None:
    """Explain a seeded draw of each scan's true and false lesions, to fit or to judge a triage model on."""
    segmenter = _narrowed(load_model(model, trust=trust, device=device), window)
    settings = Settings(method=SmoothGrad(n_samples=samples), threshold=threshold, device=device, seed=seed)
    with reporting() as reporter:
        done = explain_cohort(
            segmenter,
            bids_dir,
            out,
            settings,
            limit=instances,
            participants=participant,
            version=__version__,
            announce_fn=reporter.say,
        )
    counts = outcome_counts(out)
    total = ", ".join(f"{int(counts[kind].sum())} {kind}" for kind in ("TP", "FP", "FN"))
    typer.echo(f"{len(done)} scans: {total}; at most {instances} predicted lesions of each explained. Results: {out}")


@app.command()
def fit(
    out: Annotated[Path, typer.Argument(help="Output folder of triage explain, explain or study.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model's file, MODEL.json.")],
    kind: Kind = "l1_logistic",
    max_loss: MaxLoss = 0.05,
    families: Annotated[
        str | None, typer.Option("--features", help="Families, comma-separated (all that are measured).")
    ] = None,
    context: Context = False,
    radiomics: Radiomics = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    seed: o.Seed = 0,
) -> None:
    """Fit a triage model on explained scans with references; judged by nested cross-validation over patients."""
    segmenter = _network(network, trust=trust, needed=context)
    with reporting() as reporter:
        model, report = fit_output(
            out,
            kind=kind,
            max_loss=max_loss,
            families=None if families is None else [part.strip() for part in families.split(",")],
            extras=Extras(context=context, radiomics=radiomics),
            segmenter=None if segmenter is None else _narrowed(segmenter, window),
            fingerprint=None if segmenter is None else segmenter.fingerprint,
            seed=seed,
            progress_fn=reporter.step,
        )
    written = save_model(model, output)
    typer.echo(report)
    typer.echo(f"Model: {', '.join(map(str, written))}")


@app.command()
def apply(
    out: Annotated[Path, typer.Argument(help="Output folder of explain or study.")],
    model: Annotated[str, typer.Option("--model", help="builtin, or a model's JSON file.")] = "builtin",
    network: Network = None,
    trust: o.Trust = False,
    look: Annotated[int, typer.Option("--look", min=0, help="Likely misses to list per scan.")] = 10,
) -> None:
    """Judge every explained lesion: probability of being false, verdict, three reasons, a cleaned mask, likely misses."""
    triage = load_triage(model)
    segmenter = _network(network, trust=trust, needed="context" in triage.families)
    names = list_scans(out)
    if not names:
        raise InputError(f"Expected finished scans in {out}, found none: run explain or study first.")
    with reporting() as reporter:
        for number, name in enumerate(names):
            triaged = triage_scan(read_scan(out, name), triage, segmenter=segmenter, look=look)
            write_triage(triaged, out, model=triage)
            for note in triaged.notes:
                reporter.say(f"{name.stem}: {note}")
            reporter.step("triage", number + 1, len(names))
            judged = int(triaged.lesions["triage_verdict"].notna().sum())
            typer.echo(
                f"{name.stem}: {triaged.n_false} of {judged} lesions are probably false; "
                f"{len(triaged.look_here)} places to look at for misses."
            )


@app.command()
def evidence(
    fitted: Annotated[Path, typer.Argument(help="Output folder to fit on.")],
    held_out: Annotated[Path, typer.Argument(help="Output folder of other patients, to judge on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the evidence.")],
    kind: Kind = "l1_logistic",
    max_loss: MaxLoss = 0.05,
    context: Context = False,
    radiomics: Radiomics = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Patient bootstrap resamples.")] = 1000,
    seed: o.Seed = 0,
) -> None:
    """Compare sets of features on held-out patients: baselines, saliency, both, with intervals over patients."""
    segmenter = _network(network, trust=trust, needed=context)
    segmenter = None if segmenter is None else _narrowed(segmenter, window)
    extras = Extras(context=context, radiomics=radiomics)
    with reporting() as reporter:
        tables = [
            measure_cohort(folder, extras=extras, model=segmenter, progress_fn=reporter.step)
            for folder in (fitted, held_out)
        ]
        channels = read_scan(fitted, list_scans(fitted)[0]).channels
        models = fit_sets(tables[0], channels=channels, kind=kind, max_loss=max_loss, seed=seed)
        found = evaluate(
            models, tables[1], outcome_counts(held_out), max_loss=max_loss, n_resamples=resamples, seed=seed
        )
    importance = {name: permutation_importance(one, tables[1], seed=seed) for name, one in models.items()}
    misses = candidate_evidence(fitted, held_out, channels=channels, seed=seed)
    content = {**found.as_dict(), "kind": kind, "permutation_importance": importance, "likely_misses": misses}
    write_json(output / "evidence.json", content)
    write_text(output / "evidence.md", found.markdown())
    write_table(output / "held_out.tsv", tables[1])
    typer.echo(found.markdown())
    typer.echo("Likely misses: " + ", ".join(f"{name} {value}" for name, value in misses.items()))


def _network(ref: str | None, *, trust: bool, needed: bool) -> AbstractSegmenter | None:
    """The network, if one is named or needed."""
    if ref is None and not needed:
        return None
    return load_model(ref or "builtin", trust=trust)


def _narrowed(model: AbstractSegmenter, window: int | None) -> AbstractSegmenter:
    """The same network with another prediction window; only for networks that this package lays on their grid itself."""
    if window is None:
        return model
    if not isinstance(model, Segmenter):
        raise InputError(f"The window of {model.spec.name} is fixed by its own preprocessing: leave --window out.")
    return replace(model, description=replace(model.spec, window=(window, window, window)))
