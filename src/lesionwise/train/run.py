"""`train`: from a BIDS data set to a folder that `--model` takes. Killed at any time, the same call goes on."""

import csv
import io
import json
import logging
import pickle
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
import torch
from torch import nn

from lesionwise.errors import InputError, MissingExtraError
from lesionwise.io.bids import Filters
from lesionwise.io.files import write_text
from lesionwise.io.masks import ReferenceRule
from lesionwise.models.architecture import build, match_prefix
from lesionwise.models.statedict import save_model
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import Segmenter, Spec
from lesionwise.train.patches import by_patient, prepare, scans_of, split
from lesionwise.train.recipe import Recipe
from lesionwise.types import ProgressFn

if TYPE_CHECKING:
    from lesionwise.train.learner import Learner


@dataclass(frozen=True)
class Trained:
    """What a training run left: the model's folder, its validation nDSC, the threshold chosen there, and the scans that
    could not be used (name: reason)."""

    folder: Path
    epochs: int
    val_ndsc: float
    threshold: float
    finished: bool
    left_out: Mapping[str, str] = field(default_factory=dict)


def train(
    bids_dir: Path | str | Sequence[Path | str],
    run: Path | str,
    recipe: Recipe,
    *,
    participants: Sequence[str] | None = None,
    mix_dir: Path | str | None = None,
    cache: Path | None = None,
    strict: bool = False,
    device: str = "auto",
    devices: int | str = "auto",
    progress_fn: ProgressFn | None = None,
    filters: Filters | None = None,
    reference_from: Path | None = None,
    reference_rule: ReferenceRule | None = None,
) -> Trained:
    """Trains (or goes on training) and writes RUN: model.toml + model.safetensors, config.toml, curves.csv, splits.json.

    `bids_dir` is one data set or several. `mix_dir` is the data set of the recipe's share `mix` of patches, none of whose
    patients is validated on. `cache` is where the scans are prepared, RUN/cache unless given. Scans that cannot be
    used are left out and named, or refused if `strict`. `filters`, `reference_from` and `reference_rule` choose images and
    masks of `bids_dir` as in `find_scans`.
    `progress_fn(stage, done, total)` is called while preparing and after every epoch.
    Raises InputError for a data set without masks or modalities, a starting model of another layout, or a RUN that
    holds another training; MissingExtraError without pytorch-lightning.
    """
    pl = _lightning()
    from lesionwise.train.learner import Keeper, Learner

    bids_dirs = [Path(d) for d in ([bids_dir] if isinstance(bids_dir, (str, Path)) else bids_dir)]
    run = Path(run)
    _same_run(run, recipe)
    _check_checkpoint(run / "last.ckpt")
    left_out: dict[str, str] = {}
    noted = None if strict else left_out
    scans = scans_of(
        bids_dirs,
        recipe,
        participants=participants,
        left_out=noted,
        filters=filters,
        reference_from=reference_from,
        reference_rule=reference_rule,
    )
    mixed = scans_of(Path(mix_dir), recipe, left_out=noted) if mix_dir is not None else []
    class_name, arguments = recipe.architecture()
    torch.manual_seed(recipe.seed)
    network = build(class_name, _for_training(recipe, arguments), where="the recipe")
    if recipe.start:
        start_from(network, recipe.start)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.toml", tomli_w.dumps(_config(recipe, bids_dirs, mix_dir)))
    spec = spec_of(recipe)
    folder = run / "cache" if cache is None else cache
    prepare([*scans, *mixed], Segmenter(network, spec), folder, left_out=noted, progress_fn=progress_fn)
    scans, mixed = ([s for s in part if s.name.stem not in left_out] for part in (scans, mixed))
    members, held = split(scans, recipe)
    names = {"train": [s.name.stem for s in members], "val": [s.name.stem for s in held]}
    write_text(run / "splits.json", json.dumps({**names, "left_out": left_out}, indent=2) + "\n")
    learner = Learner(
        network,
        recipe,
        spec,
        folder=folder,
        train=by_patient(members),
        val=names["val"],
        mixed=by_patient(mixed),
    )

    def after_epoch(current: "Learner") -> None:
        write_curves(run / "curves.csv", current.curves)
        if current.best_weights:
            write_best(run, current, names, class_name, arguments)
        if progress_fn is not None:
            progress_fn("train", int(current.curves[-1]["epoch"]) + 1, recipe.epochs)

    last = run / "last.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator = {"auto": "auto", "cpu": "cpu"}.get(device.split(":")[0], "gpu")
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator=accelerator,
            devices=1 if accelerator == "cpu" else ([int(device.split(":")[1])] if ":" in device else devices),
            precision=_precision(recipe, accelerator),
            callbacks=[Keeper(last, after_epoch)],
            logger=_tensorboard(run),
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            gradient_clip_val=1.0,
        )
        trainer.fit(learner, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    done = len(learner.curves)
    best = learner.best
    stopped_early = best["stale"] >= recipe.patience
    finished = done >= recipe.epochs or stopped_early
    return Trained(run, done, best["ndsc"], best["threshold"], finished, left_out)


def spec_of(recipe: Recipe, *, threshold: float = 0.5, card: Mapping[str, Any] | None = None) -> Spec:
    """The spec of a network trained by a recipe (published windows: overlap 0.25, Gaussian)."""
    return Spec(
        name=f"{recipe.network}-{recipe.size}",
        channels=recipe.channels,
        window=recipe.patch,
        overlap=0.25,
        threshold=threshold,
        spacing_mm=recipe.spacing_mm,
        optional_channels=recipe.channels[1:] if recipe.channel_dropout else (),
        card=dict(card or {}),
    )


def write_best(
    run: Path, learner: "Learner", names: Mapping[str, Sequence[str]], class_name: str, arguments: Mapping[str, Any]
) -> None:
    """The best weights so far as a model folder, the threshold chosen on validation patients."""
    recipe, best = learner.recipe, learner.best
    card = {
        "summary": f"{recipe.network} ({recipe.size}), trained by lesionwise on {len(names['train'])} scans",
        "trained_scans": len(names["train"]),
        "validated_scans": len(names["val"]),
        "epoch": int(best["epoch"]) + 1,
        "epochs_run": len(learner.curves),
        "val_ndsc": round(best["ndsc"], 4) if names["val"] else None,
        "seed": recipe.seed,
    }
    network = build(class_name, arguments, where="the recipe")
    network.load_state_dict(learner.best_weights)
    spec = spec_of(recipe, threshold=best["threshold"], card=card)
    save_model(run, network, spec, class_name=class_name, arguments=arguments)


def write_curves(path: Path, curves: Sequence[Mapping[str, float]]) -> None:
    """One row per epoch: epoch, loss, learning_rate, val_ndsc, val_threshold (empty where not validated), skipped_steps
    (whose gradient was not finite)."""
    stream = io.StringIO()
    columns = ["epoch", "loss", "learning_rate", "val_ndsc", "val_threshold", "skipped_steps"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in curves:
        writer.writerow({**row, "epoch": int(row["epoch"]), "skipped_steps": int(row.get("skipped_steps", 0))})
    write_text(path, stream.getvalue())


def start_from(network: nn.Module, ref: str) -> list[str]:
    """Copies another model's weights into a network, in place; returns the names of those that did not fit.

    Only the last layer may differ, as it does when the classes do: it then keeps its fresh values. Raises InputError
    if the model is of another layout.
    """
    given, wanted = load_model(ref).network.state_dict(), network.state_dict()
    given = match_prefix(given, wanted)
    other = [name for name, value in wanted.items() if name not in given or given[name].shape != value.shape]
    last = {name.rpartition(".")[0] for name in list(wanted)[-2:]}
    elsewhere = [name for name in other if name.rpartition(".")[0] not in last]
    if elsewhere:
        raise InputError(
            f"Expected a model of the same layout to start from, but {ref} differs in {len(elsewhere)} of "
            f"{len(wanted)} weights, such as {elsewhere[0]}: choose the --network and --size it was built with."
        )
    network.load_state_dict({**wanted, **{k: v for k, v in given.items() if k in wanted and k not in other}})
    return other


def _for_training(recipe: Recipe, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Gradient checkpointing for Swin: less memory for more time; the weights are the same."""
    extra = {"use_checkpoint": True} if recipe.network == "swinunetr" and recipe.checkpointing else {}
    return {**arguments, **extra}


def _same_run(run: Path, recipe: Recipe) -> None:
    config = run / "config.toml"
    if not config.is_file():
        if run.is_dir() and any(run.iterdir()):
            raise InputError(f"Expected an empty folder or an earlier training in {run}, found other files.")
        return
    try:
        before = Recipe.of(tomllib.loads(config.read_text(encoding="utf-8"))["recipe"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"Expected an earlier training in {run}, but its config.toml is damaged or of something else."
        ) from error
    changed = recipe.differences(before)
    if changed:
        raise InputError(
            f"{run} holds a training with another {', '.join(changed)}: choose another folder, or the same settings to go on."
        )


def _check_checkpoint(path: Path) -> None:
    """Raises InputError for a checkpoint that is there and cannot be read whole."""
    if not path.is_file():
        return
    try:
        known = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        whole = {"state_dict", "optimizer_states", "lesionwise"} <= known.keys()
    except (OSError, ValueError, RuntimeError, EOFError, AttributeError, KeyError, pickle.UnpicklingError):
        whole = False
    if not whole:
        raise InputError(
            f"Expected the checkpoint that the training wrote, but {path} is damaged: remove it, and the training starts "
            "again from its first epoch."
        )


def _config(recipe: Recipe, bids_dirs: Sequence[Path], mix_dir: Path | str | None) -> dict[str, Any]:
    packages = ("torch", "monai", "pytorch-lightning", "numpy")
    versions = {name: metadata.version(name) for name in packages}
    class_name, arguments = recipe.architecture()
    return {
        "recipe": recipe.table(),
        "network": {"class": class_name, "arguments": arguments},
        "data": {
            "bids_dir": [str(d.resolve()) for d in bids_dirs],
            **({} if mix_dir is None else {"mix_dir": str(Path(mix_dir).resolve())}),
        },
        "versions": versions,
    }


def _precision(recipe: Recipe, accelerator: str) -> Any:
    if recipe.precision != "auto":
        return recipe.precision
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return "16-mixed" if gpu else "32-true"


def _lightning() -> Any:
    try:
        import pytorch_lightning as pl
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("pytorch-lightning", extra="train", purpose="Training") from error
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pl


def _tensorboard(run: Path) -> Any:
    """A TensorBoard logger where the package is installed, else none: curves.csv is written in any case."""
    try:
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(str(run), name="tensorboard", version="")
    except ModuleNotFoundError:
        return False


def network_of(recipe: Recipe) -> nn.Module:
    """A freshly initialised network of the recipe."""
    class_name, arguments = recipe.architecture()
    return build(class_name, arguments, where="the recipe")
