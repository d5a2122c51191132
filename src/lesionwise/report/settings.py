"""How maps were made, in words: from the sidecar of a map."""

from collections.abc import Mapping
from typing import Any

from lesionwise.report.narrative import number

METHODS: Mapping[str, str] = {
    "smoothgradmean": "SmoothGrad, mean over the lesion's voxels",
    "smoothgradmax": "SmoothGrad, largest over the lesion's voxels",
    "gradient": "Gradient",
    "inputxgradient": "Input x gradient",
    "ig": "Integrated gradients",
    "eg": "Expected gradients",
    "gradcampp": "Grad-CAM++",
    "gradcam": "Grad-CAM",
    "hirescam": "HiResCAM",
    "seggradcam": "Seg-Grad-CAM",
    "occlusion": "Occlusion",
    "shapley": "Shapley values",
}

TARGETS: Mapping[str, str] = {
    "log_odds": "log-odds of the lesion class",
    "logit": "logit of the lesion class",
    "probability": "probability of the lesion class",
}


def method_words(desc: str) -> str:
    """A method's name for a reader; unknown ones as they are.

    >>> method_words("gradcampp")
    'Grad-CAM++'
    """
    return METHODS.get(desc, desc)


def settings_in_words(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked for, as (what, how)."""
    details = provenance.get("Details", {})
    details = details if isinstance(details, Mapping) else {}
    samples, noise = provenance.get("Samples"), details.get("noise")
    found = [
        ("Method", method_words(str(provenance.get("Method", "n/a")))),
        ("Explained output", TARGETS.get(str(provenance.get("Target")), str(provenance.get("Target", "n/a")))),
    ]
    if isinstance(samples, int) and samples > 1:
        pairs = ", in antithetic pairs" if details.get("antithetic") else ""
        found.append(("Noisy copies", f"{samples}{pairs}"))
    if isinstance(noise, (int, float)):
        found.append(("Noise", f"{number(100 * noise)} % of each channel's spread in the head"))
    if (shortcut := str(provenance.get("Approximation", "none"))) != "none":
        found.append(("Approximations", shortcut))
    if provenance.get("Quantitative") is False:
        found.append(("Values", "locate only: they have no unit and do not compare"))
    elif provenance.get("Units"):
        found.append(("Values in", str(provenance["Units"])))
    if provenance.get("Seed") is not None:
        found.append(("Seed", str(provenance["Seed"])))
    return found
