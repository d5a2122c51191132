"""A network run again on an input of which only a part changed, for a part of its output.

Asking a network about one lesion with and without something means running it again and again on nearly the same window.
A pass over a reference input keeps what every layer gave. Of a changed input, each layer is then computed on one box: what
the change can have reached, by the geometry of the layers, and of that only what the wanted logits depend on (see
`footprint`). Outside the box the layer gives what it gave before. An operation that is not known is computed whole, and
what differs afterwards is found by comparison; a network that gathers values over the grid is run whole. So the result is
always that of an ordinary pass, up to the rounding of a convolution done on a box.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from lesionwise.attribution.engine.network import frozen
from lesionwise.attribution.engine.passes import Runner
from lesionwise.attribution.engine.workload import is_out_of_memory
from lesionwise.attribution.sparse.activations import RULES, in_place, pointwise
from lesionwise.attribution.sparse.convolutions import Convolutions
from lesionwise.attribution.sparse.footprint import CALLS, Footprint, convolved
from lesionwise.attribution.sparse.local import LocalTensor, input_box
from lesionwise.geometry.box import Box
from lesionwise.kernels import QuickConvolutions, UncompiledMode
from lesionwise.segmenter import full_resolution

_aten = torch.ops.aten
_NOWHERE = Box((0, 0, 0), (0, 0, 0))
TOGETHER_VOX = 2**18
"""Input voxels up to which versions with like changes are run in one pass: small boxes cost calls, large ones arithmetic."""

_SAME = frozenset({_aten.detach.default, _aten.alias.default})
_POINTWISE = frozenset(
    (
        *(func for func, rule in RULES.items() if rule in (pointwise, in_place)),
        _aten.add_.Tensor,
        _aten.clone.default,
    )
)


class Changed(LocalTensor):
    """A tensor (items, channels, i, j, k) that differs from `before` in `box` at most, where it is `held`."""

    before: Tensor
    box: Box

    @staticmethod
    def __new__(cls, before: Tensor, held: Tensor, box: Box) -> "Changed":
        made = torch.Tensor._make_wrapper_subclass(cls, before.shape, dtype=before.dtype, device=before.device)
        made.before, made.held, made.box = before, held, box
        return made

    def dense(self) -> Tensor:
        """As an ordinary tensor."""
        if self.box.is_empty:
            return self.before
        whole = self.before.clone()
        whole[(..., *self.box.slices)] = self.held
        return whole

    def cut(self, box: Box) -> Tensor:
        """The values on a box; what is returned may be a view."""
        common = self.box.intersection(box)
        if common == box:
            return self.held[(..., *box.relative_to(self.box).slices)]
        if common.is_empty:
            return self.before[(..., *box.slices)]
        found = self.before[(..., *box.slices)].clone()
        found[(..., *common.relative_to(box).slices)] = self.held[(..., *common.relative_to(self.box).slices)]
        return found


class _OtherSteps(NotImplementedError):
    """The network calls other operations than those on the tape."""


class Rerun:
    """Logits of a network on changed versions of one window, exact on the box that is `wanted`.

    `reference` is (channels, i, j, k) and its logits are `before` (outputs, i, j, k). `learn` also finds out which part
    of every layer the wanted logits depend on, at the price of two more passes: worth it if there are many versions.
    """

    def __init__(
        self, network: nn.Module, reference: Float[Tensor, "channels i j k"], *, wanted: Box, learn: bool = True
    ) -> None:
        self._network, self._reference, self._wanted = network, reference, wanted
        self._convolutions = Convolutions.of(network)
        self._footprint, self._tape = Footprint(), _Tape()
        self.refused = False
        self._has_graph = learn
        self.before = self._learnt() if learn else self._recorded()

    def logits(
        self, versions: Sequence[Float[Tensor, "channels i j k"]], *, boxes: Sequence[Box] | None = None
    ) -> list[Float[Tensor, "outputs i j k"]]:
        """Logits of windows of the reference's size; beyond `wanted` they may be anything.

        `boxes` say where each differs from the reference, where that is known. Small changes at one place are run in one
        pass.
        """
        if boxes is None:
            boxes = [changed_box(x, self._reference) for x in versions]
        found = [self.before] * len(versions)
        with torch.no_grad():
            for some in _together(boxes):
                box = _hull([boxes[n] for n in some])
                for n, logits in zip(some, self._changed([versions[n] for n in some], box), strict=True):
                    found[n] = logits
        return found

    def _changed(self, versions: Sequence[Tensor], box: Box) -> Sequence[Tensor]:
        if not self.refused:
            held = torch.stack([x[(slice(None), *box.slices)] for x in versions])
            lies = Changed(_repeated(self._reference[None], len(versions)), held, box)
            try:
                with _Replay(self._tape, self._footprint, self._convolutions, items=len(versions)):
                    found = self._forward(lies)
                return list(self._filled(found) if isinstance(found, Changed) else found)
            except (NotImplementedError, RuntimeError, TypeError, IndexError) as error:
                if is_out_of_memory(error):
                    raise
                # With a graph some functions take other steps than without: then the tape is recorded anew without one.
                self.refused = not (self._has_graph and isinstance(error, _OtherSteps))
            if not self.refused:
                self._has_graph, self.before = False, self._recorded()
                return self._changed(versions, box)
        return [self._forward(x[None].clone())[0] for x in versions]

    def _filled(self, found: Changed) -> Tensor:
        """The logits as an ordinary tensor; 0 beyond what is wanted where that has been told apart."""
        if not self._footprint.learnt:
            return found.dense()
        whole = found.before.new_zeros(found.shape)
        whole[(..., *self._wanted.slices)] = found.cut(self._wanted)
        return whole

    @property
    def nbytes(self) -> int:
        """What is kept of the reference pass."""
        return sum(x.numel() * x.element_size() for x in tree_leaves(self._tape.kept) if isinstance(x, Tensor))

    def _forward(self, x: Tensor) -> Tensor:
        return full_resolution(self._network(x), x.shape[2:])

    def _recorded(self) -> Tensor:
        """The logits of the reference; what every layer gave goes onto a new tape."""
        self._tape = _Tape()
        window = self._reference[None].clone()  # a first layer that works in place must not touch the reference
        with torch.no_grad(), QuickConvolutions(), self._tape:
            return self._forward(window)[0]

    def _learnt(self) -> Tensor:
        """The same, and the footprint learns what the wanted logits depend on, by a graph that holds no values."""
        footprint = Footprint()
        with frozen(self._network):
            runner = Runner(self._network, "local")
            graph = runner.learnt(self._reference[None], footprint, [self._wanted], watching=self._tape)
        if not footprint.refused:
            self._footprint = footprint
        return graph.values[0]


class _Tape(UncompiledMode):
    """Keeps what every operation gave that returned tensors of three dimensions, as it was before it was written over."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Any] = []
        self.kept: list[Any] = []
        self._lying: dict[int, list[tuple[int, int | None]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _SAME:
            return func(*args, **(kwargs or {}))
        if func._schema.is_mutable:
            for x in tree_leaves((args, kwargs or {})):
                if isinstance(x, Tensor):
                    self._save(x)
        found = func(*args, **(kwargs or {}))
        self.called.append(func)
        self.kept.append(tuple(_spatial(x) for x in found) if isinstance(found, (tuple, list)) else _spatial(found))
        number = len(self.kept) - 1
        if isinstance(found, (tuple, list)):
            for part, x in enumerate(found):
                self._note(x, number, part)
        else:
            self._note(found, number, None)
        return found

    def _note(self, x: Any, number: int, part: int | None) -> None:
        if _spatial(x) is not None:
            self._lying.setdefault(x.untyped_storage().data_ptr(), []).append((number, part))

    def _save(self, x: Tensor) -> None:
        """A tensor is about to be written into: what was kept of its memory is kept as a copy."""
        for number, part in self._lying.pop(x.untyped_storage().data_ptr(), ()):
            kept = self.kept[number]
            if part is None:
                self.kept[number] = kept.clone()
            else:
                self.kept[number] = (*kept[:part], kept[part].clone(), *kept[part + 1 :])


class _Replay(UncompiledMode):
    """Sends `items` changed inputs through the operations on the tape, which holds one."""

    def __init__(self, tape: _Tape, footprint: Footprint, convolutions: Convolutions, *, items: int) -> None:
        super().__init__()
        self._tape, self._footprint, self._convolutions, self._items = tape, footprint, convolutions, items
        self._number = self._call = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _SAME:
            return args[0] if isinstance(args[0], Changed) else func(*args, **(kwargs or {}))
        if self._tape.called[self._number : self._number + 1] != [func]:
            raise _OtherSteps("The network does something else than for the reference.")
        before, self._number = _repeated(self._tape.kept[self._number], self._items), self._number + 1
        limit = None
        if func in CALLS and args[0].ndim == 5:
            limit = self._footprint.boxes.get(self._call) if self._footprint.learnt else None
            self._call += 1
        changed = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Changed)]
        if not changed:
            return func(*args, **(kwargs or {}))
        found = self._on_box(func, args, kwargs or {}, before, changed, limit)
        return self._whole(func, args, kwargs or {}, before) if found is None else found

    def _on_box(
        self, func: Any, args: tuple, kwargs: dict, before: Any, changed: list[Changed], limit: Box | None
    ) -> Any:
        """The operation on the box that the change reaches; None if it has no rule for that."""
        if func is _aten.convolution.default:
            return self._convolution(args, before, limit)
        box = _limited(_hull([x.box for x in changed]), limit)
        size = changed[0].shape[2:]
        if func is _aten.native_batch_norm.default and not args[5]:
            if box.is_empty:
                return (_unchanged(before[0]), *before[1:])
            held, *saved = func(args[0].cut(box), *args[1:])
            return (Changed(before[0], held, box), *saved)
        if func is _aten._prelu_kernel.default:
            return Changed(before, func(args[0].cut(box), args[1]), box)
        if func in _POINTWISE and all(x.shape[2:] == size for x in changed):
            cropped: list[Any] = []
            for x in args:
                if isinstance(x, Changed):
                    cropped.append(x.cut(box))
                elif isinstance(x, Tensor) and x.ndim == 5 and x.shape[2:] == size:
                    cropped.append(x[(..., *box.slices)])
                elif isinstance(x, Tensor) and x.ndim > 0 and (x.ndim != 5 or x.shape[2:].numel() != 1):
                    return None
                else:
                    cropped.append(x)
            if not func._schema.is_mutable:
                return Changed(before, func(*cropped, **kwargs), box)
            if not isinstance(args[0], Changed):
                return None
            held = cropped[0].clone()
            func(held, *cropped[1:], **kwargs)
            args[0].before, args[0].held, args[0].box = before, held, box
            return args[0]
        if func is _aten.cat.default and all(x.ndim == 5 for x in args[0]) and (args[1:] or (0,))[0] in (1, -4):
            parts = [
                x.cut(box) if isinstance(x, Changed) else _repeated(x, self._items)[(..., *box.slices)] for x in args[0]
            ]
            return Changed(before, func(parts, 1), box)
        return None

    def _convolution(self, args: tuple, before: Tensor, limit: Box | None) -> Changed | None:
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        if not isinstance(x, Changed) or weight.ndim != 5:
            return None
        # What reads a box of the input is what a transposed convolution of the same geometry would read.
        kernel, size = weight.shape[2:], before.shape[2:]
        reached = input_box(x.box, size, kernel, stride, padding, dilation, transposed=not transposed)
        box = _limited(reached, limit)
        if box.is_empty:
            return _unchanged(before)
        geometry = (stride, padding, dilation, transposed, groups)
        part = convolved(self._convolutions, x.cut, box, x.shape[2:], weight, bias, geometry)
        return None if part is None else Changed(before, part, box)

    def _whole(self, func: Any, args: tuple, kwargs: dict, before: Any) -> Any:
        """The operation on ordinary tensors, and what differs from before."""
        if func._schema.is_mutable:
            raise NotImplementedError(f"{func} writes into a tensor that is held in part.")
        args, kwargs = tree_map_only(Changed, Changed.dense, (args, kwargs))
        found = func(*args, **kwargs)
        for x in tree_leaves(found):
            # What is gathered over the grid changes everything that uses it, and may have read what was left as it was.
            gathered = isinstance(x, Tensor) and (x.ndim != 5 or (self._footprint.learnt and x.shape[2:].numel() == 1))
            if gathered:
                raise NotImplementedError(f"{func} leaves the grid.")
        if isinstance(found, (tuple, list)):
            return type(found)(_compared(x, b) for x, b in zip(found, before, strict=True))
        return _compared(found, before)


def _repeated(before: Any, items: int) -> Any:
    """What the tape holds of one item, as that of several."""
    if isinstance(before, tuple):
        return tuple(_repeated(x, items) for x in before)
    is_one = isinstance(before, Tensor) and before.ndim == 5 and before.shape[0] == 1
    return before.expand(items, *before.shape[1:]) if is_one else before


def _together(boxes: Sequence[Box]) -> list[list[int]]:
    """Versions that are run in one pass, by their number: their boxes lie in the largest of them, and are half of it or more."""
    groups: list[list[int]] = []
    changed = [n for n, box in enumerate(boxes) if not box.is_empty]
    for n in sorted(changed, key=lambda n: -boxes[n].volume):
        for some in groups:
            largest = boxes[some[0]]
            fits = largest.intersection(boxes[n]) == boxes[n] and 2 * boxes[n].volume >= largest.volume
            if fits and (len(some) + 1) * largest.volume <= TOGETHER_VOX:
                some.append(n)
                break
        else:
            groups.append([n])
    return groups


def _unchanged(before: Tensor) -> Changed:
    return Changed(before, before[(..., *_NOWHERE.slices)], _NOWHERE)


def _spatial(x: Any) -> Tensor | None:
    """What is kept of an operation's output: the values, without the graph that may come to lead to them."""
    return x.detach() if isinstance(x, Tensor) and x.ndim == 5 and x.is_floating_point() else None


def _compared(found: Any, before: Tensor | None) -> Any:
    if before is None or not isinstance(found, Tensor) or found.shape != before.shape:
        return found
    box = around((found != before).flatten(0, 1).any(dim=0))
    return Changed(before, found[(..., *box.slices)], box)


def changed_box(x: Float[Tensor, "channels i j k"], reference: Float[Tensor, "channels i j k"]) -> Box:
    """The smallest box outside which both are equal; empty if they are equal everywhere."""
    return around((x != reference).any(dim=0))


def around(mask: Tensor) -> Box:
    """The smallest box that holds a mask (i, j, k)."""
    if not bool(mask.any()):
        return _NOWHERE
    start, stop = [], []
    for axes in ((1, 2), (0, 2), (0, 1)):
        hit = torch.nonzero(mask.any(dim=axes[1]).any(dim=axes[0])).flatten()
        start.append(int(hit[0]))
        stop.append(int(hit[-1]) + 1)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _hull(boxes: Sequence[Box]) -> Box:
    real = [box for box in boxes if not box.is_empty]
    return reduce(Box.union, real) if real else _NOWHERE


def _limited(box: Box, limit: Box | None) -> Box:
    common = box if limit is None else box.intersection(limit)
    return _NOWHERE if common.is_empty else common
