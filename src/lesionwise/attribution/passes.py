"""One forward pass of a few windows, and its vector-Jacobian products by whichever way measures fastest."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.segmenter import full_resolution
from lesionwise.volume import Box

Strategy = Literal["loop", "batched"]


@dataclass(frozen=True, eq=False)
class Cotangent:
    """dY/dz of one window, zero outside `box` (window coordinates); `values` is (outputs, *box)."""

    box: Box
    values: Tensor


@dataclass(frozen=True, eq=False)
class Derivatives:
    """dY/dx of `count` cotangents on one window of the batch, zero outside `box` (window coordinates)."""

    item: int
    members: tuple[int, ...]
    box: Box
    values: Float[Tensor, "count channels i j k"]


@dataclass(frozen=True, eq=False)
class Runner:
    """How windows go through the network: precision, and the way derivatives are taken.

    "loop" takes one product after another, "batched" several at once (`torch.autograd.grad` with `is_grads_batched`).
    """

    network: nn.Module
    strategy: Strategy = "loop"
    together: int = 1
    autocast: torch.dtype | None = None

    def logits(self, windows: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch outputs i j k"]:
        """Logits without gradient."""
        with torch.no_grad():
            return self._forward(windows)

    def forward(self, windows: Float[Tensor, "batch channels i j k"]) -> "WindowPass":
        """Logits with the graph that leads to them."""
        leaf = windows.detach().requires_grad_(True)
        with torch.enable_grad():
            # A copy, so that a first layer that works in place does not touch the leaf.
            return WindowPass(self, leaf, self._forward(leaf.clone()))

    def _forward(self, windows: Tensor) -> Tensor:
        context = nullcontext() if self.autocast is None else torch.autocast(windows.device.type, dtype=self.autocast)
        with context:
            return full_resolution(self.network(windows), windows.shape[2:]).to(windows.dtype)


@dataclass(eq=False)
class WindowPass:
    """The graph of one batch of windows."""

    runner: Runner
    leaf: Tensor
    logits: Tensor

    def derivatives(self, cotangents: Sequence[Sequence[Cotangent]], *, last: bool = True) -> Iterator[Derivatives]:
        """dY/dx for every cotangent of every window in the batch; `last` frees the graph with the last of them.

        Windows of a batch do not influence one another, so one product serves one cotangent of each.
        """
        rounds = max((len(own) for own in cotangents), default=0)
        step = self.runner.together if self.runner.strategy == "batched" else 1
        for start in range(0, rounds, step):
            stop = min(start + step, rounds)
            gradient = self._product(
                torch.stack([self._dense(cotangents, r) for r in range(start, stop)]),
                retain=not (last and stop == rounds),
            )
            for item, own in enumerate(cotangents):
                count = min(stop, len(own)) - start
                if count > 0:
                    yield Derivatives(
                        item,
                        tuple(range(start, start + count)),
                        Box.whole(tuple(self.leaf.shape[2:])),  # type: ignore[arg-type]
                        gradient[:count, item],
                    )

    def _product(self, stack: Tensor, *, retain: bool) -> Tensor:
        if len(stack) == 1:
            (gradient,) = torch.autograd.grad(self.logits, self.leaf, stack[0], retain_graph=retain)
            return gradient[None]
        (gradient,) = torch.autograd.grad(self.logits, self.leaf, stack, retain_graph=retain, is_grads_batched=True)
        return gradient

    def _dense(self, cotangents: Sequence[Sequence[Cotangent]], index: int) -> Tensor:
        dense = torch.zeros_like(self.logits)
        for item, own in enumerate(cotangents):
            if index < len(own):
                dense[(item, slice(None), *own[index].box.slices)] = own[index].values.to(dense)
        return dense
