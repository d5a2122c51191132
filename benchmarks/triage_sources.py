"""On whom to fit triage: real patients, synthetic ones, or both; judged on patients that the fit has not seen.

    lesionwise triage explain BIDS_DIR REAL --model builtin-folds --instances 0      # real patients, predicted out of fold
    lesionwise triage explain PHANTOMS SYNTHETIC --instances 0
    python -m benchmarks.triage_sources REAL SYNTHETIC

Five folds of patients, three times; the table gives means over the three. All predicted lesions, features that need no map.
"""

import argparse
from pathlib import Path

import numpy as np

from lesionwise.stats.effects import weighted_auc
from lesionwise.triage.cohort import measure_cohort
from lesionwise.triage.evidence import BASELINES
from lesionwise.triage.families import catalogue, of_families
from lesionwise.triage.fitting import Cohort, fit, patient_folds
from lesionwise.triage.scan import JUDGED

CHANNELS = ("FLAIR", "T1w")
SETS = {"baselines": BASELINES, "baselines + image": (*BASELINES, "image")}
REPEATS, FOLDS = 3, 5


def together(first: Cohort, second: Cohort) -> Cohort:
    """Both cohorts' lesions."""
    pairs = [
        (getattr(first, name), getattr(second, name)) for name in ("table", "false", "patients", "weights", "volumes")
    ]
    table, false, patients, weights, volumes = (np.concatenate(pair) for pair in pairs)
    return Cohort(table, first.names, false, patients, weights, volumes)


def auc(cohort: Cohort, p: np.ndarray) -> float:
    """Of false over true lesions."""
    return float(weighted_auc(p, cohort.weights * (cohort.false == 0), cohort.weights * (cohort.false == 1)))


def judged(real: Cohort, synthetic: Cohort, source: str, *, seed: int) -> tuple[float, ...]:
    """AUC on real patients, expected share of false, Brier score; AUC on synthetic patients, expected share of false."""
    p, q = np.full(len(real.false), np.nan), np.full(len(synthetic.false), np.nan)
    folds = [list(patient_folds(one.patients, one.false, folds=FOLDS, seed=seed)) for one in (real, synthetic)]
    for (own, out), (made, made_out) in zip(*folds, strict=True):
        seen = {"real": [real.take(own)], "synthetic": [synthetic.take(made)]}
        parts = [*seen["real"], *seen["synthetic"]] if source == "both" else seen[source]
        model = fit(parts[0] if len(parts) == 1 else together(*parts), seed=seed)
        p[out], q[made_out] = model.probability(real.table[out]), model.probability(synthetic.table[made_out])
    return auc(real, p), p.mean(), float(np.mean((p - real.false) ** 2)), auc(synthetic, q), q.mean()


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("synthetic", type=Path)
    given = parser.parse_args()
    tables = [measure_cohort(out, every=True) for out in (given.real, given.synthetic)]
    tables = [table[table["outcome"].isin(JUDGED)] for table in tables]
    print("| features | fitted on | real: AUC | expected false (are) | Brier | synthetic: AUC | expected false (are) |")
    print("|---|---|---|---|---|---|---|")
    for name, families in SETS.items():
        known = of_families(catalogue(CHANNELS), families)
        columns = [c for c in known if all(c in table and table[c].notna().any() for table in tables)]
        real, synthetic = (Cohort.of(table, columns) for table in tables)
        for source in ("real", "synthetic", "both"):
            found = np.mean([judged(real, synthetic, source, seed=seed) for seed in range(REPEATS)], axis=0)
            one, mean, brier, other, made = found
            print(
                f"| {name} | {source} | {one:.3f} | {mean:.2f} ({real.false.mean():.2f}) | {brier:.3f} | {other:.3f} "
                f"| {made:.2f} ({synthetic.false.mean():.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
