"""Which map is most faithful, lesion by lesion (METHOD section 5, point 6). All methods, one table."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from lesionwise.asking.scan import Scan
from lesionwise.attribution import METHODS, AbstractMethod
from lesionwise.attribution.result import Attribution
from lesionwise.charts.chart import Bar, Chart, Panel
from lesionwise.errors import InputError, UnsupportedModelError
from lesionwise.experiments.deletion import AROUND_MM, Stage, curves
from lesionwise.experiments.experiment import Experiment, Finding, keyed, mean_of, patients_note
from lesionwise.experiments.infidelity import InfidelityQuestion
from lesionwise.geometry.box import Box
from lesionwise.instances.instance import Instance
from lesionwise.stats import Interval, holm, paired_difference

FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
BASELINES = ("random", "intensity", "distance")
LEAST_EVIDENCE = 0.1
"""Share of the median lesion's evidence below which curves, which are divided by it, are left out."""
_NONE = pd.Series(dtype=object)
DECIDING = ("deletion", "insertion", "specificity", "infidelity")
"""Measures that the figure shows."""
NAMES: Mapping[str, str] = {
    "smoothgrad": "SmoothGrad, mean",
    "smoothgradmax": "SmoothGrad, max",
    "gradient": "gradient",
    "inputxgradient": "input x gradient",
    "ig": "Integrated Gradients",
    "eg": "Expected Gradients",
    "gradcampp": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "seggradcam": "Seg-Grad-CAM",
    "occlusion": "occlusion",
    "shapley": "Shapley",
}
"""Methods as people call them."""
MEASURES: Mapping[str, str] = {
    "deletion": "lower is better",
    "insertion": "higher is better",
    "specificity": "higher is better",
    "deletion_other": "nearer 0 is better",
    "insertion_other": "nearer 0 is better",
    "pointing": "higher is better",
    "leakage": "lower is better",
    "sensitivity": "lower is better",
    "infidelity": "lower is better",
    "infidelity_unscaled": "lower is better",
}


def default_methods(*, n_samples: int = 8) -> dict[str, AbstractMethod]:
    """Every method of the registry with settings small enough for a table."""
    options: dict[str, dict[str, Any]] = {
        "smoothgrad": {"n_samples": n_samples},
        "ig": {"n_steps": n_samples},
        "eg": {"n_samples": n_samples},
    }
    methods = {name: factory(**options.get(name, {})) for name, factory in METHODS.items()}
    methods["smoothgradmax"] = METHODS["smoothgrad"](n_samples=n_samples, reduce="max", max_voxels=16)
    return methods


def chosen_methods(names: str | None, *, n_samples: int = 8) -> dict[str, AbstractMethod]:
    """The methods of those names, in their order; all of them for None. Raises InputError for an unknown name."""
    known = default_methods(n_samples=n_samples)
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"Methods must be among {', '.join(known)}, found {', '.join(unknown)}.")
    return {name: known[name] for name in wanted}


def faithfulness_rows(
    scan: Scan,
    *,
    methods: Mapping[str, AbstractMethod] | str | None = None,
    n_samples: int = 8,
    fractions: Sequence[float] = FRACTIONS,
    perturbations: int = 8,
    shakes: int = 2,
) -> pd.DataFrame:
    """One row per lesion and method (and per baseline ordering: random, intensity, distance).

    Voxels within 10 mm of the lesion are taken away in the order of the map's net value (the sum over channels, so that
    evidence against counts against a voxel), all channels together, and replaced by healthy tissue; y is the mean target
    over Omega, log-odds unless another was chosen.
    - `deletion`: mean over fractions of (y - y_none) / (y_all - y_none), from all present to none: low if the map's
      first voxels matter. `insertion`: the same while they are put back: high.
    - `specificity`: fall of y when the map's first 10 % are deleted minus the fall of the nearest other lesion's y at
      the same deletion, in target units: a map of all lesions alike has none. Missing for a single lesion.
    - `deletion_other`, `insertion_other`: the control: how far the nearest other lesion's y falls under the same deletions
      and insertions, mean over fractions, as a share of this lesion's evidence. 0: only this lesion was touched.
    - `pointing`: 1 if the largest positive voxel lies in Omega (or touches it); 0 elsewhere, another lesion included
      (`pointed_at_other`). `leakage`: sum of |M| in other lesions / in Omega.
    - `sensitivity`: largest |M(x + e) - M(x)| / |M(x)| over `shakes` draws of small noise e (2 % of a head SD;
      Yeh2019), in Euclidean norm: a lower bound of the largest possible.
    - `infidelity` (Yeh2019): what the map does not foresee of the changes that it answers for, 0 perfect, 1 worthless, the
      best scale >= 0 of M allowed; `infidelity_unscaled` without that scale. `answers_for`: derivatives are asked about
      small changes within 10 mm, contributions about removal along their own baseline (`infidelity` in that module);
      compare within a kind. Missing for class activation maps, which are neither.
    `methods` are names of the registry separated by commas, or methods by name; None takes all. Methods that a network
    does not support are named in `note`.
    """
    chosen = scan.chosen
    if methods is None or isinstance(methods, str):
        methods = chosen_methods(methods, n_samples=n_samples)
    rows: list[dict[str, Any]] = []
    stages = {one.label: Stage.of(scan, one) for one in chosen}
    questions = {one.label: question_of(stages[one.label]) for one in chosen}
    for name, method in methods.items():
        try:
            found = scan.attribute(chosen, method)
            shaken = [scan.attribute(chosen, method, placement=_shaken(scan, number)) for number in range(shakes)]
        except (InputError, UnsupportedModelError, RuntimeError) as error:
            rows += [_begun(one, name, note=str(error)) for one in chosen]
            continue
        for number, (one, m) in enumerate(zip(chosen, found, strict=True)):
            stage = stages[one.label]
            row = _begun(one, name) | measures_of(
                stage,
                questions[one.label],
                m,
                derivative=method.quantitative,
                fractions=fractions,
                perturbations=perturbations,
                rng=scan.rng(one.label, 11),
            )
            row["sensitivity"] = max((_change(scan, m, again[number]) for again in shaken), default=np.nan)
            rows.append(row)
    for one in chosen:
        stage = stages[one.label]
        for name, order in stage.baselines(scan.rng(one.label, 12)).items():
            rows.append(_begun(one, name) | curves(stage, order, fractions))
    return keyed(scan, rows)


def measures_of(
    stage: Stage,
    question: InfidelityQuestion,
    found: Attribution,
    *,
    derivative: bool,
    fractions: Sequence[float] = FRACTIONS,
    perturbations: int = 8,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Every measure of `MEASURES` that needs no second map (all but `sensitivity`) of one lesion's map."""
    asked = question.infidelity(found, derivative=derivative, count=perturbations, rng=rng)
    return curves(stage, stage.on_network(found), fractions) | _place(stage.scan, stage.one, found) | asked


def _begun(one: Instance, method: str, *, note: str = "") -> dict[str, Any]:
    """What a row begins with: which lesion, which method, and why there is nothing more to say of it, if so."""
    facts = {"lesion": one.label, "outcome": one.outcome, "volume_mm3": one.volume_mm3}
    return facts | {"method": method, "note": note}


def faithfulness_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """The table of all methods, best first, and whether maps beat orderings that know nothing of the network."""
    if not len(rows):
        return Finding("No lesion was found: there is no map to judge.")
    table, sentences = [], [f"{patients_note(rows)}."]
    rows, faint = _without_faint(rows)
    if faint:
        sentences.append(
            f"{faint} of them have no deletion and insertion: what lies within {AROUND_MM:g} mm hardly speaks for them "
            f"(evidence below {LEAST_EVIDENCE:.0%} of the median lesion's, or against it)."
        )
    measures = [name for name in MEASURES if name in rows]
    intervals: dict[tuple[str, str], Interval] = {}
    for (model, method), part in rows.groupby(["model", "method"], sort=False):
        row: dict[str, Any] = {"model": model, "method": method, "baseline": method in BASELINES}
        for measure in measures:
            one = mean_of(part, measure, rng)
            intervals[str(method), measure] = one
            row |= {measure: one.estimate, f"{measure}_low": one.low, f"{measure}_high": one.high}
        row["answers_for"] = (
            str(part["answers_for"].dropna().iloc[0]) if part.get("answers_for", _NONE).notna().any() else ""
        )
        row["note"] = "; ".join(sorted({str(note) for note in part["note"].dropna() if note}))
        table.append(row)
    summary = pd.DataFrame(table).sort_values("deletion", na_position="last", ignore_index=True)
    maps = summary[~summary["baseline"]].dropna(subset=["deletion"])
    if len(maps):
        for measure in [one for one in DECIDING if one in maps]:
            known = maps.dropna(subset=[measure])
            kinds = [("", known)] if measure != "infidelity" else list(known.groupby("answers_for", sort=False))
            for kind, of in kinds:
                if len(of):
                    low = MEASURES[measure].startswith("lower")
                    best = of.loc[of[measure].idxmin() if low else of[measure].idxmax(), "method"]
                    asked = f" about {kind}" if kind else ""
                    sentences.append(
                        f"Best by {measure}{asked} ({MEASURES[measure]}): {best}, {intervals[str(best), measure]}."
                    )
        against = _against_distance(rows, str(maps["method"].iloc[0]), rng)
        sentences.append(against[0])
        off = rows.get("pointed_at_other")
        if off is not None and off.notna().any():
            sentences.append(f"The peak lay in another lesion in {off.dropna().astype(float).mean():.0%} of the maps.")
        tests = _all_against(rows, list(maps["method"]), rng)
    else:
        tests = pd.DataFrame()
        sentences.append("No method could be applied.")
    unsupported = summary.loc[summary["note"] != "", "method"].tolist()
    if unsupported:
        sentences.append(f"Not applicable to this network: {', '.join(unsupported)} (see the table's notes).")
    panels = _panels(summary)
    chart = Chart(
        "faithfulness",
        "Which map is most faithful to the network?",
        panels,
        "Deletion: how much of the evidence is left while the map's voxels are taken away, most important first (low is good); "
        "insertion: the same while they are put back (high is good); both of the explained target (log-odds by default), as "
        f"shares of what all voxels within {AROUND_MM:g} mm are worth. Infidelity: what the map does not foresee (0 none, 1 "
        "all); derivatives are asked about small changes, contributions about removal: compare within a kind. Grey, in "
        "brackets: orderings that know nothing of the network. Lines: 95 % over patients (six or more).",
        columns=2,
        sample=patients_note(rows),
    )
    return Finding(
        " ".join(sentences), (chart,) if panels else (), {"faithfulness": summary, "faithfulness_tests": tests}
    )


def _panels(summary: pd.DataFrame) -> list[Panel]:
    """Bars for the measures that decide, methods in the table's order, in words."""
    panels = []
    for measure in DECIDING:
        if measure not in summary or not summary[measure].notna().any():
            continue
        bars = [
            Bar(
                f"({row['method']})" if row["baseline"] else NAMES.get(str(row["method"]), str(row["method"])),
                row[measure], row[f"{measure}_low"], row[f"{measure}_high"], "#999999" if row["baseline"] else "#0072B2",
            )
            for row in summary.to_dict("records")
            if np.isfinite(row[measure])
        ]  # fmt: skip
        panels.append(Panel(f"{measure} ({MEASURES[measure]})", "", "", bars, horizontal=True))
    return panels


def _without_faint(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows without curves where the evidence that they are divided by is next to nothing; how many lesions."""
    if "evidence" not in rows:
        return rows, 0
    typical = rows.drop_duplicates(["scan", "lesion"])["evidence"].median()
    faint = rows["evidence"] < LEAST_EVIDENCE * typical
    curves = [name for name in ("deletion", "insertion") if name in rows]
    left = rows.assign(**{name: rows[name].mask(faint) for name in curves})
    return left, len(rows.loc[faint, ["scan", "lesion"]].drop_duplicates())


def _place(scan: Scan, one: Instance, found: Attribution) -> dict[str, float]:
    """Pointing game, where another lesion is a miss, and leakage into other lesions."""
    own = one.mask(scan.case.image.shape)[found.box.slices]
    near = ndimage.binary_dilation(one.mask(scan.case.image.shape), structure=np.ones((3, 3, 3)))[found.box.slices]
    others = scan.others(one)[found.box.slices]
    top = np.unravel_index(int(np.argmax(found.data)), found.data.shape)[1:]
    mass = np.abs(found.data).sum(axis=0, dtype=float)
    inside = float(mass[own].sum())
    hit = bool(own[top] or (near[top] and not others[top]))
    return {
        "pointing": float(hit),
        "pointed_at_other": float(others[top]),
        "leakage": float(mass[others].sum()) / inside if inside > 0 else np.nan,
    }


def _change(scan: Scan, first: Attribution, second: Attribution) -> float:
    """Relative change of a map in Euclidean norm; NaN for a map of zeros."""
    box = first.box.union(second.box)
    maps = []
    for found in (first, second):
        whole = np.zeros((len(scan.channels), *box.shape))
        whole[(slice(None), *found.box.relative_to(box).slices)] = found.data
        maps.append(whole)
    size = float(np.linalg.norm(maps[0]))
    return float(np.linalg.norm(maps[1] - maps[0])) / size if size > 0 else float("nan")


def question_of(stage: Stage) -> InfidelityQuestion:
    """The lesion and what lies within 10 mm of it in the head, on the scan's grid."""
    near = stage.scan.distance_mm(stage.one, reach_mm=AROUND_MM) <= AROUND_MM
    head = stage.scan.placement.scan_head.numpy()
    own = stage.one.mask(stage.scan.case.image.shape)
    return InfidelityQuestion(stage.scan, stage.probe, (near & head) if (near & head).any() else own)


def _shaken(scan: Scan, number: int) -> Any:
    """The placement with noise of 2 % of a head SD on the scan's own voxels inside the head."""
    placement = scan.placement
    noise = torch.from_numpy(scan.rng(13, number).standard_normal(placement.scan.shape)).to(placement.scan)
    change = 0.02 * noise * placement.scale.to(noise).reshape(-1, 1, 1, 1) * placement.scan_head
    moved, reached = placement.pushed(change, Box.whole(scan.case.image.shape))
    shaken = placement.input.clone()
    shaken[(0, slice(None), *reached.slices)] += moved
    return replace(placement, input=shaken, scan=placement.scan + change)


def _against_distance(rows: pd.DataFrame, method: str, rng: np.random.Generator) -> tuple[str, Interval]:
    """Does the best map beat deleting from the lesion outwards?"""
    wide = rows.pivot_table(index=["subject", "scan", "lesion"], columns="method", values="deletion", aggfunc="mean")
    both = wide[[method, "distance"]].dropna()
    patients = both.index.get_level_values("subject").to_numpy(dtype=str)
    a, b = both[method].to_numpy(dtype=float), both["distance"].to_numpy(dtype=float)
    interval, test = paired_difference(a, b, patients=patients, rng=rng)
    p = "" if np.isnan(test.p) else f", p = {test.p:.2g}"
    return f"Against deleting from the lesion outwards, {method} differs in deletion by {interval}{p}.", interval


def _all_against(rows: pd.DataFrame, methods: list[Any], rng: np.random.Generator) -> pd.DataFrame:
    """Every method against the best one by deletion, paired over patients, with Holm."""
    wide = rows.pivot_table(index=["subject", "scan", "lesion"], columns="method", values="deletion", aggfunc="mean")
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for method in methods[1:]:
            both = wide[[method, methods[0]]].dropna()
            patients = both.index.get_level_values("subject").to_numpy(dtype=str)
            a, b = both[method].to_numpy(dtype=float), both[methods[0]].to_numpy(dtype=float)
            interval, test = paired_difference(a, b, patients=patients, rng=rng)
            facts = {"difference": interval.estimate, "low": interval.low, "high": interval.high, "p": test.p}
            out.append({"method": method, "against": methods[0], **facts, "note": test.note})
    table = pd.DataFrame(out)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float))) if len(table) else table


EXPERIMENT = Experiment(
    name="faithfulness",
    question="Which map is most faithful to the network?",
    rows_fn=faithfulness_rows,
    group_fn=faithfulness_finding,
    check_fn=lambda options: isinstance(options["methods"], str) and chosen_methods(options["methods"]),
    defaults={"methods": None, "n_samples": 8, "fractions": FRACTIONS, "perturbations": 8, "shakes": 2},
)
