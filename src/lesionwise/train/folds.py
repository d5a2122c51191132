"""Cross-validation: one training per fold, in turn, in one folder that is itself a model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan
from lesionwise.io.files import write_text
from lesionwise.models.folds import INDEX, CrossValidated, load
from lesionwise.models.statedict import read_toml
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import Segmenter
from lesionwise.train.operating_point import choose_out_of_fold, write_choices
from lesionwise.train.patches import deal, prepare, scans_of
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import Trained, network_of, spec_of, train
from lesionwise.types import ProgressFn


def train_folds(
    bids_dir: Path | str | Sequence[Path | str],
    run: Path | str,
    recipe: Recipe,
    *,
    participants: Sequence[str] | None = None,
    **options: Any,
) -> list[Trained]:
    """Trains every fold of the recipe into RUN/fold-0, RUN/fold-1, ...; the same call goes on where it stopped.

    RUN/folds.json says which patients each fold left out. A recipe that starts from a cross-validated model starts each
    fold from its own network there. Further options are those of `train`. Raises InputError for
    fewer than two folds, and as `train` does.
    """
    if recipe.folds < 2:
        raise InputError(f"Expected --fold all with at least --folds 2, found {recipe.folds}.")
    run = Path(run)
    dirs = [Path(d) for d in ([bids_dir] if isinstance(bids_dir, (str, Path)) else bids_dir)]
    left_out: dict[str, str] = {}
    noted = None if options.get("strict") else left_out
    chosen = {name: options.get(name) for name in ("filters", "reference_from", "reference_rule")}
    scans = scans_of(dirs, recipe, participants=participants, left_out=noted, **chosen)
    model = Segmenter(network_of(recipe), spec_of(recipe))
    prepare(scans, model, run / "cache", left_out=noted, progress_fn=options.get("progress_fn"))
    scans = [scan for scan in scans if scan.name.stem not in left_out]
    folds = deal(scans, recipe)
    write_text(run / INDEX, json.dumps({"held_out": folds}, indent=2) + "\n")
    trained = [
        train(
            dirs,
            run / f"fold-{fold}",
            replace(recipe, fold=fold, start=start_of_fold(recipe.start, fold, folds)),
            participants=participants,
            cache=run / "cache",
            **options,
        )
        for fold in range(recipe.folds)
    ]
    contents = [[_content(run / "cache", s) for s in scans if s.name.subject in fold] for fold in folds]
    write_text(run / INDEX, json.dumps({"held_out": folds, "contents": contents}, indent=2) + "\n")
    if all(one.finished for one in trained):
        set_operating_points(run, scans, progress_fn=options.get("progress_fn"))
    return trained


def start_of_fold(ref: str, fold: int, folds: Sequence[Sequence[str]]) -> str:
    """The model that a fold may start from: of a cross-validated one, the network that left the same patients out.

    Raises InputError if its folds are others: the network would have seen patients that it is to be judged by.
    """
    if not ref or "?" in ref:
        return ref
    model = load_model(ref)
    if not isinstance(model, CrossValidated):
        return ref
    if [sorted(f) for f in model.held_out] != [sorted(f) for f in folds]:
        raise InputError(
            f"Expected {ref} to leave out the same patients in each fold as this training does, found other folds: "
            f"its networks have seen patients that they would be judged by."
        )
    return f"{ref}?fold={fold}"


def set_operating_points(run: Path, scans: Sequence[BidsScan], *, progress_fn: ProgressFn | None = None) -> None:
    """Chooses thresholds and smallest lesions out of fold and writes them into the folds' models."""
    if (run / "out-of-fold.json").is_file():
        return
    model = load(run)
    if not isinstance(model, CrossValidated):
        raise InputError(f"Expected a cross-validated run in {run}, found another model.")
    chosen = choose_out_of_fold(model, scans, progress_fn=progress_fn)
    for fold, point in enumerate(chosen.folds):
        description = run / f"fold-{fold}" / "model.toml"
        table = read_toml(description)
        table["spec"] |= {"threshold": point.threshold, "min_size_vox": point.min_size_vox}
        table["card"] |= {"threshold_from": f"{point.patients} patients of the other folds"}
        write_text(description, tomli_w.dumps(table))
    write_choices(run, chosen)


def _content(cache: Path, scan: BidsScan) -> str:
    return str(json.loads((cache / scan.name.stem / "done.json").read_text(encoding="utf-8"))["content"])
