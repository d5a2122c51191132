"""`python -m benchmarks.pairs [--samples 32] [--lesions 3]`: do antithetic noise pairs lower the standard error?

The built-in model on a synthetic patient (64 mm block), independent draws against pairs at the same number of passes, from
the same seed. Per lesion: the ratio of standard errors, median over the strongest hundredth of the map's voxels and at the
peak. Below 1 the pairs help.
"""

import argparse
from dataclasses import replace

import numpy as np

from lesionwise.attribution import Attribution, SmoothGrad, attribute
from lesionwise.geometry.box import Box
from lesionwise.instances.components import component_voxels, label_components
from lesionwise.models.zoo import load_model
from lesionwise.phantom import synthesise


def ratios(independent: Attribution, pairs: Attribution) -> tuple[float, float]:
    """SE of pairs over SE of independent draws: median over the map's strongest voxels, and at the peak (largest channel)."""
    if independent.se is None or pairs.se is None or independent.peak_se is None or pairs.peak_se is None:
        raise ValueError("Both maps must be sampled.")
    shared = independent.box.intersection(pairs.box)
    a, b = (part(one, shared) for one in (independent, pairs))
    size = np.abs(independent.data[(slice(None), *shared.relative_to(independent.box).slices)])
    strong = size >= np.quantile(size, 0.99)
    channel = int(np.argmax(independent.peak))
    return float(np.median(b[strong] / a[strong])), float(pairs.peak_se[channel] / independent.peak_se[channel])


def part(found: Attribution, box: Box) -> np.ndarray:
    """The map's standard error on a box."""
    if found.se is None:
        raise ValueError("The map must be sampled.")
    return found.se[(slice(None), *box.relative_to(found.box).slices)]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--lesions", type=int, default=3)
    parser.add_argument("--patient", type=int, default=1, help="Seed of the synthetic patient.")
    options = parser.parse_args()
    model = load_model("builtin")
    case = synthesise(options.patient, size="small").case()
    placement = model.place(case)
    found = sorted(component_voxels(label_components(case.reference)), key=len, reverse=True)
    sets = found[: options.lesions]
    print("| reduction | noise | voxels | SE of pairs / SE of independent draws | at the peak |\n|---|---|---|---|---|")
    for reduce, noise in (("mean", 0.05), ("mean", 0.01), ("max", 0.05)):
        plain = SmoothGrad(n_samples=options.samples, reduce=reduce, noise=noise, max_voxels=8, antithetic=False)
        maps = [
            attribute(model.network, model.spec, placement, sets, method=method)
            for method in (plain, replace(plain, antithetic=True))
        ]
        for voxels, independent, pairs in zip(sets, *maps, strict=True):
            typical, peak = ratios(independent, pairs)
            print(f"| {reduce} | {noise} | {len(voxels)} | {typical:.2f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
