"""What a run is asked for beside its method: one frozen set, the same for planning and for explaining."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import InputError

StatisticsName = Literal["auto", "exact", "split", "fixed"]
"""Whether normalisation statistics follow the noise ("exact"), stay as for the unchanged scan ("fixed"), or both are
combined into an unbiased estimate of the exact map ("split"); "auto" leaves it to the plan."""


@dataclass(frozen=True)
class RunOptions:
    """Everything but network, scan, lesions and method.

    `memory_bytes` bounds what may be held at once (None: 4 GiB). `autocast` (a shorter type) and `tf32` (CUDA) trade
    precision for speed. `lesion_window` is an approximation: one window around each lesion in the place of the fused
    ones. `statistics` matters for networks with instance or group normalisation. `views` is how many of the model's
    mirrored views and folds each draw runs: "all", "spread" (one, drawn at random) or a number of them.
    """

    target: "str | AbstractTarget" = "log_odds"
    seed: int = 0
    device: str | torch.device = "cpu"
    memory_bytes: int | None = None
    autocast: torch.dtype | None = None
    tf32: bool = False
    lesion_window: bool = False
    statistics: str = "auto"
    views: str | int = "all"

    def __post_init__(self) -> None:
        if self.statistics not in get_args(StatisticsName):
            raise InputError(f"Statistics must be auto, exact, split or fixed, found {self.statistics!r}.")
        if self.views not in ("all", "spread") and not (isinstance(self.views, int) and self.views > 0):
            raise InputError(f"Views must be all, spread or a number above 0, found {self.views!r}.")

    def views_per_draw(self, count: int) -> int:
        """How many of a model's views each draw runs.

        Raises InputError for more than there are.
        """
        if self.views == "all":
            return count
        wanted = 1 if self.views == "spread" else int(self.views)
        if wanted > count:
            raise InputError(f"Expected at most {count} views, which is what the model has, found {wanted}.")
        return wanted
