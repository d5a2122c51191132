"""All that stays the same while the instances of one scan are explained: network, input, windows, target, device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.network import convolutions, frozen
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.engine.passes import Runner
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.target import AbstractTarget, target_named
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.segmenter import Placement, Spec
from lesionwise.windows import WindowGrid


@dataclass(frozen=True, eq=False)
class Scene:
    """One scan before one network. `padded` (channels, i, j, k) is the network's input with the windows' padding."""

    runner: Runner
    spec: Spec
    placement: Placement
    grid: WindowGrid
    target: AbstractTarget
    padded: Float[Tensor, "channels i j k"]
    seed: int = 0
    views_per_draw: int | None = None

    @classmethod
    @contextmanager
    def open(
        cls, network: nn.Module, spec: Spec, placement: Placement, options: RunOptions | None = None
    ) -> "Iterator[Scene]":
        """The scene, with the network frozen and on the options' device inside the block and back where it was after it.

        Raises InputError if the input's channels are not the network's or the target cannot be estimated from some of
        the model's views, UnsupportedModelError if the network cannot be frozen.
        """
        options = options or RunOptions()
        found = placement.input.shape[1]
        if found != len(spec.channels):
            raise InputError(
                f"The network expects {len(spec.channels)} channels ({', '.join(spec.channels)}), found {found}."
            )
        home = next((p.device for p in network.parameters()), torch.device("cpu"))
        there = torch.device(options.device)
        try:
            if there != home:
                network.to(there)
            with frozen(network), convolutions(tf32=options.tf32):
                grid = WindowGrid.of(spec, tuple(placement.input.shape[2:]))  # type: ignore[arg-type]
                padded = grid.pad(placement.input[0].to(there))
                runner, target = Runner(network, autocast=options.autocast), target_named(options.target)
                views = options.views_per_draw(runner.views)
                if views < runner.views and not target.is_linear(spec):
                    raise InputError(
                        f"The target {target.name} of this model is not linear in its logits, so that a part of the "
                        "views says nothing of their mean: expected --views all, or --target logit."
                    )
                yield cls(runner, spec, placement, grid, target, padded, options.seed, views)
        finally:
            if there != home:
                network.to(home)

    def running(self, runner: Runner) -> "Scene":
        """The same scene with another way to run windows."""
        return replace(self, runner=runner)

    def over(self, grid: WindowGrid) -> "Scene":
        """The same scene with other windows over the same padded volume."""
        return replace(self, grid=grid)

    def window(self, index: int, within: Box | None = None) -> Float[Tensor, "channels i j k"]:
        """The input of one window, as it is; `within` (window coordinates) asks for a part of it."""
        box = self.grid.boxes[index] if within is None else within.shifted(self.grid.boxes[index].start)
        return self.padded[(slice(None), *box.slices)]

    def windows_of(self, image: Float[Tensor, "channels i j k"], windows: Sequence[int]) -> dict[int, Tensor]:
        """Some windows of another image on the network's grid."""
        padded = self.grid.pad(image)
        return {w: padded[(slice(None), *self.grid.boxes[w].slices)] for w in windows}

    def share(self, index: int, local: Box) -> Float[Tensor, "i j k"]:
        """a_w[v] / sum_w a_w[v] on a box of window `index` (window coordinates)."""
        return self.grid.share(index, local).to(self.padded)

    def in_window(self, index: int, box: Box, within: Box | None = None) -> tuple[Box, Box]:
        """What a box of the volume shares with a window: in window coordinates, and in the box's own.

        With `within` (window coordinates) what it shares with that part of the window, in the part's coordinates.
        """
        seen = self.grid.boxes[index] if within is None else within.shifted(self.grid.boxes[index].start)
        padded = box.shifted(self.grid.offset)
        shared = padded.intersection(seen)
        return shared.relative_to(seen), shared.relative_to(padded)

    def in_volume(
        self, index: int, local: Box, values: Float[Tensor, "*lead i j k"]
    ) -> tuple[Box, Float[Tensor, "*lead i2 j2 k2"]]:
        """A box of a window, without what lies in the padding: in the volume's coordinates."""
        back = (-self.grid.offset[0], -self.grid.offset[1], -self.grid.offset[2])
        moved = local.shifted(self.grid.boxes[index].start).shifted(back)
        inside = moved.intersection(Box.whole(self.grid.shape))
        return inside, values[(..., *inside.relative_to(moved).slices)]

    def fused(
        self,
        sites: Sequence[Site],
        inputs: dict[int, Tensor] | None = None,
        *,
        batch: int = 1,
        progress_fn: Callable[[float], None] | None = None,
    ) -> list[Float[Tensor, "outputs _"]]:
        """Logits at every voxel of Omega, one forward pass per window that meets any of the sites.

        `inputs` gives other inputs (channels, i, j, k) than the scan's for those windows. `progress_fn` hears the share
        that is done.
        """
        windows = sorted({w for site in sites for w in site.windows})
        found: dict[int, Tensor] = {}
        for start in range(0, len(windows), batch):
            some = windows[start : start + batch]
            stack = torch.stack([self.window(w) if inputs is None else inputs[w] for w in some])
            for w, own in zip(some, self.runner.logits(stack), strict=True):
                for site in sites:
                    if w in site.windows:
                        if site.number not in found:
                            found[site.number] = own.new_zeros((len(own), *site.readout.source.shape))
                        self.grid.fuse(found[site.number], site.readout.source, w, own)
            if progress_fn is not None:
                progress_fn((start + len(some)) / len(windows))
        outputs = self.spec.classes * self.spec.members
        return [
            site.readout.read(found[site.number])
            if site.number in found
            else self.padded.new_zeros((outputs, len(site.voxels)))
            for site in sites
        ]

    def values(
        self, sites: Sequence[Site], inputs: dict[int, Tensor] | None = None, *, batch: int = 1
    ) -> list[Float[Tensor, " _"]]:
        """y at every voxel of Omega."""
        return [self.target.value(logits, self.spec) for logits in self.fused(sites, inputs, batch=batch)]
