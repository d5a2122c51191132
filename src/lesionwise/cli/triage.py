"""`lesionwise triage`: fit, apply, and what it takes to fit honestly."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lesionwise import __version__
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.cli import options as o
from lesionwise.cli.console import Reporter, reporting
from lesionwise.cli.spread import Spread, tell_left_out
from lesionwise.cohort import CohortRunner, ScanUnit, Shard
from lesionwise.errors import InputError
from lesionwise.io.bids import read_filters
from lesionwise.io.derivative import write_json, write_table
from lesionwise.io.files import write_text
from lesionwise.io.masks import ReferenceRule
from lesionwise.io.written import require_usable
from lesionwise.models.reference import ModelRef
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import AbstractSegmenter, Segmenter
from lesionwise.stats.risk import Promise
from lesionwise.triage.apply import judge_scan
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
Margins = Annotated[bool, typer.Option("--margins", help="Also what `lesionwise why` found; run it on OUT first.")]
Radiomics = Annotated[bool, typer.Option("--radiomics", help="Also mirp's radiomics of the map (published).")]
Window = Annotated[
    int | None,
    typer.Option(
        "--window", min=16, help="Edge of the prediction window in voxels (the model's): small scans need no large one."
    ),
]
Network = Annotated[
    str | None,
    typer.Option("--network", help="The network asked again (context); for fit, also the one that the model is for."),
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
    participant_label: o.ParticipantLabel = None,
    bids_filter: o.BidsFilter = None,
    reference_from: o.ReferenceFrom = None,
    reference_label: o.ReferenceLabel = None,
    reference_threshold: o.ReferenceThreshold = None,
    resume: o.Resume = True,
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
) -> None:
    """Explain a seeded draw of each scan's true and false lesions, to fit or to judge a triage model on."""
    share, spread = Shard.parse(shard), Spread(workers, scheduler)
    where = spread.device(device)
    segmenter = _narrowed(model, window, trust=trust, device=where)
    settings = Settings(method=SmoothGrad(n_samples=samples), threshold=threshold, device=where, seed=seed)
    rule = ReferenceRule.read(reference_label, reference_threshold)
    loaded = segmenter.load(where) if isinstance(segmenter, ModelRef) else segmenter
    filters = None if bids_filter is None else read_filters(bids_filter, channels=loaded.spec.channels)
    with reporting() as reporter:
        engine = spread.engine(where, sees=[bids_dir], writes=out)
        runner = CohortRunner(engine, share, resume, reporter.step, reporter.say)
        done = explain_cohort(
            segmenter,
            bids_dir,
            out.resolve(),
            settings,
            limit=instances,
            participants=participant_label,
            filters=filters,
            reference_from=reference_from,
            reference_rule=rule,
            version=__version__,
            runner=runner,
        )
    counts = outcome_counts(out)
    total = ", ".join(f"{int(counts[kind].sum())} {kind}" for kind in ("TP", "FP", "FN"))
    typer.echo(f"{len(done)} scans: {total}; at most {instances} predicted lesions of each explained. Results: {out}")
    tell_left_out(sorted(runner.left_out.items()), out / "triage" / "left_out.tsv")


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
    margins: Margins = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    seed: o.Seed = 0,
) -> None:
    """Choose features and kind of model by nested cross-validation over the fitting patients and a stated rule."""
    extras = Extras(context=context, radiomics=radiomics, disagreement=disagreement, margins=margins)
    segmenter = _asked(network, extras, window=window, trust=trust)
    with reporting() as reporter:
        runner = _runner(reporter, out, workers, scheduler)
        table = measure_cohort(out.resolve(), extras=extras, model=segmenter, every=every, runner=runner)
        channels = require_usable(out)[0][0].channels
        promise = Promise.of(max_loss, tail=tail, confidence=confidence)
        chosen = choose_option(table, channels=channels, kinds=_kinds(kind), promise=promise, seed=seed)
    write_json(output, chosen.as_dict())
    write_text(output.with_suffix(".md"), chosen.markdown())
    typer.echo(chosen.markdown())
    typer.echo(f"Taken: {chosen.option.features}, {chosen.option.kind}. {RULE}")
    tell_left_out(sorted(runner.left_out.items()))


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
    margins: Margins = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    seed: o.Seed = 0,
) -> None:
    """Fit a triage model on explained scans with references; judged by nested cross-validation over patients."""
    named = None if families is None else [part.strip() for part in families.split(",")]
    extras = Extras(context=context, radiomics=radiomics, disagreement=disagreement, margins=margins)
    if choice is not None:
        named, kind = _chosen(choice)
        extras = Extras.needed(named)
    segmenter = _asked(network, extras, window=window, trust=trust)
    with reporting() as reporter:
        runner = _runner(reporter, out, workers, scheduler)
        model, report = fit_output(
            out.resolve(),
            kind=kind,
            promise=Promise.of(max_loss, tail=tail, confidence=confidence),
            families=named,
            extras=extras,
            segmenter=segmenter,
            fingerprint=None if network is None else load_model(network, trust=trust).fingerprint,
            misses=misses,
            caution=caution,
            seed=seed,
            runner=runner,
        )
    written = save_model(model, output)
    typer.echo(report)
    typer.echo(f"Model: {', '.join(map(str, written))}")
    tell_left_out(sorted(runner.left_out.items()))


@app.command()
def apply(
    out: Annotated[Path, typer.Argument(help="Output folder of explain or study.")],
    model: Annotated[str, typer.Option("--model", help="builtin, or a model's JSON file.")] = "builtin",
    network: Network = None,
    trust: o.Trust = False,
    look: Annotated[int, typer.Option("--look", min=0, help="Likely misses to list per scan.")] = 10,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
) -> None:
    """Judge every explained lesion: probability of being false, verdict, three reasons, a cleaned mask, likely misses."""
    triage = load_triage(model)
    segmenter = _asked(network, Extras.needed(triage.families), window=None, trust=trust)
    whole = out.resolve()
    usable, damaged = require_usable(whole)
    ref = str(Path(model).resolve()) if Path(model).exists() else model
    with reporting() as reporter:
        runner = replace(_runner(reporter, out, workers, scheduler), resume=False)  # verdicts are always given anew
        units = [
            ScanUnit("triage", scan.name, whole, partial(judge_scan, whole, scan.name, ref, segmenter, look=look))
            for scan in usable
        ]
        result = runner.run(units, stage="triage", missing=damaged)
        for outcome in result.outcomes:
            if outcome.status == "done":
                for note in outcome.facts["Notes"]:
                    reporter.say(f"{outcome.stem}: {note}")
                typer.echo(f"{outcome.stem}: {outcome.reason}")
    tell_left_out(sorted(runner.left_out.items()))


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
    margins: Margins = False,
    network: Network = None,
    window: Window = None,
    trust: o.Trust = False,
    resamples: Resamples = 1000,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    seed: o.Seed = 0,
) -> None:
    """Compare sets of features on held-out patients: baselines, saliency, both, with intervals over patients."""
    extras = Extras(context=context, radiomics=radiomics, disagreement=disagreement, margins=margins)
    segmenter = _asked(network, extras, window=window, trust=trust)
    content: dict[str, object] = {}
    pages: list[str] = []
    with reporting() as reporter:
        runners = [_runner(reporter, folder, workers, scheduler) for folder in (fitted, held_out)]
        tables = [
            measure_cohort(folder.resolve(), extras=extras, model=segmenter, runner=one)
            for folder, one in zip((fitted, held_out), runners, strict=True)
        ]
        channels = require_usable(fitted)[0][0].channels
        counts = outcome_counts(held_out)
        counts = counts[~counts["scan"].isin(list(runners[1].left_out))].reset_index(drop=True)
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
    tell_left_out([row for one in runners for row in sorted(one.left_out.items())])


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
    resume: o.Resume = True,
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    seed: o.Seed = 0,
) -> None:
    """Judge one fixed model on scans with references: nothing is fitted. Also how the likely misses are ordered."""
    triage = load_triage(model)
    segmenter = _asked(network, Extras.needed(triage.families), window=window, trust=trust)
    share = Shard.parse(shard)
    with reporting() as reporter:
        runner = replace(_runner(reporter, out, workers, scheduler), shard=share, resume=resume)
        if not share.is_whole:
            every = not triage.needs_maps and segmenter is None
            extras = Extras.needed(triage.families)
            measure_cohort(out.resolve(), extras=extras, model=segmenter, every=every, runner=runner)
            typer.echo(f"Share {shard} is measured; the same command without --shard judges.")
            tell_left_out(sorted(runner.left_out.items()))
            return
        found = evaluate_output(
            out.resolve(),
            triage,
            segmenter=segmenter,
            max_loss=max_loss,
            n_resamples=resamples,
            seed=seed,
            runner=runner,
        )
    write_json(output / "evaluation.json", {"model": triage.fingerprint, **found.as_dict()})
    write_text(output / "evaluation.md", found.markdown())
    write_table(output / "scans.tsv", found.scans)
    typer.echo(found.markdown())
    tell_left_out(sorted(runner.left_out.items()))


def _kinds(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _chosen(path: Path) -> tuple[list[str], str]:
    """Families and kind of model that `choose` wrote."""
    try:
        taken = json.loads(path.read_text(encoding="utf-8"))["taken"]
        return [str(family) for family in taken["families"]], str(taken["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"Expected the file of triage choose in {path}, but it cannot be read as one.") from error


def _runner(reporter: Reporter, out: Path, workers: int | None, scheduler: str | None) -> CohortRunner:
    """How finished scans are measured: on the CPU, in this process or in others."""
    engine = Spread(workers, scheduler).engine("cpu", sees=[out], writes=out)
    return CohortRunner(engine, progress_fn=reporter.step, announce_fn=reporter.say)


def _asked(ref: str | None, extras: Extras, *, window: int | None, trust: bool) -> AbstractSegmenter | ModelRef | None:
    """The network to ask again, with the window to ask in; None where nothing is asked."""
    return _narrowed(ref or "builtin", window, trust=trust) if extras.asks else None


def _narrowed(ref: str, window: int | None, *, trust: bool, device: str = "cpu") -> AbstractSegmenter | ModelRef:
    """The network by name, or with another prediction window; only for those that this package lays on their grid itself."""
    named = ModelRef.of(ref, trust=trust, device=device)
    if window is None:
        return named
    model = named.load(device)
    if not isinstance(model, Segmenter):
        raise InputError(f"The window of {model.spec.name} is fixed by its own preprocessing: leave --window out.")
    return replace(model, description=replace(model.spec, window=(window, window, window)))
