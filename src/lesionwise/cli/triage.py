"""`lesionwise triage`: fit, apply, and what it takes to fit honestly."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lesionwise import __version__
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans, read_scan, write_json, write_table
from lesionwise.io.files import write_text
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import AbstractSegmenter, Segmenter
from lesionwise.stats.risk import Promise
from lesionwise.triage.apply import triage_scan, write_triage
from lesionwise.triage.choice import RULE
from lesionwise.triage.choice import choose as choose_option
from lesionwise.triage.cohort import Extras, explain_cohort, measure_cohort, outcome_counts
from lesionwise.triage.evaluation import evaluate_output
from lesionwise.triage.evidence import evaluate, fit_sets, permutation_importance
from lesionwise.triage.model import load_triage, save_model
from lesionwise.triage.published import published_recipe
from lesionwise.triage.scorer import KINDS
from lesionwise.triage.training import fit_output
from lesionwise.units import Settings

BOTH = ",".join(KINDS)

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Kind = Annotated[str, typer.Option("--kind", help="l1_logistic (published) or boosting.")]
MaxLoss = Annotated[
    float,
    typer.Option(
        "--max-loss", min=0.001, max=0.5, help="Share of true lesions a patient may lose, mean over patients."
    ),
]
Tail = Annotated[
    float, typer.Option("--tail", min=0.001, max=0.5, help="Share of the patients that may lose more than twice that.")
]
Confidence = Annotated[float, typer.Option("--confidence", min=0.5, max=0.999, help="Of the promise.")]
Kinds = Annotated[str, typer.Option("--kind", help="Kinds of model, comma-separated.")]
Context = Annotated[
    bool,
    typer.Option("--context", help="Also ask the network again without parts of the input (context, faithfulness)."),
]
Disagreement = Annotated[
    bool, typer.Option("--disagreement", help="Also ask the network again mirrored, under noise and with dropout.")
]
Resamples = Annotated[int, typer.Option("--resamples", min=100, help="Patient bootstrap resamples.")]
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
    instances: Annotated[
        int, typer.Option("--instances", min=0, help="Lesions per scan, drawn by outcome; 0 only predicts.")
    ] = 15,
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
def choose(
    out: Annotated[Path, typer.Argument(help="Output folder to fit on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The choice's file, CHOICE.json.")],
    kind: Kinds = BOTH,
    max_loss: MaxLoss = 0.05,
    tail: Tail = 0.05,
    confidence: Confidence = 0.9,
    every: Annotated[
        bool, typer.Option("--every", help="On all predicted lesions, explained or not: sets that need no map.")
    ] = False,
    context: Context = False,
    disagreement: Disagreement = False,
    radiomics: Radiomics = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    seed: o.Seed = 0,
) -> None:
    """Choose features and kind of model by nested cross-validation over the fitting patients and a stated rule."""
    extras = Extras(context=context, radiomics=radiomics, disagreement=disagreement)
    segmenter = _asked(network, extras, window=window, trust=trust)
    with reporting() as reporter:
        table = measure_cohort(out, extras=extras, model=segmenter, every=every, progress_fn=reporter.step)
        channels = read_scan(out, list_scans(out)[0]).channels
        promise = Promise.of(max_loss, tail=tail, confidence=confidence)
        chosen = choose_option(table, channels=channels, kinds=_kinds(kind), promise=promise, seed=seed)
    write_json(output, chosen.as_dict())
    write_text(output.with_suffix(".md"), chosen.markdown())
    typer.echo(chosen.markdown())
    typer.echo(f"Taken: {chosen.option.features}, {chosen.option.kind}. {RULE}")


@app.command()
def fit(
    out: Annotated[Path, typer.Argument(help="Output folder of triage explain, explain or study.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model's file, MODEL.json.")],
    kind: Kind = "l1_logistic",
    max_loss: MaxLoss = 0.05,
    tail: Tail = 0.05,
    confidence: Confidence = 0.9,
    families: Annotated[
        str | None, typer.Option("--features", help="Families, comma-separated (all that are measured).")
    ] = None,
    choice: Annotated[
        Path | None, typer.Option("--choice", help="Take features and kind from the file of triage choose.")
    ] = None,
    misses: Annotated[
        bool, typer.Option("--misses", help="Also learn to order likely misses (else by highest probability).")
    ] = False,
    caution: Annotated[
        str | None, typer.Option("--caution", help="A sentence that goes with every scan the model judges.")
    ] = None,
    context: Context = False,
    disagreement: Disagreement = False,
    radiomics: Radiomics = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    seed: o.Seed = 0,
) -> None:
    """Fit a triage model on explained scans with references; judged by nested cross-validation over patients."""
    named = None if families is None else [part.strip() for part in families.split(",")]
    extras = Extras(context=context, radiomics=radiomics, disagreement=disagreement)
    if choice is not None:
        named, kind = _chosen(choice)
        extras = Extras.needed(named)
    segmenter = _asked(network, extras, window=window, trust=trust)
    with reporting() as reporter:
        model, report = fit_output(
            out,
            kind=kind,
            promise=Promise.of(max_loss, tail=tail, confidence=confidence),
            families=named,
            extras=extras,
            segmenter=segmenter,
            fingerprint=None if network is None else load_model(network, trust=trust).fingerprint,
            misses=misses,
            caution=caution,
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
    segmenter = _asked(network, Extras.needed(triage.families), window=None, trust=trust)
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
    kind: Kinds = BOTH,
    max_loss: MaxLoss = 0.05,
    tail: Tail = 0.05,
    confidence: Confidence = 0.9,
    context: Context = False,
    disagreement: Disagreement = False,
    radiomics: Radiomics = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    resamples: Resamples = 1000,
    seed: o.Seed = 0,
) -> None:
    """Compare sets of features on held-out patients: baselines, saliency, both, with intervals over patients."""
    extras = Extras(context=context, radiomics=radiomics, disagreement=disagreement)
    segmenter = _asked(network, extras, window=window, trust=trust)
    content: dict[str, object] = {}
    pages: list[str] = []
    with reporting() as reporter:
        tables = [
            measure_cohort(folder, extras=extras, model=segmenter, progress_fn=reporter.step)
            for folder in (fitted, held_out)
        ]
        channels = read_scan(fitted, list_scans(fitted)[0]).channels
        counts = outcome_counts(held_out)
        at_risk = tables[0].loc[tables[0]["outcome"].isin(("TP", "US")), "subject"].nunique()
        promise = Promise.of(max_loss, tail=tail, confidence=confidence).within_reach(max(at_risk, 1))
        pages.append(f"Every set: {promise.sentence()}.")
        for one in _kinds(kind):
            models = fit_sets(tables[0], channels=channels, kind=one, promise=promise, seed=seed)
            found = evaluate(models, tables[1], counts, max_loss=max_loss, n_resamples=resamples, seed=seed)
            importance = {name: permutation_importance(model, tables[1], seed=seed) for name, model in models.items()}
            content[one] = {**found.as_dict(), "permutation_importance": importance}
            pages.append(f"{one}\n\n{found.markdown()}")
        if radiomics:
            pages.append(published_recipe(tables[0], tables[1], counts, seed=seed).markdown())
    write_json(output / "evidence.json", content)
    write_text(output / "evidence.md", "\n".join(pages))
    write_table(output / "held_out.tsv", tables[1])
    typer.echo("\n".join(pages))


@app.command(name="evaluate")
def evaluate_command(
    out: Annotated[Path, typer.Argument(help="Output folder of scans with references.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the evaluation.")],
    model: Annotated[str, typer.Option("--model", help="builtin, or a model's JSON file.")] = "builtin",
    max_loss: MaxLoss = 0.05,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    resamples: Resamples = 1000,
    seed: o.Seed = 0,
) -> None:
    """Judge one fixed model on scans with references: nothing is fitted. Also how the likely misses are ordered."""
    triage = load_triage(model)
    segmenter = _asked(network, Extras.needed(triage.families), window=window, trust=trust)
    with reporting() as reporter:
        found = evaluate_output(
            out,
            triage,
            segmenter=segmenter,
            max_loss=max_loss,
            n_resamples=resamples,
            seed=seed,
            progress_fn=reporter.step,
        )
    write_json(output / "evaluation.json", {"model": triage.fingerprint, **found.as_dict()})
    write_text(output / "evaluation.md", found.markdown())
    write_table(output / "scans.tsv", found.scans)
    typer.echo(found.markdown())


def _kinds(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _chosen(path: Path) -> tuple[list[str], str]:
    """Families and kind of model that `choose` wrote."""
    try:
        taken = json.loads(path.read_text(encoding="utf-8"))["taken"]
        return [str(family) for family in taken["families"]], str(taken["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Expected the file of triage choose in {path}, but it cannot be read ({error!r}).") from error


def _asked(ref: str | None, extras: Extras, *, window: int | None, trust: bool) -> AbstractSegmenter | None:
    """The network to ask again, with the window to ask in; None where nothing is asked."""
    return _narrowed(load_model(ref or "builtin", trust=trust), window) if extras.asks else None


def _narrowed(model: AbstractSegmenter, window: int | None) -> AbstractSegmenter:
    """The same network with another prediction window; only for networks that this package lays on their grid itself."""
    if window is None:
        return model
    if not isinstance(model, Segmenter):
        raise InputError(f"The window of {model.spec.name} is fixed by its own preprocessing: leave --window out.")
    return replace(model, description=replace(model.spec, window=(window, window, window)))
