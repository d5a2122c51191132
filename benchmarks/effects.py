"""The size-free effects of an output folder's lesions, by outcome, with the patient as unit.

    python benchmarks/reference_experiments.py OUT --data OPEN CLINIC --model builtin-folds --lesions drawn:6 --controls 2 \
        --only distance
    python -m benchmarks.effects OUT/builtin-folds

Prints, per channel, what one SD brighter throughout the lesion (its rim) does to the log-odds, mean over patients with a
95 % interval (Student's), paired differences between outcomes with Holm-corrected p, and the rank correlation of effect and
of peak with the volume over true positives.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from lesionwise.io.written import usable_scans
from lesionwise.stats.comparisons import holm

OUTCOMES = ("TP", "FP", "FN", "TN")


def lesions_of(out: Path) -> pd.DataFrame:
    """The explained lesions of all finished scans."""
    tables = [scan.lesions.assign(subject=scan.name.subject) for scan in usable_scans(out)[0]]
    together = pd.concat(tables, ignore_index=True)
    return together[together[next(name for name in together if name.startswith("effect_in_"))].notna()]


def told(values: pd.Series) -> str:
    """Mean and interval over patients."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    lesions = lesions_of(parser.parse_args().out)
    channels = [name.removeprefix("share_") for name in lesions if name.startswith("share_")]
    counts = lesions["outcome"].value_counts()
    print("| | " + " | ".join(f"{one} ({counts.get(one, 0)})" for one in OUTCOMES) + " |\n|---|---|---|---|---|")
    for channel in channels:
        for what in ("effect_in", "effect_rim", "share"):
            means = lesions.groupby(["outcome", "subject"])[f"{what}_{channel}"].mean()
            print(f"| {what} {channel} | " + " | ".join(told(means[one]) for one in OUTCOMES) + " |")
        for what in ("effect_in", "effect_rim"):
            means = lesions.groupby(["outcome", "subject"])[f"{what}_{channel}"].mean().unstack("outcome")
            pairs = list(combinations(OUTCOMES, 2))
            gaps = [(means[a] - means[b]).dropna() for a, b in pairs]
            for (a, b), gap, p in zip(
                pairs, gaps, holm([stats.ttest_1samp(gap, 0).pvalue for gap in gaps]), strict=True
            ):
                print(f"  {what} {channel}, {a} - {b}: {told(gap)}, {len(gap)} patients, p = {p:.2g} (Holm)")
        true = lesions[lesions["outcome"] == "TP"]
        of_volume = [
            stats.spearmanr(true["volume_mm3"], true[f"{what}_{channel}"])[0] for what in ("effect_in", "peak")
        ]
        print(f"  {channel}, TP: rank correlation with volume {of_volume[0]:+.2f} (effect), {of_volume[1]:+.2f} (peak)")


if __name__ == "__main__":
    main()
