"""What the columns of the why table mean, for its sidecar."""

from collections.abc import Sequence

from lesionwise.why.anatomy import PARTS
from lesionwise.why.changes import LARGEST_MM, STRONGEST
from lesionwise.why.lesions import JOINT
from lesionwise.why.question import NEAR_MM
from lesionwise.why.stability import stability_columns

Described = dict[str, dict[str, str]]

_SAYS = {
    "lesion": "the lesion",
    "rim": "0-3 mm around it",
    "white": f"white matter and the like up to {NEAR_MM:g} mm",
    "grey": f"grey matter up to {NEAR_MM:g} mm",
    "fluid": f"fluid up to {NEAR_MM:g} mm",
    "others": "other lesions",
    "far": "the rest of the head",
}


def described(channels: Sequence[str], *, unit: str) -> Described:
    """Every column that the table may have, with its unit; `unit` is that of the target."""
    found: Described = {
        "lesion": {"Description": "Instance number, as in the dseg image"},
        "outcome": {"Description": "TP, FP, FN or US; n/a without a reference"},
        "why_found": {
            "Description": "True if the unchanged scan, asked again, has a predicted lesion here: a component above the "
            "threshold, of the smallest size or more, that shares a voxel with the lesion"
        },
        "why_target": {"Description": "Mean of the target over the lesion in the unchanged scan", "Units": unit},
    }
    for name in dict.fromkeys((JOINT, *channels)):
        on = "all channels" if name == JOINT else name
        found |= _margin(
            f"margin_{name}",
            f"Contrast of the lesion on {on} at which the decision flips, in times its own (1: as it is): a found lesion is "
            f"lost below, a missed one (tried up to {STRONGEST:g}) is found above; n/a where it does not flip",
            "1",
        )
    found |= _margin(
        "margin_size",
        "How much the lesion must shrink (found) or grow (missed, tried up to "
        f"{LARGEST_MM:g} mm) on every side for the decision to flip; n/a where it does not flip",
        "mm",
    )
    for channel in channels:
        found[f"contrast_sd_{channel}"] = {
            "Description": f"Mean difference on {channel} between the lesion and the healthy tissue painted in its place",
            "Units": "SD of the channel in the head",
        }
    for name, what in (("rim", "0-3 mm around the lesion"), ("neighbours", "all other lesions in sight")):
        found[f"without_{name}_found"] = {"Description": f"The decision with healthy white matter in place of {what}"}
        found[f"without_{name}_change"] = {"Description": f"Change of the target with {what} replaced", "Units": unit}
    for part in PARTS:
        for channel in channels:
            key = f"shapley_{part}_{channel}"
            found[key] = {
                "Description": f"Shapley value of {_SAYS[part]} on {channel}: what it adds to the target over all orders in "
                "which the parts are shown; n/a where there is no such voxel",
                "Units": unit,
            }
            found[f"{key}_se"] = {"Description": f"Standard error of {key}; n/a where exact", "Units": unit}
            found[f"{key}_fills"] = {"Description": f"Largest difference of {key} between fills", "Units": unit}
    found |= stability_columns(channels, unit=unit)
    found |= {
        "shapley_total": {
            "Description": "Sum of all Shapley values: target of the scan minus that of a scan made healthy all over",
            "Units": unit,
        },
        "shapley_exact": {"Description": "True if all coalitions were asked, False if orders were sampled"},
        "shapley_leading": {"Description": "Part and channel with the largest Shapley value"},
        "why_flips": {"Description": "Dials on which the decision flips", "Units": "1"},
        "why_verified": {
            "Description": "How many of these flips hold when the changed scan is asked by ordinary passes of whole windows",
            "Units": "1",
        },
        "why_passes": {"Description": "Changed scans asked about", "Units": "1"},
        "why_seconds": {"Description": "Time that took", "Units": "s"},
    }
    return found


def _margin(name: str, words: str, unit: str) -> Described:
    return {
        name: {"Description": f"{words}; the middle of a bracket whose two ends were asked", "Units": unit},
        f"{name}_pm": {"Description": f"Half the width of the bracket of {name}", "Units": unit},
        f"{name}_end": {"Description": f"Last value tried for {name}", "Units": unit},
    }
