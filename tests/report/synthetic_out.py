"""An output folder made of formulas: a smooth head, a dozen ellipsoid lesions, signed maps. No network, no real scan."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt, gaussian_filter

from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import ScanFiles, write_dataset_description, write_json, write_saliency, write_table
from lesionwise.io.nifti import write_image
from lesionwise.saliency import SaliencyMap

CHANNELS = ("FLAIR", "T1w")
UNITS = "log-odds per SD of the channel"
COLUMNS = ("lesion", "outcome", "volume_mm3", "x_mm", "y_mm", "z_mm", "probability_mean", "peak_FLAIR", "peak_T1w")
OUTCOMES = ("TP", "TP", "FP", "FN", "TP", "TN", "TP", "FP", "TP", "FN", "TP", "TP")


def make_out(
    out: Path,
    *,
    subject: str = "01",
    size: int = 64,
    lesions: int = 12,
    affine: np.ndarray | None = None,
    reference: bool = True,
    seed: int = 0,
    note: str = "",
    source_folder: Path | None = None,
) -> ScanName:
    """Writes one finished scan whose lesion n lies at a known place; the last lesion has no map."""
    rng = np.random.default_rng(seed)
    name = ScanName(subject)
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
    grid = np.indices((size,) * 3) - (size - 1) / 2
    radius = np.sqrt(sum((axis / (size * scale)) ** 2 for axis, scale in zip(grid, (0.36, 0.44, 0.38), strict=True)))
    head = radius < 1
    texture = gaussian_filter(rng.standard_normal(head.shape), 1.5)
    folds = np.sin(grid[0] / 3.1) * np.cos(grid[1] / 2.7) * np.sin(grid[2] / 3.3)
    flair = np.where(head, 500 + 260 * (radius > 0.8) + 60 * folds + 120 * texture, 0).astype(np.float32)
    t1w = np.where(head, 900 - 300 * (radius > 0.8) - 70 * folds + 120 * texture, 0).astype(np.float32)
    labels = np.zeros(head.shape, dtype=np.int32)
    for number, place in enumerate(np.linspace(0, 2 * np.pi, lesions, endpoint=False)):
        centre = np.array(
            [
                0.2 * size * np.cos(place),
                0.26 * size * np.sin(place),
                (number % 4 - 1.5) * size * 0.09,
            ]
        )
        axes = 1.5 + 0.45 * (number % 5) + np.array([0.4, 0.9, 0.0])
        inside = sum(((axis - c) / a) ** 2 for axis, c, a in zip(grid, centre, axes, strict=True)) < 1
        labels[inside & head & (labels == 0)] = number + 1
    flair[labels > 0] += 350
    t1w[labels > 0] -= 220

    files = ScanFiles(out, name)
    files.folder.mkdir(parents=True, exist_ok=True)
    raw = source_folder or out / "sources"
    images = {"FLAIR": flair, "T1w": t1w}
    outcomes = {n + 1: (OUTCOMES[n % len(OUTCOMES)] if reference else None) for n in range(lesions)}
    marked = np.isin(labels, [n for n, outcome in outcomes.items() if outcome in ("TP", "FN")])
    found = np.isin(labels, [n for n, outcome in outcomes.items() if outcome in ("TP", "FP", None)])
    if reference:
        images["reference"] = marked.astype(np.float32)
    for what, data in images.items():
        write_image(raw / f"sub-{subject}_{what}.nii.gz", data, affine)
    probability = np.clip(gaussian_filter(np.where(found, 1.4, 0).astype(np.float32), 0.8), 0, 1)
    write_dataset_description(out, version="0")
    write_image(files.probability, probability, affine)
    write_image(files.mask, found, affine, dtype=bool)
    write_image(files.labels, labels, affine, dtype=np.int16)
    rows = []
    for label in range(1, lesions + 1):
        voxels = np.argwhere(labels == label)
        row = {
            "lesion": label,
            "outcome": outcomes[label],
            "volume_mm3": len(voxels) * abs(np.linalg.det(affine[:3, :3])),
            **dict(zip(("x_mm", "y_mm", "z_mm"), affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3], strict=True)),
            "probability_mean": float(probability[labels == label].mean()),
        }
        if label < lesions:
            row |= _map(files, labels, label, affine, rng, weak=outcomes[label] in ("FN", "TN"))
        rows.append(row)
    write_table(files.lesions, pd.DataFrame(rows, columns=None if rows else COLUMNS))
    write_json(
        files.facts,
        {
            "Channels": list(CHANNELS),
            "Threshold": 0.5,
            "SourceFiles": {what: str(raw / f"sub-{subject}_{what}.nii.gz") for what in images},
            "Notes": [note] if note else [],
            "Model": {"Name": "formula", "Fingerprint": "0123456789abcdef", "Card": {"Training": "None: a formula."}},
        },
    )
    write_json(files.lesions_sidecar, {})
    return name


def _map(files, labels, label, affine, rng, *, weak):
    box = Box.around(np.argwhere(labels == label), margin=14, shape=labels.shape)
    omega = labels[box.slices] == label
    distance = np.where(omega, 0, distance_transform_edt(~omega))
    bump = np.exp(-((distance / 2.0) ** 2)) - 0.45 * np.exp(-(((distance - 4) / 2.0) ** 2))
    strength = (0.004 if weak else 0.02) * (1 + 0.5 * (label % 3))
    noise = gaussian_filter(rng.standard_normal((2, *omega.shape)), (0, 0.7, 0.7, 0.7)) * 0.0008
    strength *= 40 / omega.sum()  # by mean a map shrinks as its lesion grows
    data = (np.stack([strength * bump, -0.3 * strength * bump]) + noise).astype(np.float32)
    se = np.full_like(data, 0.0006)
    saliency = SaliencyMap(
        data,
        box,
        affine,
        CHANNELS,
        UNITS,
        se,
        {"Method": "smoothgradmean", "Quantitative": True, "Samples": 8, "Target": "log_odds"},
    )
    path = files.saliency(label, "smoothgradmean")
    write_saliency(path, saliency, snr_path=files.saliency(label, "smoothgradmean", stat="snr"))
    row = {"target_mean": 1.0, "n_samples": 8}
    mass = np.abs(data).sum(axis=(1, 2, 3))
    distance = distance_to_mm(omega, voxel_sizes_mm(affine), reach_mm=8.0)  # as the tables and the page measure it
    for c, channel in enumerate(CHANNELS):
        near, mid = (distance > 0) & (distance <= 3), (distance > 3) & (distance <= 7)
        free = (distance > 0) & (distance <= 3) & (labels[box.slices] == 0)
        row |= {
            f"effect_in_{channel}": data[c][omega].sum(dtype=float),
            f"effect_in_se_{channel}": 0.02,
            f"effect_rim_{channel}": data[c][free].sum(dtype=float),
            f"effect_rim_se_{channel}": 0.03,
            f"peak_{channel}": data[c].max(),
            f"peak_se_{channel}": 0.0006,
            f"trough_{channel}": data[c].min(),
            f"mean_in_{channel}": data[c][omega].mean(),
            f"mean_shell_0_3mm_{channel}": data[c][near].mean(),
            f"mean_shell_3_7mm_{channel}": data[c][mid].mean(),
            f"share_{channel}": mass[c] / mass.sum(),
        }
    return row
