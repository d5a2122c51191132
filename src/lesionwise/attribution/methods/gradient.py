"""Gradients: plain, times the input, and instance SmoothGrad with reduction mean or max (METHOD section 3)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lesionwise.attribution.engine.draws import AsIs, Noisy
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.noise import spread
from lesionwise.attribution.engine.sampled_maps import sampled_maps
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution, Removal
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.types import Reduction

_PAIRS_FROM = 16  # fewer pairs are too few units for a standard error


@dataclass(frozen=True)
class SmoothGrad(AbstractMethod):
    """Mean over noisy copies of the scan of the derivative of Omega's target.

    `reduce="mean"` averages it over Omega; "max" keeps, per input voxel, the signed derivative of largest magnitude over
    (at most `max_voxels`, None for all, of) the voxels of Omega. `noise` is sigma as a fraction of the channel's spread
    (METHOD section 3). `tolerance` stops a lesion once the standard error of its largest peak is below that fraction of
    the peak. `antithetic` draws come in pairs x + e, x - e; None takes pairs from 16 draws on if their number is even,
    because they measurably lower the standard error (docs/methods.md). `chunk` above 1 is an approximation of "max": the
    largest over sums of that many voxels, as published scripts have it with 512; it is named in the map's details.
    """

    n_samples: int = 50
    reduce: Reduction = "mean"
    noise: float = 0.05
    max_voxels: int | None = 64
    tolerance: float | None = None
    antithetic: bool | None = None
    noise_rule: Literal["percentiles", "published"] = "percentiles"
    chunk: int = 1

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise InputError(f"SmoothGrad needs at least one sample, found {self.n_samples}.")
        if self.reduce not in ("mean", "max"):
            raise InputError(f"The reduction must be mean or max, found {self.reduce!r}.")
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"The noise must be a number from 0, found {self.noise}.")
        if self.max_voxels is not None and self.max_voxels < 1:
            raise InputError(f"The maximum needs at least one voxel, found {self.max_voxels}.")
        if self.chunk < 1 or (self.chunk > 1 and self.reduce == "mean"):
            raise InputError(
                f"A chunk is a number of voxels whose sum max compares, found {self.chunk} with {self.reduce}."
            )
        if self.antithetic and self.n_samples % 2:
            raise InputError(f"Antithetic samples come in pairs: expected an even number, found {self.n_samples}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"The tolerance must be above 0, found {self.tolerance}.")

    @property
    def name(self) -> str:
        """Name in files."""
        return f"smoothgrad{self.reduce}"

    @property
    def is_derivative(self) -> bool:
        """Of the mean over Omega; a maximum over its voxels is the derivative of no one number."""
        return self.reduce == "mean"

    @property
    def pairs(self) -> bool:
        """True if draws come in antithetic pairs."""
        if self.antithetic is None:
            return self.n_samples >= _PAIRS_FROM and self.n_samples % 2 == 0
        return self.antithetic

    @property
    def draws_per_lesion(self) -> int:
        """Noisy copies."""
        return self.n_samples

    @property
    def seeds_per_lesion(self) -> int | None:
        """One for the mean, one per voxel for the maximum."""
        return 1 if self.reduce == "mean" else self.max_voxels

    @property
    def voxels_per_seed(self) -> int:
        """Voxels whose sum is one product."""
        return self.chunk

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return f"{target.unit} per standard deviation of the channel in the head"

    @property
    def statistics(self) -> tuple[str, ...]:
        """A mean is split without bias; a maximum is not, and a tolerance looks at one part alone."""
        splits = self.reduce == "mean" and self.tolerance is None
        return ("exact", "split", "fixed") if splits else ("exact", "fixed")

    def draws(self, scene: Scene) -> Noisy:
        """The scan with noise."""
        lead = scene.spec.channels.index("FLAIR") if "FLAIR" in scene.spec.channels else 0
        head = scene.placement.head
        sigma = spread(
            scene.placement.input[0], head, noise=self.noise, rule=self.noise_rule, leading_channel=lead
        ).tolist()
        inside = None if self.noise_rule == "published" else head.to(scene.padded.device)
        return Noisy(tuple(sigma), self.n_samples, inside, self.pairs)

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        draws = self.draws(scene)
        details: dict[str, Any] = {
            "noise": self.noise, "noise_rule": self.noise_rule, "sigma": list(draws.sigma), "antithetic": self.pairs
        }  # fmt: skip
        if self.chunk > 1:
            details |= {"approximation": ["chunked-max"], "chunk": self.chunk}
        yield from sampled_maps(
            scene,
            work,
            sites,
            draws,
            reduce=self.reduce,
            max_voxels=self.max_voxels,
            chunk=self.chunk,
            tolerance=self.tolerance,
            details=details,
        )


@dataclass(frozen=True)
class Gradient(AbstractMethod):
    """Derivative of the mean target over Omega at the scan itself."""

    @property
    def name(self) -> str:
        """Name in files."""
        return "gradient"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Exact, or held."""
        return ("exact", "fixed")

    @property
    def is_derivative(self) -> bool:
        """The map is a derivative."""
        return True

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return f"{target.unit} per standard deviation of the channel in the head"

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        yield from sampled_maps(scene, work, sites, AsIs())


@dataclass(frozen=True)
class InputTimesGradient(AbstractMethod):
    """The gradient times the normalised input: first-order contributions against the mean intensity of the head."""

    @property
    def name(self) -> str:
        """Name in files."""
        return "inputxgradient"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Exact, or held."""
        return ("exact", "fixed")

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return target.unit

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        scan, head = scene.placement.scan, scene.placement.scan_head
        removal = Removal(
            (scan * head.to(scan)).cpu().numpy(), Box.whole((scan.shape[1], scan.shape[2], scan.shape[3]))
        )
        for number, found in sampled_maps(scene, work, sites, AsIs(times_input=True)):
            yield number, replace(found, removal=removal)
