"""The same scan and map in other people's viewers: a NiiVue document, and recipes for 3D Slicer, FSLeyes and ITK-SNAP.

Maps are crops whose affine places them on the scan, so every viewer that respects affines shows them on the lesion.
"""

import base64
import json
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lesionwise.errors import InputError
from lesionwise.geometry.affine import to_mm, voxel_volume_mm3
from lesionwise.io.derivative import ScanOutput
from lesionwise.io.files import write_text
from lesionwise.io.nifti import read_array, write_image
from lesionwise.report.limits import ColourScale
from lesionwise.report.pushes import is_derivative
from lesionwise.types import Affine

FAINT = 0.05
"""Share of the limit below which viewers are told to hide the map, as the page does."""


@dataclass(frozen=True)
class Layers:
    """Files of one lesion, and the colour limit that all of the scan's lesions share.

    `saliency` holds all channels along its fourth axis; `maps` holds one three-dimensional file per channel where they
    were written, for viewers that take a fourth axis for time.
    """

    images: Mapping[str, Path]
    labels: Path
    saliency: Path
    channels: tuple[str, ...]
    limit: float
    place_mm: tuple[float, float, float]
    maps: Mapping[str, Path] = field(default_factory=dict)

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
    x, y, z = to_mm(np.argwhere(scan.labels == label).mean(axis=0, keepdims=True), scan.affine)[0]
    place = (float(x), float(y), float(z))
    images = {channel: image.resolve() for channel, image in images.items()}
    return Layers(images, scan.files.labels.resolve(), path.resolve(), scan.channels, limit, place)


def fsleyes_command(shown: Layers) -> str:
    """FSLeyes: first image on top of the others, signed map of each channel in two colour scales with zero hidden (the
    first is shown), lesions as outlines; opens at the lesion.

    FSLeyes draws later overlays over earlier ones, so all but the first image and map start hidden.
    """
    low, high = f"{FAINT * shown.limit:.4g}", f"{shown.limit:.4g}"
    words = ["fsleyes", "--worldLoc", *(f"{value:.2f}" for value in shown.place_mm)]
    for channel, path in reversed(list(shown.images.items())):
        words += [str(path), "--name", channel, "--displayRange", "0", "99.8%", *_hidden(path != shown.image)]
    for number, channel in reversed(list(enumerate(shown.channels))):
        words += [str(shown.saliency), "--name", f"map {channel}", "--volume", str(number), *_hidden(number > 0)]
        words += ["--cmap", "red-yellow", "--negativeCmap", "blue-lightblue", "--useNegativeCmap"]
        words += ["--displayRange", low, high, "--interpolation", "none", "--alpha", "80"]
    words += [str(shown.labels), "--name", "lesions", "--overlayType", "label", "--outline", "--lut", "random"]
    return shlex.join(words)


def _hidden(hidden: bool) -> list[str]:
    return ["--disabled"] if hidden else []


def itksnap_command(shown: Layers) -> str:
    """ITK-SNAP: first image as main image, the others and the map of each channel as overlays, lesions as segmentation.

    ITK-SNAP has no diverging scale with a clear zero: choose "Blue to red" and limits of minus and plus the limit.
    """
    overlays = [*list(shown.images.values())[1:], *(shown.maps.values() or [shown.saliency])]
    words = ["itksnap", "-g", str(shown.image), "-o", *(str(path) for path in overlays), "-s", str(shown.labels)]
    return shlex.join(words)


def slicer_script(shown: Layers) -> str:
    """Python for `Slicer --python-script`: loads image, map and lesions, colours the map, jumps to the lesion.

    No scene file is needed: Slicer's MRML holds absolute paths that break when a folder moves, this text is read anew.
    """
    facts = {
        "images": {channel: str(path) for channel, path in shown.images.items()},
        "maps": {channel: str(path) for channel, path in shown.maps.items()},
        "labels": str(shown.labels),
        "limit": shown.limit,
        "place": list(shown.place_mm),
    }
    return f"""import json
import slicer

facts = json.loads({json.dumps(json.dumps(facts))})
images = [slicer.util.loadVolume(path, properties={{"name": name}}) for name, path in facts["images"].items()]
maps = [slicer.util.loadVolume(path, properties={{"name": "map " + name}}) for name, path in facts["maps"].items()]
labels = slicer.util.loadSegmentation(facts["labels"])
for node in maps:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(-facts["limit"], facts["limit"])
slicer.util.setSliceViewerLayers(background=images[0], foreground=maps[0], foregroundOpacity=0.5)
slicer.modules.markups.logic().JumpSlicesToLocation(*facts["place"], True)
"""


def with_maps(shown: Layers, folder: Path, stem: str) -> Layers:
    """The same layers with each channel's map written as a file of its own, `<stem>_<channel>_map.nii.gz` in `folder`."""
    saliency, affine = read_array(shown.saliency)
    values = np.asarray(saliency, dtype=np.float32).reshape(*saliency.shape[:3], -1)
    maps = {}
    for number, channel in enumerate(shown.channels):
        maps[channel] = Path(folder).resolve() / f"{stem}_{re.sub(r'[^A-Za-z0-9]+', '', channel)}_map.nii.gz"
        write_image(maps[channel], values[..., number], affine)
    return replace(shown, maps=maps)


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


def _limit(scan: ScanOutput, label: int) -> float:
    """The page's limit for this lesion's map by the method behind the table."""
    saliency = next(iter(scan.maps.get(label, {}).values()), None)
    if saliency is None:
        return 1.0
    scale = ColourScale.of_table(
        scan.lesions,
        saliency.channels,
        voxel_mm3=voxel_volume_mm3(scan.affine),
        derivative=is_derivative(saliency.provenance),
    )
    return 1.0 if scale is None else scale.at(int((scan.labels == label).sum()))


def write_viewers(scan: ScanOutput, label: int, folder: Path) -> dict[str, Path]:
    """Writes a NiiVue document, a Slicer script and two command lines for one lesion into `folder`, by viewer, and each
    channel's map as a file of its own.

    Colours are those of the page. Raises InputError if the lesion has no map or the input images are gone.
    """
    shown = layers(scan, label, limit=_limit(scan, label))
    stem = f"{scan.name.stem}_lesion-{label:03d}"
    Path(folder).mkdir(parents=True, exist_ok=True)
    shown = with_maps(shown, Path(folder), stem)
    found = {
        "niivue": (f"{stem}.nvd", json.dumps(niivue_document(shown, title=stem))),
        "slicer": (f"{stem}_slicer.py", slicer_script(shown)),
        "fsleyes": (f"{stem}_fsleyes.sh", fsleyes_command(shown) + "\n"),
        "itksnap": (f"{stem}_itksnap.sh", itksnap_command(shown) + "\n"),
    }
    for name, text in found.values():
        write_text(Path(folder) / name, text)
    return {viewer: Path(folder) / name for viewer, (name, _) in found.items()}
