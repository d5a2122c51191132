"""Cross-validation: one training per fold, in turn, in one folder that is itself a model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lesionwise.errors import InputError
from lesionwise.io.files import write_text
from lesionwise.train.patches import deal, scans_of
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import Trained, train


def train_folds(
    bids_dir: Path | str | Sequence[Path | str],
    run: Path | str,
    recipe: Recipe,
    *,
    participants: Sequence[str] | None = None,
    **options: Any,
) -> list[Trained]:
    """Trains every fold of the recipe into RUN/fold-0, RUN/fold-1, ...; the same call goes on where it stopped.

    RUN/folds.json says which patients each fold left out. Further options are those of `train`. Raises InputError for
    fewer than two folds, and as `train` does.
    """
    if recipe.folds < 2:
        raise InputError(f"Expected --fold all with at least --folds 2, found {recipe.folds}.")
    run = Path(run)
    dirs = [Path(d) for d in ([bids_dir] if isinstance(bids_dir, (str, Path)) else bids_dir)]
    folds = deal(scans_of(dirs, recipe, participants=participants), recipe)
    write_text(run / "folds.json", json.dumps({"held_out": folds}, indent=2) + "\n")
    return [
        train(
            dirs,
            run / f"fold-{fold}",
            replace(recipe, fold=fold),
            participants=participants,
            cache=run / "cache",
            **options,
        )
        for fold in range(recipe.folds)
    ]
