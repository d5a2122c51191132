"""The same scan and map in other people's viewers: a NiiVue document, and recipes for 3D Slicer, FSLeyes and ITK-SNAP.

Maps are crops whose affine places them on the scan, so every viewer that respects affines shows them on the lesion.
"""

import base64
import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesionwise.errors import InputError
from lesionwise.io.derivative import ScanOutput
from lesionwise.io.files import write_text
from lesionwise.io.nifti import read_array, write_image
from lesionwise.report.limits import colour_limit, table_tops
from lesionwise.types import Affine

FAINT = 0.05
"""Share of the limit below which viewers are told to hide the map, as the page does."""


@dataclass(frozen=True)
class Layers:
    """Files of one lesion, and the colour limit that all of the scan's lesions share."""

    images: Mapping[str, Path]
    labels: Path
    saliency: Path
    channels: tuple[str, ...]
    limit: float
    place_mm: tuple[float, float, float]

    @property
    def image(self) -> Path:
        """The first channel's image."""
        return next(iter(self.images.values()))


def layers(scan: ScanOutput, label: int, *, limit: float, desc: str | None = None) -> Layers:
    """Raises InputError if the lesion is not in the table, has no map, or its input image is gone."""
    maps = {method: path for (number, method), path in scan.files.saliency_files().items() if number == label}
    rows = scan.lesions[scan.lesions["lesion"] == label]
    if rows.empty or not maps:
        raise InputError(f"Expected an explained lesion of {scan.name.stem}, but {label} has no map.")
    images = {channel: path for channel in scan.channels if (path := scan.sources.get(channel)) and path.is_file()}
    if not images:
        raise InputError(f"Expected the input images of {scan.name.stem}, but they are not where they were.")
    path = maps[desc] if desc in maps else maps[min(maps, key=lambda method: ("smoothgrad" not in method, method))]
    row = rows.iloc[0]
    place = (float(row["x_mm"]), float(row["y_mm"]), float(row["z_mm"]))
    return Layers(images, scan.files.labels, path, scan.channels, limit, place)


def fsleyes_command(shown: Layers) -> str:
    """FSLeyes: image, signed map in two colour scales with zero hidden, lesions as outlines; opens at the lesion."""
    low, high = f"{FAINT * shown.limit:.4g}", f"{shown.limit:.4g}"
    words = ["fsleyes", "--worldLoc", *(f"{value:.2f}" for value in shown.place_mm)]
    for path in shown.images.values():
        words += [str(path)]
    words += [str(shown.saliency), "--name", "saliency", "--cmap", "red-yellow", "--negativeCmap", "blue-lightblue"]
    words += ["--useNegativeCmap", "--displayRange", low, high, "--interpolation", "none", "--alpha", "80"]
    words += [str(shown.labels), "--overlayType", "label", "--outline", "--lut", "random"]
    return shlex.join(words)


def itksnap_command(shown: Layers) -> str:
    """ITK-SNAP: first image as main image, the others and the map as overlays, lesions as segmentation.

    ITK-SNAP has no diverging scale with a clear zero: choose "Blue to red" and limits of minus and plus the limit.
    """
    others = [str(path) for path in list(shown.images.values())[1:]]
    return shlex.join(["itksnap", "-g", str(shown.image), "-o", *others, str(shown.saliency), "-s", str(shown.labels)])


def slicer_script(shown: Layers) -> str:
    """Python for `Slicer --python-script`: loads image, map and lesions, colours the map, jumps to the lesion.

    No scene file is needed: Slicer's MRML holds absolute paths that break when a folder moves, this text is read anew.
    """
    facts = {
        "images": {channel: str(path) for channel, path in shown.images.items()},
        "saliency": str(shown.saliency),
        "labels": str(shown.labels),
        "limit": shown.limit,
        "hidden": FAINT * shown.limit,
        "place": list(shown.place_mm),
    }
    return f"""import json
import slicer

facts = json.loads({json.dumps(json.dumps(facts))})
images = [slicer.util.loadVolume(path, properties={{"name": name}}) for name, path in facts["images"].items()]
saliency = slicer.util.loadVolume(facts["saliency"], properties={{"name": "saliency", "singleFile": True}})
labels = slicer.util.loadSegmentation(facts["labels"])
if saliency.IsA("vtkMRMLVectorVolumeNode"):
    # Several channels load as one vector volume: take the first.
    first = slicer.util.arrayFromVolume(saliency)[..., 0]
    scalar = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "saliency, first channel")
    scalar.CopyOrientation(saliency)
    slicer.util.updateVolumeFromArray(scalar, first)
    saliency = scalar
saliency.CreateDefaultDisplayNodes()
display = saliency.GetDisplayNode()
display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
display.AutoWindowLevelOff()
display.SetWindowLevelMinMax(-facts["limit"], facts["limit"])
slicer.util.setSliceViewerLayers(background=images[0], foreground=saliency, foregroundOpacity=0.5)
slicer.modules.markups.logic().JumpSlicesToLocation(*facts["place"], True)
"""


def nifti_bytes(data: np.ndarray, affine: Affine) -> bytes:
    """A compressed NIfTI file as bytes, for viewers that take no path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        write_image(path, data, affine)
        return path.read_bytes()


def niivue_document(shown: Layers, *, title: str) -> dict[str, Any]:
    """A NiiVue document (.nvd) that holds its volumes: opens in any NiiVue page by drag and drop, without the folder.

    Documents of NiiVue 0.68 lose a colour scale for negative values (it comes back as a list of letters), so the map
    stands in it twice: as it is for what speaks for the lesion, and with its sign reversed for what speaks against it.
    """
    saliency, affine = read_array(shown.saliency)
    first = np.asarray(saliency if saliency.ndim == 3 else saliency[..., 0], dtype=np.float32)
    channel = shown.channels[0]
    options: list[dict[str, Any]] = [
        {"name": f"{name}.nii.gz", "colormap": "gray", "opacity": 1.0} for name in shown.images
    ]
    blobs = [path.read_bytes() for path in shown.images.values()]
    for sign, colours, word in ((1.0, "warm", "for"), (-1.0, "winter", "against, sign reversed")):
        options.append(
            {
                "name": f"{channel} map, {word}.nii.gz",
                "colormap": colours,
                "cal_min": FAINT * shown.limit,
                "cal_max": shown.limit,
                "opacity": 0.8,
            }
        )
        blobs.append(nifti_bytes(sign * first, affine))
    return {
        "title": title,
        "imageOptionsArray": options,
        "encodedImageBlobs": [base64.b64encode(blob).decode("ascii") for blob in blobs],
        "meshOptionsArray": [],
        "labels": [],
        "connectomes": [],
        "previewImageDataURL": "",
        "encodedDrawingBlob": "",
        "opts": {"isColorbar": True, "show3Dcrosshair": True, "isRadiologicalConvention": True},
    }


def write_viewers(scan: ScanOutput, label: int, folder: Path) -> dict[str, Path]:
    """Writes a NiiVue document, a Slicer script and two command lines for one lesion into `folder`, by viewer.

    Colours are those of the page. Raises InputError if the lesion has no map or the input images are gone.
    """
    shown = layers(scan, label, limit=colour_limit(table_tops(scan.lesions, scan.channels)))
    stem = f"{scan.name.stem}_lesion-{label:03d}"
    found = {
        "niivue": (f"{stem}.nvd", json.dumps(niivue_document(shown, title=stem))),
        "slicer": (f"{stem}_slicer.py", slicer_script(shown)),
        "fsleyes": (f"{stem}_fsleyes.sh", fsleyes_command(shown) + "\n"),
        "itksnap": (f"{stem}_itksnap.sh", itksnap_command(shown) + "\n"),
    }
    for name, text in found.values():
        write_text(Path(folder) / name, text)
    return {viewer: Path(folder) / name for viewer, (name, _) in found.items()}
