"""LST-AI 2: an ensemble of three U-Nets on skull-stripped FLAIR and T1 in MNI space (1 mm).

The architecture is that of `lst_ai.model.NNUNet3D` with the same weight names, returning logits instead of
probabilities, so that LST-AI itself (and what it brings along) need not be installed. The weights are the user's:
UNet3D_MS_final_mdlA.pt, ...B.pt, ...C.pt, as `lst_ai.utils.download_data()` fetches them.
"""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.volume import Case
from lesionwise.models.architecture import load_weights
from lesionwise.models.checkpoint import read_saved
from lesionwise.models.members import Members
from lesionwise.models.resampling import axis_map, cropping, placed_back
from lesionwise.segmenter import AbstractModuleSegmenter, AbstractSegmenter, Placement, Spec, select_channels
from lesionwise.types import Shape

OPTIONS = {"member": "A, B, C or ensemble (ensemble)", "weights": "the folder of the .pt files"}
SUMMARY = "LST-AI 2 (lst-ai?member=A for one member); weights are yours, inputs in MNI space, skull-stripped"
MEMBERS = ("A", "B", "C")
WINDOW: Shape = (192, 192, 192)
PERCENTILES = (0.5, 99.5)
CONFIG = ("in_channels", "n_conv_blocks", "n_filters", "n_classes", "ds_layers", "bottleneck_filters")


def load_named(options: Mapping[str, str]) -> AbstractSegmenter:
    """The ensemble, or with `member` one of A, B, C; `weights` is a folder with the .pt files.

    Raises ModelFileError that says where weights were looked for.
    """
    wanted = options.get("member", "ensemble")
    if wanted not in (*MEMBERS, "ensemble"):
        raise InputError(f"Expected the LST-AI member A, B, C or ensemble, found {wanted}.")
    folder = find_weights(options.get("weights"))
    names = MEMBERS if wanted == "ensemble" else (wanted,)
    return LstAi.of([read_member(folder / f"UNet3D_MS_final_mdl{name}.pt") for name in names], name=f"lst-ai-{wanted}")


def find_weights(given: str | None = None) -> Path:
    """The folder with the weights: given, of LST_AI_DATA_DIR, of the installed package, of the user's cache."""
    if given is not None:
        places = [Path(given)]
    else:
        data = [Path(os.environ["LST_AI_DATA_DIR"]).expanduser()] if os.environ.get("LST_AI_DATA_DIR") else []
        package = find_spec("lst_ai")
        data += [Path(place) for place in (package.submodule_search_locations or [])] if package is not None else []
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        places = [place / "model" for place in [*data, Path(cache) / "lst_ai"]]
    for place in places:
        if any(place.glob("UNet3D_MS_final_mdl*.pt")):
            return place
    looked = ", ".join(str(place) for place in places)
    raise ModelFileError(
        f"Expected LST-AI's weights (UNet3D_MS_final_mdlA.pt, ...) in {looked}, found none: fetch them with "
        "lst_ai.utils.download_data(), or name their folder with lst-ai?weights=FOLDER."
    )


def read_member(path: Path) -> nn.Module:
    """One member from its checkpoint {config, state_dict}; nothing in the file can run."""
    content = read_saved(path, what="an LST-AI checkpoint")
    if not (isinstance(content, Mapping) and {"config", "state_dict"} <= content.keys()):
        raise ModelFileError(f"Expected config and state_dict in {path}, found neither or one of them.")
    config = dict(content["config"])
    unknown = sorted(config.keys() - set(CONFIG))
    if unknown:
        raise ModelFileError(f"Expected a network described by {', '.join(CONFIG)} in {path}, found {unknown[0]}.")
    return load_weights(Member(**config), content["state_dict"], where=str(path))


@dataclass(frozen=True, eq=False)
class LstAi(AbstractModuleSegmenter):
    """Members of LST-AI with its preprocessing: centre crop to 192, clip to percentiles, scale to 0..1."""

    window: Shape = WINDOW

    @classmethod
    def of(cls, members: list[nn.Module], *, name: str = "lst-ai", window: Shape = WINDOW) -> "LstAi":
        """Puts members together; an ensemble averages probabilities, so each member keeps its own logits."""
        spec = Spec(
            name=name,
            channels=("FLAIR", "T1w"),
            window=window,
            overlap=0.0,
            blending="constant",
            activation="sigmoid",
            classes=1,
            lesion_class=0,
            members=len(members),
            threshold=0.5,
            orientation=None,
            spacing_mm=None,
            normalisation="none",
            card={"kind": "LST-AI 2", "citation": "Wiltgen et al., NeuroImage: Clinical 2024"},
        )
        return cls(Members(members).eval(), spec, window)

    @property
    def preprocessing(self) -> tuple[str, ...]:
        """The steps before the network, in words."""
        return (
            "expects MNI space, 1 mm, skull-stripped (background 0), as LST-AI writes it with --temp",
            f"cropped (or padded) about the centre to {self.window[0]} x {self.window[1]} x {self.window[2]}",
            "clipped to percentiles 0.5 to 99.5 of the non-zero voxels, scaled to 0 to 1",
        )

    def place(self, case: Case) -> Placement:
        """LST-AI's own steps.

        Raises InputError for a scan that is not on a 1 mm grid, or empty.
        """
        sizes = voxel_sizes_mm(case.image.affine)
        if max(abs(size - 1.0) for size in sizes) > 0.05:
            shown = " x ".join(f"{size:g}" for size in sizes)
            raise InputError(f"LST-AI expects scans in MNI space with 1 mm voxels, found {shown} mm.")
        start, stop = [], []
        for n, w in zip(case.image.shape, self.window, strict=True):
            left = (n - w) // 2 + (n - w) % 2
            start.append(left)
            stop.append(left + w)
        crops = cropping(case.image.shape, (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        to_network = axis_map(crops)
        raw = to_network.forward(torch.from_numpy(select_channels(case, self.spec.channels))).numpy()
        image, passes = zip(*(_scaled(channel) for channel in raw), strict=True)
        head = to_network.forward(torch.from_numpy(case.head.astype(np.float32))) > 0.5
        x = torch.from_numpy(np.stack(image))
        back = placed_back([crop.T for crop in crops], (0, 1, 2))
        return Placement(
            x[None],
            head,
            torch.stack([channel[head].double().std(correction=0) for channel in x]).float(),
            to_network,
            back,
            scan=back.forward(x),
            scan_head=torch.from_numpy(case.head),
            sizes_mm=sizes,
            scan_sizes_mm=sizes,
            passes=torch.from_numpy(np.stack(passes)),
        )


class Member(nn.Module):
    """LST-AI's U-Net up to the logits of its full-resolution head; weights are named as in `NNUNet3D`.

    TensorFlow's constants are part of it: LeakyReLU slope 0.3, instance norm with epsilon 1e-3 and per-channel gain.
    """

    def __init__(
        self,
        *,
        in_channels: int = 2,
        n_conv_blocks: int = 5,
        n_filters: int = 32,
        n_classes: int = 1,
        ds_layers: Any = (),
        bottleneck_filters: int | None = None,
    ) -> None:
        super().__init__()
        widths = [n_filters * level for level in range(1, n_conv_blocks + 1)]
        bottom = bottleneck_filters or n_filters * n_conv_blocks
        steps = list(itertools.pairwise(widths))
        self.stem = _convolutions(in_channels, widths[0])
        self.enc_down = nn.ModuleList([_step(nn.Conv3d, a, b) for a, b in steps])
        self.enc_conv = nn.ModuleList([_convolutions(b, b) for _, b in steps])
        self.bottleneck_down = _step(nn.Conv3d, widths[-1], bottom)
        self.bottleneck_conv = _convolutions(bottom, bottom)
        upward = widths[::-1]
        self.dec_up = nn.ModuleList(
            [_step(nn.ConvTranspose3d, a, b) for a, b in zip([bottom, *upward], upward, strict=False)]
        )
        self.dec_conv = nn.ModuleList([_convolutions(2 * width, width) for width in upward])
        self.out_seg = nn.Conv3d(widths[0], n_classes, kernel_size=1)
        self.ds_heads = nn.ModuleList([nn.Conv3d(upward[layer], n_classes, kernel_size=1) for layer in ds_layers])

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch classes i j k"]:
        """Logits, before the sigmoid that LST-AI applies."""
        skips = [self.stem(x)]
        for down, conv in zip(self.enc_down, self.enc_conv, strict=True):
            skips.append(conv(down(skips[-1])))
        h = self.bottleneck_conv(self.bottleneck_down(skips[-1]))
        for up, conv, skip in zip(self.dec_up, self.dec_conv, reversed(skips), strict=True):
            h = conv(torch.cat([skip, up(h)], dim=1))
        return self.out_seg(h)


class _Block(nn.Module):
    """Layers in sequence under the name `block`, as LST-AI's weights call them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(channels, channels, eps=1e-3), nn.LeakyReLU(0.3)


def _convolutions(before: int, after: int) -> nn.Module:
    first = nn.Conv3d(before, after, kernel_size=3, padding=1, bias=False)
    second = nn.Conv3d(after, after, kernel_size=3, padding=1, bias=False)
    return _Block(first, *_after(after), second, *_after(after))


def _step(kind: type[nn.Conv3d] | type[nn.ConvTranspose3d], before: int, after: int) -> nn.Module:
    return _Block(kind(before, after, kernel_size=4, stride=2, padding=1, bias=False), *_after(after))


def _scaled(channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip to percentiles of the non-zero voxels, then 0 to 1; and where the value still follows the scan."""
    brain = channel != 0
    if not brain.any():
        raise InputError("Expected a scan with intensities, found zero everywhere in the centre.")
    low, high = np.percentile(channel[brain].astype(np.float64), PERCENTILES)
    values = np.clip(channel.astype(np.float64), low, high)
    values -= values[brain].min()
    values /= values[brain].max() or 1.0
    return (values * brain).astype(np.float32), brain & (channel >= low) & (channel <= high)
