"""One forward pass of a few windows, and its vector-Jacobian products by the way that the schedule says."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.network import recomputing
from lesionwise.attribution.engine.workload import Pass, Schedule, Strategy, is_out_of_memory
from lesionwise.attribution.sparse.convolutions import Convolutions
from lesionwise.attribution.sparse.footprint import Footprint, Watched, WindowPart
from lesionwise.attribution.sparse.local import LocalActivation, LocalCotangent
from lesionwise.attribution.sparse.outline import Outline
from lesionwise.geometry.box import Box
from lesionwise.kernels import QuickConvolutions
from lesionwise.norms import Held, Statistics
from lesionwise.segmenter import MeanOfViews, full_resolution

_SPREAD_VOX = 4  # cotangents go together if that widens the box of each by no more than this


Windows = Float[Tensor, "batch channels i j k"] | WindowPart
"""Windows as the network takes them: whole, or of each the part that is asked for."""


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
    "local" computes only where a cotangent can be nonzero (see `sparse`), several at once where they are neighbours.
    With `held`, normalisation statistics of every window and view stay what its first pass found.
    """

    network: nn.Module
    strategy: Strategy = "loop"
    together: int = 1
    autocast: torch.dtype | None = None
    recompute: bool = False
    held: dict[Pass, Statistics] | None = None

    def scheduled(self, schedule: Schedule, held: dict[Pass, Statistics] | None = None) -> "Runner":
        """The same network, run as a schedule says; `held` as in the class."""
        return Runner(self.network, schedule.strategy, schedule.together, self.autocast, schedule.recompute, held)

    @cached_property
    def convolutions(self) -> Convolutions:
        """The network's convolutions, for as long as this runner lasts."""
        return Convolutions.of(self.network)

    @property
    def views(self) -> int:
        """Views whose mean the network is; 1 for most."""
        return self.network.count if isinstance(self.network, MeanOfViews) else 1

    def logits(
        self, windows: Windows, footprint: Footprint | None = None, *, at: Pass | None = None
    ) -> Float[Tensor, "batch outputs i j k"]:
        """Logits without gradient; of a `WindowPart` only those that its footprint covers. `at` as in `forward`."""
        with torch.no_grad(), ExitStack() as stack:
            if not isinstance(windows, Tensor) and footprint is not None:
                stack.enter_context(Watched(footprint, self.convolutions))
                return _dense(self._forward(windows.activation(), at))
            stack.enter_context(QuickConvolutions())
            return self._forward(_whole(windows), at)

    def forward(
        self,
        windows: Windows,
        footprint: Footprint | None = None,
        *,
        at: Pass | None = None,
        outline: Outline | None = None,
        watching: AbstractContextManager | None = None,
    ) -> "WindowPass":
        """Logits with the graph that leads to them. A `footprint` is filled by whole windows, and kept to by a `WindowPart`.

        `at` says which window this is, and asks for one of its views; None runs all views and holds no statistics.
        An `outline` makes a graph without values, from which a footprint can learn but no derivative can be taken.
        `watching` is entered for as long as the network runs.
        """
        leaf = windows.detach() if isinstance(windows, Tensor) else windows.activation()
        leaf.requires_grad_(True)
        watched = None
        if footprint is not None and self.strategy == "local" and not footprint.refused:
            watched = Watched(footprint, self.convolutions, outline)
        quick = QuickConvolutions() if isinstance(windows, Tensor) else nullcontext()
        with torch.enable_grad(), quick, outline or nullcontext(), watched or nullcontext(), ExitStack() as stack:
            if self.recompute and outline is None:
                stack.enter_context(recomputing(self.network))
            copy = leaf.clone()  # so that a first layer that works in place does not touch the leaf
            with watching or nullcontext():
                logits = self._forward(copy, at)
            return WindowPass(self, leaf, logits, watched, footprint)

    def learnt(
        self,
        windows: Float[Tensor, "batch channels i j k"],
        footprint: Footprint,
        boxes: Sequence[Box],
        *,
        at: Pass | None = None,
        watching: AbstractContextManager | None = None,
    ) -> "WindowPass":
        """A pass from which the footprint learns what the logits in `boxes` depend on; `watching` sees the network run once.

        The graph holds no values. Where a network cannot be followed that way, it is run once more with them.
        """
        graph = self.forward(windows, footprint, at=at, outline=Outline(), watching=watching)
        graph.learn(boxes)
        if footprint.refused:
            footprint.forget()
            graph = self.forward(windows, footprint, at=at)
            graph.learn(boxes)
        return graph

    def _forward(self, windows: Tensor, at: Pass | None) -> Tensor:
        context = nullcontext() if self.autocast is None else torch.autocast(windows.device.type, dtype=self.autocast)
        held = nullcontext() if self.held is None or at is None else Held(self.held.setdefault(at, Statistics()))
        with context, held:
            if at is None or not isinstance(self.network, MeanOfViews):
                logits = self.network(windows)
            else:
                logits = self.network.one(windows, at[1])
            return full_resolution(logits, windows.shape[2:]).to(windows.dtype)


def _whole(windows: "Tensor | WindowPart") -> Tensor:
    return windows if isinstance(windows, Tensor) else windows.activation().dense()


def _dense(x: Tensor) -> Tensor:
    return x.dense() if isinstance(x, LocalActivation) else x


@dataclass(eq=False)
class WindowPass:
    """The graph of one batch of windows."""

    runner: Runner
    leaf: Tensor
    logits: Tensor
    watched: Watched | None = None
    footprint: Footprint | None = None

    @property
    def values(self) -> Float[Tensor, "batch outputs i j k"]:
        """The logits without their graph."""
        return _dense(self.logits.detach())

    def learn(self, boxes: Sequence[Box]) -> None:
        """Tells the footprint what derivatives of the logits in these boxes will depend on; takes none."""
        if self.runner.strategy != "local" or self.footprint is None or not boxes:
            return
        box = reduce(Box.union, boxes)
        nothing = self.logits.detach().new_zeros((0, self.logits.shape[1], *box.shape))
        try:
            self._back(nothing, box, retain=True)
        except (NotImplementedError, RuntimeError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            self.footprint.refused = True
        self.footprint.learnt = True

    def derivatives(self, cotangents: Sequence[Sequence[Cotangent]], *, last: bool = True) -> Iterator[Derivatives]:
        """dY/dx for every cotangent of every window in the batch; `last` frees the graph with the last of them.

        Windows of a batch do not influence one another, so one product serves one cotangent of each. Locally, all
        windows of a batch are the same one with other noise, whose cotangents have the same boxes.
        """
        if self.runner.strategy == "local":
            yield from self._local(cotangents, last=last)
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

    def _local(self, cotangents: Sequence[Sequence[Cotangent]], *, last: bool) -> Iterator[Derivatives]:
        chunks = list(_neighbours(cotangents[0], self.runner.together))
        for position, (members, box) in enumerate(chunks):
            held = torch.zeros(
                (len(members), len(cotangents), self.logits.shape[1], *box.shape),
                dtype=self.logits.dtype, device=self.logits.device,
            )  # fmt: skip
            for row, member in zip(held, members, strict=True):
                for values, item in zip(row, cotangents, strict=True):
                    own = item[member]
                    values[(slice(None), *own.box.relative_to(box).slices)] = own.values.to(values)
            found = self._back(held.flatten(0, 1), box, retain=not (last and position == len(chunks) - 1))
            if found.box is None:
                raise TypeError("The derivative came back in an unknown shape.")
            each = found.held.unflatten(0, (len(members), len(cotangents)))
            for number in range(len(cotangents)):
                yield Derivatives(number, members, found.box, each[:, number])

    def _back(self, held: Tensor, box: Box, *, retain: bool) -> LocalCotangent:
        if held.device.type == "cpu":
            held = held.contiguous(memory_format=torch.channels_last_3d)
        note_fn = self.watched.note if self.watched is not None else None
        seed = LocalCotangent(held, box, self.logits.shape, note_fn, self.runner.convolutions)
        (found,) = torch.autograd.grad(self.logits, self.leaf, seed, retain_graph=retain)
        if not isinstance(found, LocalCotangent) or found.box is None:
            raise TypeError("The derivative came back as an ordinary tensor.")
        if self.footprint is not None and not self.footprint.learnt:
            self.footprint.arrive(found.box)
        return found

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
