"""The training loop's parts for PyTorch Lightning. Importing this module needs the extra `train`."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lesionwise.errors import InputError
from lesionwise.metrics import normalised_dice
from lesionwise.segmenter import Spec
from lesionwise.train.loss import DiceCrossEntropyLoss, PublishedLoss
from lesionwise.train.patches import Patches
from lesionwise.train.recipe import Recipe
from lesionwise.windows import WindowGrid, predict, probability

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))
"""Among which the threshold is chosen, on validation patients only."""


class Learner(pl.LightningModule):
    """A network being trained. `curves` holds one row per epoch and is part of the checkpoint."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        spec: Spec,
        *,
        folder: Path,
        train: Sequence[Sequence[str]],
        val: Sequence[str],
        mixed: Sequence[Sequence[str]] = (),
    ):
        """`train` and `mixed` list the scans of each patient; `val` the scans to validate on."""
        super().__init__()
        self.network, self.recipe, self.spec, self.folder = network, recipe, spec, folder
        self.patients, self.mixed, self.val = train, mixed, list(val)
        self.loss_fn = loss_of(recipe)
        self.average: AveragedModel | None = None
        if recipe.average:
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
            self.average.eval()
        self.curves: list[dict[str, float]] = []
        self.best = {"ndsc": -1.0, "threshold": 0.5, "epoch": -1.0, "stale": 0.0}
        self.best_weights: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []
        self.skipped = 0
        self.rate = recipe.learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.network(x)

    def train_dataloader(self) -> DataLoader:
        """This epoch's patches."""
        data = Patches(self.folder, self.patients, self.recipe, epoch=self.current_epoch, mixed=self.mixed)
        workers = 0 if self.recipe.size == "tiny" else min(4, (os.cpu_count() or 1) // 2)
        return DataLoader(data, batch_size=self.recipe.batch, num_workers=workers)

    def on_train_epoch_start(self) -> None:
        """Notes the learning rate of this epoch."""
        self.rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Loss of one batch."""
        loss = self.loss_fn(self.network(batch["image"]), batch["mask"])
        self.losses.append(loss.detach())
        self.log("loss", loss, prog_bar=False)
        return loss

    def on_after_backward(self) -> None:
        """Leaves a step out whose gradient is not finite, as reduced precision can bring about; one of them would spoil
        every weight. Where a gradient scaler watches (16-mixed) that is its task."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self.skipped += 1
            self.zero_grad(set_to_none=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the averaged weights."""
        if self.average is not None:
            self.average.update_parameters(self.network)

    @property
    def result(self) -> nn.Module:
        """The network that is kept: the averaged one if there is one."""
        return self.network if self.average is None else self.average.module

    def on_train_start(self) -> None:
        """A run that had stopped early has nothing left to do."""
        if self.best["stale"] >= self.recipe.patience:
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Adds a row to the curves; validates when it is time."""
        losses = torch.stack(self.losses)
        loss = float(losses[torch.isfinite(losses)].mean())  # no number where none is finite
        if not math.isfinite(loss) or 2 * self.skipped > len(losses):
            raise InputError(
                f"Training diverged: {self.skipped} of {len(losses)} steps of epoch {self.current_epoch} had no finite "
                f"gradient. Expected a --learning-rate below {self.recipe.learning_rate:g}, or --precision 32-true, in a new "
                f"folder; this one keeps the epochs before."
            )
        row = {"epoch": float(self.current_epoch), "loss": loss, "learning_rate": self.rate}
        row["skipped_steps"] = float(self.skipped)
        self.losses, self.skipped = [], 0
        last = self.current_epoch + 1 >= self.recipe.epochs
        if (self.current_epoch + 1) % self.recipe.validate_every == 0 or last:
            ndsc, threshold = self.validate()
            row |= {"val_ndsc": ndsc, "val_threshold": threshold}
            self.log("val_ndsc", ndsc)
            self._remember(ndsc, threshold)
        self.curves.append(row)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean normalised Dice over the validation scans at the best threshold, and that threshold."""
        network = self.result
        network.eval()
        scores = np.zeros((len(self.val), len(THRESHOLDS)))
        for row, name in enumerate(self.val):
            x = torch.from_numpy(np.load(self.folder / name / "image.npy").astype(np.float32))[None].to(self.device)
            reference = np.load(self.folder / name / "mask.npy")
            grid = WindowGrid.of(self.spec, (x.shape[2], x.shape[3], x.shape[4]))
            p = probability(predict(network, x, grid), self.spec).cpu().numpy()
            scores[row] = [normalised_dice(p > threshold, reference) for threshold in THRESHOLDS]
        self.network.train()
        if not self.val:
            return float("nan"), 0.5
        mean = scores.mean(axis=0)
        best = int(np.argmax(mean))
        return float(mean[best]), THRESHOLDS[best]

    def _remember(self, ndsc: float, threshold: float) -> None:
        if ndsc > self.best["ndsc"] or self.recipe.keep == "last":
            self.best = {"ndsc": ndsc, "threshold": threshold, "epoch": float(self.current_epoch), "stale": 0.0}
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.result.state_dict().items()}
        else:
            self.best["stale"] += 1
            if self.best["stale"] >= self.recipe.patience:
                self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine that ends at the last epoch."""
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=self.recipe.epochs)
        return [optimiser], [schedule]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Curves and the best weights travel with the checkpoint."""
        checkpoint["lesionwise"] = {"curves": self.curves, "best": self.best, "best_weights": self.best_weights}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes curves and best weights back."""
        kept = checkpoint["lesionwise"]
        self.curves, self.best, self.best_weights = kept["curves"], kept["best"], kept["best_weights"]


def loss_of(recipe: Recipe) -> nn.Module:
    """The recipe's loss on two-class logits and a mask."""
    if recipe.loss == "dice-ce":
        return DiceCrossEntropyLoss()
    return PublishedLoss(ndsc_weight=recipe.ndsc_weight, focal_weight=recipe.focal_weight, gamma=recipe.focal_gamma)


class Keeper(pl.callbacks.Checkpoint):
    """Writes `last.ckpt` after every epoch, whole or not at all, and reports progress.

    A `Checkpoint`, because Lightning runs those after the module's own end of the epoch.
    """

    def __init__(self, path: Path, after_epoch_fn: Callable[[Learner], None]) -> None:
        self.path, self.after_epoch_fn = path, after_epoch_fn

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, then tells."""
        temporary = self.path.with_name(f".tmp.{self.path.name}")
        trainer.save_checkpoint(temporary)  # every process takes part, the first one writes
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
            if isinstance(pl_module, Learner):
                self.after_epoch_fn(pl_module)
