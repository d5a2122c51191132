"""One forward pass of a few windows, and its vector-Jacobian products by whichever way measures fastest."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.footprint import Footprint, Watched
from lesionwise.attribution.local import LocalCotangent
from lesionwise.segmenter import full_resolution
from lesionwise.volume import Box

Strategy = Literal["loop", "batched", "local"]
_SPREAD_VOX = 4  # cotangents go together if that widens the box of each by no more than this


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

    "loop" takes one product after another, "batched" several at once (`torch.autograd.grad` with `is_grads_batched`),
    "local" computes only where a cotangent can be nonzero (see `local`), several at once where they are neighbours.
    """

    network: nn.Module
    strategy: Strategy = "loop"
    together: int = 1
    autocast: torch.dtype | None = None

    def logits(
        self, windows: Float[Tensor, "batch channels i j k"], footprint: Footprint | None = None
    ) -> Float[Tensor, "batch outputs i j k"]:
        """Logits without gradient; with a learnt `footprint` only those that it covers."""
        learnt = footprint is not None and footprint.learnt and len(windows) == 1
        with torch.no_grad(), Watched(footprint) if footprint is not None and learnt else nullcontext():
            return self._forward(windows)

    def forward(
        self, windows: Float[Tensor, "batch channels i j k"], footprint: Footprint | None = None
    ) -> "WindowPass":
        """Logits with the graph that leads to them. A `footprint` is filled, or, once learnt, kept to."""
        leaf = windows.detach().requires_grad_(True)
        watched = Watched(footprint) if footprint is not None and self.strategy == "local" and len(leaf) == 1 else None
        with torch.enable_grad(), watched or nullcontext():
            # A copy, so that a first layer that works in place does not touch the leaf.
            return WindowPass(self, leaf, self._forward(leaf.clone()), watched)

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
    watched: Watched | None = None

    def derivatives(self, cotangents: Sequence[Sequence[Cotangent]], *, last: bool = True) -> Iterator[Derivatives]:
        """dY/dx for every cotangent of every window in the batch; `last` frees the graph with the last of them.

        Windows of a batch do not influence one another, so one product serves one cotangent of each.
        """
        if self.runner.strategy == "local" and len(self.leaf) == 1:
            yield from self._local(cotangents[0], last=last)
            return
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

    def _local(self, cotangents: Sequence[Cotangent], *, last: bool) -> Iterator[Derivatives]:
        chunks = list(_neighbours(cotangents, self.runner.together))
        for position, (members, box) in enumerate(chunks):
            held = self.logits.new_zeros((len(members), self.logits.shape[1], *box.shape))
            for row, member in zip(held, members, strict=True):
                own = cotangents[member]
                row[(slice(None), *own.box.relative_to(box).slices)] = own.values.to(row)
            seed = LocalCotangent(held, box, self.logits.shape, self.watched.note if self.watched else None)
            retain = not (last and position == len(chunks) - 1)
            (found,) = torch.autograd.grad(self.logits, self.leaf, seed, retain_graph=retain)
            if isinstance(found, LocalCotangent) and found.box is not None:
                yield Derivatives(0, members, found.box, found.held)
            else:
                raise TypeError("The derivative came back as an ordinary tensor.")

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


def _neighbours(cotangents: Sequence[Cotangent], together: int) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Runs of at most `together` cotangents whose common box is hardly larger than each one's own."""
    members: list[int] = []
    common: Box | None = None
    for number, cotangent in enumerate(cotangents):
        union = cotangent.box if common is None else common.union(cotangent.box)
        smallest = [cotangent.box, *(cotangents[m].box for m in members)]
        widest = max(u - min(box.shape[a] for box in smallest) for a, u in enumerate(union.shape))
        if common is not None and (len(members) >= together or widest > _SPREAD_VOX):
            yield tuple(members), common
            members, union = [], cotangent.box
        members.append(number)
        common = union
    if common is not None:
        yield tuple(members), common
