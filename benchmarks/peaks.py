"""How far a sampled map's peak is biased, and how often its interval covers the truth. Makes the table of docs/method.md.

python -m benchmarks.peaks [--maps 1000]
python -m benchmarks.peaks --seeds 100 [--draws 8]       # the built-in model on a synthetic block instead
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

from lesionwise.attribution.engine.extremes import Extremes
from lesionwise.attribution.engine.moments import GROUPS

SHAPE = (12, 12, 6)
_PEAK_VOX = 2.0
_NOISE_VOX = 1.2


@dataclass(frozen=True)
class Peaks:
    """`bias` as a share of the true peak, of this estimate, of two split halves and of the plain maximum; `coverage` of 95 %
    intervals, and of two halves' +- 2 SE within the halves."""

    bias: float
    halves_bias: float
    plain_bias: float
    coverage: float
    halves_coverage: float


def simulated(draws: int, ratio: float, *, maps: int, rng: np.random.Generator) -> Peaks:
    """Maps with one smooth peak of `ratio` standard deviations of a single draw, in noise as smooth as gradients are."""
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in SHAPE], indexing="ij"), axis=-1)
    truth = ratio * np.exp(-(grid**2).sum(axis=-1) / (2 * _PEAK_VOX**2))
    one = np.zeros((maps, 2))
    two = np.full((maps, 2), np.nan)
    plain = np.zeros(maps)
    for number in range(maps):
        noise = ndimage.gaussian_filter(rng.standard_normal((draws, *SHAPE)), (0, _NOISE_VOX, _NOISE_VOX, _NOISE_VOX))
        x = (truth + noise / noise.std())[:, None]
        groups = [x[group::GROUPS].mean(axis=0) for group in range(min(GROUPS, draws))]
        found = Extremes.of_groups(groups, [len(range(g, draws, GROUPS)) for g in range(len(groups))])
        if found.peak_se is None:
            raise RuntimeError("Sampled maps have a standard error.")
        one[number] = found.peak[0], stats.t.ppf(0.975, found.freedom) * found.peak_se[0]
        two[number] = _by_halves(x.reshape(draws, -1))
        plain[number] = x.mean(axis=0).max()
    return Peaks(
        float(one[:, 0].mean() / ratio - 1.0),
        float(two[:, 0].mean() / ratio - 1.0),
        float(plain.mean() / ratio - 1.0),
        float((np.abs(one[:, 0] - ratio) <= one[:, 1]).mean()),
        float((np.abs(two[:, 0] - ratio) <= two[:, 1]).mean()),
    )


def _by_halves(x: np.ndarray) -> tuple[float, float]:
    """Value and two standard errors as they were: the place of each half read in the other."""
    even, odd = x[0::2], x[1::2]
    at_even, at_odd = even.mean(axis=0).argmax(), odd.mean(axis=0).argmax()
    variance = odd[:, at_even].var(ddof=1) / len(odd) + even[:, at_odd].var(ddof=1) / len(even)
    return float(0.5 * (odd[:, at_even].mean() + even[:, at_odd].mean())), float(np.sqrt(variance))


def of_the_built_in_model(seeds: int, draws: int) -> str:
    """Coverage of the peaks of one lesion under many seeds; the truth is the largest value of the mean of all maps."""
    # imported here: the simulation above, which tests run, needs no network
    from lesionwise.attribution import SmoothGrad, attribute
    from lesionwise.geometry.volume import Case, ScanName
    from lesionwise.instances.components import component_voxels, label_components
    from lesionwise.models.zoo import load_model
    from lesionwise.phantom import synthesise

    patient = synthesise(4, size="small")
    model = load_model("builtin")
    placement = model.place(Case(patient.image, patient.head, patient.reference, ScanName("small")))
    lesion = max(component_voxels(label_components(patient.reference)), key=len)
    method = SmoothGrad(n_samples=draws, antithetic=False)
    found = [
        attribute(model.network, model.spec, placement, [lesion], method=method, seed=seed)[0] for seed in range(seeds)
    ]
    mean = np.zeros(tuple(placement.scan.shape))
    for one in found:
        mean[(slice(None), *one.box.slices)] += one.data / seeds
    truth = mean.max(axis=(1, 2, 3))
    peaks, errors = np.stack([one.peak for one in found]), np.stack([one.peak_se for one in found])
    held = np.abs(peaks - truth) <= stats.t.ppf(0.975, found[0].peak_freedom) * errors
    shown = zip(model.spec.channels, peaks.mean(axis=0) / truth - 1.0, held.mean(axis=0), strict=True)
    return "; ".join(f"{name}: bias {100 * bias:+.1f} %, coverage {share:.2f}" for name, bias, share in shown)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--draws", type=int, default=8)
    given = parser.parse_args()
    if given.seeds:
        print(of_the_built_in_model(given.seeds, given.draws))
        return
    maps = given.maps
    print("| peak / SD of a draw | draws | bias | coverage | bias, two halves | coverage, two halves | bias, plain |")
    print("|---|---|---|---|---|---|---|")
    for ratio in (0.5, 1.0, 2.0, 4.0):
        for draws in (4, 8, 16, 50):
            p = simulated(draws, ratio, maps=maps, rng=np.random.default_rng([draws, int(10 * ratio)]))
            cells = (p.bias, p.coverage, p.halves_bias, p.halves_coverage, p.plain_bias)
            shown = " | ".join(f"{100 * v:+.0f} %" if n in (0, 2, 4) else f"{v:.2f}" for n, v in enumerate(cells))
            print(f"| {ratio:g} | {draws} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
