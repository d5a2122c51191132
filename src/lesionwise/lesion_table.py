"""The columns of `lesions.tsv`: their order, meaning and unit."""

from collections.abc import Mapping, Sequence
from typing import Any

BASE: Mapping[str, Mapping[str, str]] = {
    "lesion": {"Description": "Instance number, as in the dseg image"},
    "outcome": {
        "Description": "TP: predicted lesion that overlaps the reference; FP: predicted, no overlap; FN: reference lesion "
        "without a predicted voxel; TN: control region in healthy white matter; US: under-segmented (IoU rule only); "
        "n/a without a reference"
    },
    "volume_mm3": {"Description": "Volume of the instance", "Units": "mm3"},
    "x_mm": {
        "Description": "Centroid, towards the right; n/a, as y_mm and z_mm, where the header does not say where the scan lies",
        "Units": "mm (RAS)",
    },
    "y_mm": {"Description": "Centroid, towards anterior", "Units": "mm (RAS)"},
    "z_mm": {"Description": "Centroid, towards superior", "Units": "mm (RAS)"},
    "probability_mean": {"Description": "Mean lesion probability over the instance", "Units": "1"},
    "probability_max": {"Description": "Largest lesion probability in the instance", "Units": "1"},
    "target_mean": {
        "Description": "Mean of the explained target over the instance, without noise",
        "Units": "target unit",
    },
    "iou": {"Description": "Best intersection over union with one reference component; 0 for FP and FN", "Units": "1"},
    "reference_lesions": {
        "Description": "Which reference lesions share a voxel with the instance: their numbers, separated by commas, as "
        "components of the reference in scan order from 1; its own number for FN; n/a for none"
    },
    "n_samples": {"Description": "Noise samples drawn", "Units": "1"},
    "converged": {"Description": "True if the peak's standard error reached --tolerance; n/a without --tolerance"},
    "seconds": {"Description": "Computing time of this instance's map", "Units": "s"},
}

PER_CHANNEL: Mapping[str, Mapping[str, str]] = {
    "effect_in": {
        "Description": "What the lesion's target gains when the channel is one standard deviation brighter throughout the "
        "lesion: the sum of the map over it. It does not shrink with size by construction, as peaks and means do: compare "
        "lesions by it. n/a for maps that are no derivative of the mean target"
    },
    "effect_in_se": {"Description": "Monte-Carlo standard error of effect_in, from the draws"},
    "effect_rim": {"Description": "The same for the rim, (0, 3] mm outside the instance, other lesions excluded"},
    "effect_rim_se": {"Description": "Monte-Carlo standard error of effect_rim, from the draws"},
    "peak": {
        "Description": "Largest signed value of the map, found on some draws and read on others; not biased upwards by "
        "maximisation over noise, but biased low where draws leave its place open (docs/method.md, section 3). By "
        "reduction mean it shrinks as lesions grow, by max it grows: compare at equal volume only"
    },
    "peak_se": {
        "Description": "Standard error of the peak over draws, its uncertain place included; 95 % interval: peak +- 2.78 "
        "peak_se (Student, 4 degrees of freedom) from five independent draws on; n/a below four"
    },
    "trough": {"Description": "Smallest signed value of the map, corrected as the peak"},
    "mean_in": {"Description": "Mean of the signed map over the instance"},
    "mean_shell_0_3mm": {
        "Description": "Mean of the signed map at (0, 3] mm outside the instance, other lesions excluded"
    },
    "mean_shell_3_7mm": {
        "Description": "Mean of the signed map at (3, 7] mm outside the instance, other lesions excluded"
    },
    "mass_in": {"Description": "Sum of |map| over the instance's voxels"},
    "mass_out": {"Description": "Sum of |map| over all voxels outside the instance"},
    "share": {
        "Description": "Total |map| of this channel over that of all channels; most of it lies outside the lesion, so it "
        "says little of this one",
        "Units": "1",
    },
}

TRIAGE: Mapping[str, Mapping[str, str]] = {
    "triage_p_false": {"Description": "Calibrated probability that this predicted lesion is false", "Units": "1"},
    "triage_verdict": {
        "Description": "'probably false' if triage_p_false reaches the model's operating point, else 'keep'; n/a for "
        "lesions that were not explained or are of a size unknown to the model, missed lesions and control regions"
    },
    "triage_reasons": {
        "Description": "What spoke most for the verdict, as JSON: `reasons`, up to three concepts by their loudest feature "
        "(feature, value, typical of true lesions or, where the lesion is kept, of false ones, weight: its share of the "
        "log-odds); `signs` of shape and place and `reliance` on a channel where it is called false; or the lesion's "
        "`volume_mm3` where that is outside `known_mm3`, so that it was not judged"
    },
}
"""What triage says of a lesion: beside the table of its scan, and in the cohort's table."""


def columns(channels: Sequence[str]) -> list[str]:
    """All column names in order."""
    return [*BASE, *(f"{measure}_{channel}" for channel in channels for measure in PER_CHANNEL)]


def described(channels: Sequence[str], *, units: str) -> dict[str, Any]:
    """The sidecar: every column with its meaning and unit (`units` is the map's)."""
    entries: dict[str, Any] = {name: dict(entry) for name, entry in BASE.items()}
    for channel in channels:
        for measure, entry in PER_CHANNEL.items():
            filled = {"Units": units, **entry}
            filled["Description"] = f"{entry['Description']} ({channel})"
            entries[f"{measure}_{channel}"] = filled
    return entries
