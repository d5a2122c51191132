"""A trained nnU-Net v2: its results folder, read without importing nnunetv2.

The network is rebuilt from plans.json; windows, mirrored views and folds are fused as means of logits inside one
differentiable module, which is what nnU-Net's own predictor does without gradients.
"""

import inspect
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import InputError, MissingExtraError, ModelFileError, with_words_of
from lesionwise.geometry.volume import Case
from lesionwise.models.architecture import load_weights
from lesionwise.models.channels import input_names, lesion_classes
from lesionwise.models.checkpoint import read_saved
from lesionwise.models.nnunet_grid import PreprocessingPlan
from lesionwise.network import without_in_place
from lesionwise.segmenter import AbstractModuleSegmenter, AbstractSegmenter, MeanOfViews, Placement, Spec
from lesionwise.types import Shape

OPTIONS = {
    "folds": "0,1 or all: the folds to average (every fold that is there)",
    "checkpoint": "final, best or latest, or a file's name (final)",
    "mirroring": "on or off: average mirrored views as nnU-Net does, eight runs a window (on)",
    "channels": "FLAIR,T1w: names of the inputs, in order (those of dataset.json)",
    "lesion": "the label that is the lesion, by name or number; 1,2 takes several as one",
}
"""What may follow the folder as ?name=value&name=value."""

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
_ARCHITECTURES = "dynamic_network_architectures.architectures."


def claims(path: Path) -> bool:
    """True for a results folder, one of its fold folders, or a checkpoint in one."""
    root = _root(path)
    return root is not None and _looks_like_plans(root / "plans.json")


def load(path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
    """Reads an nnU-Net v2 results folder (plans.json, dataset.json, fold_*/checkpoint_*.pth).

    Options: see `OPTIONS`. `trust` is not needed. What was read in the place of something missing is said in the card's
    `note`. Raises ModelFileError with one sentence on what is missing, InputError for options it cannot follow.
    """
    chosen = dict(options or {})
    root = _root(path)
    if root is None:
        raise ModelFileError(f"Expected plans.json of an nnU-Net v2 results folder in {path}, found none.")
    mirroring = chosen.get("mirroring", "on")
    if mirroring not in ("on", "off"):
        raise InputError(f"Expected mirroring=on or mirroring=off for {path}, found mirroring={mirroring}.")
    plans, dataset = _read_json(root / "plans.json"), _read_json(root / "dataset.json")
    own_fold = None if path == root else (path if path.is_dir() else path.parent).name.removeprefix("fold_")
    if own_fold is not None and chosen.setdefault("folds", own_fold) != own_fold:
        raise InputError(f"Expected ?folds= with the results folder {root}, found it with its fold {own_fold}: {path}.")
    if path.is_file():
        chosen.setdefault("checkpoint", path.name)
    files, note = _checkpoints(root, folds=chosen.get("folds"), checkpoint=chosen.get("checkpoint"))
    checkpoints = [read_checkpoint(file) for file in files]
    first, where = checkpoints[0], str(root / "plans.json")
    names_of = {str(each["init_args"].get("configuration")) for each in checkpoints}
    if len(names_of) > 1:
        raise ModelFileError(f"Expected folds of one configuration in {root}, found {', '.join(sorted(names_of))}.")

    configuration = _configuration(plans, str(first["init_args"]["configuration"]), where=where)
    if configuration.get("previous_stage"):
        raise ModelFileError(f"Expected a network of one stage, found the cascade's second stage in {where}.")
    names, regions = _labels(dataset)
    channels = _channels(dataset, chosen.get("channels"), where=str(root))
    lesion = lesion_classes(names, wanted=chosen.get("lesion"), where=str(root / "dataset.json"))
    networks = [
        load_weights(
            build_network(configuration, channels=len(channels), classes=len(names), where=where),
            checkpoint["network_weights"],
            where=str(file),
        )
        for checkpoint, file in zip(checkpoints, files, strict=True)
    ]
    axes = first.get("inference_allowed_mirroring_axes")
    mirrored = tuple(int(a) for a in axes) if axes and mirroring == "on" else ()
    patch = [int(n) for n in configuration["patch_size"]]
    module = FusedViews(networks, mirrored, flat=len(patch) == 2)
    spec = Spec(
        name=str(plans.get("dataset_name", root.name)),
        channels=channels,
        window=_window(patch),
        overlap=0.5,
        placement="nnunet",
        activation="sigmoid" if regions else "softmax",
        classes=len(names),
        lesion_class=lesion,
        orientation=None,
        spacing_mm=None,
        normalisation="none",
        cam_layer=None if len(patch) == 2 else _cam_layer(networks[0]),
        card={
            "kind": "nnU-Net v2",
            "trainer": str(first.get("trainer_name", "unknown")),
            "configuration": str(first["init_args"]["configuration"]),
            "folds": ", ".join(file.parent.name.removeprefix("fold_") for file in files),
            "checkpoint": ", ".join(sorted({file.name for file in files})),
            "mirroring_axes": list(mirrored),
            "class_names": list(names),
            **({} if note is None else {"note": note}),
        },
    )
    return NnUNet(module.eval(), spec, PreprocessingPlan.of(plans, configuration, where=where))


@dataclass(frozen=True, eq=False)
class NnUNet(AbstractModuleSegmenter):
    """A trained nnU-Net with its own preprocessing."""

    recipe: PreprocessingPlan

    @property
    def preprocessing(self) -> tuple[str, ...]:
        """The steps before the network, in words."""
        return self.recipe.sentences()

    def place(self, case: Case) -> Placement:
        """nnU-Net's preprocessing, with the maps there and back."""
        return self.recipe.place(case, self.spec.channels)


class FusedViews(MeanOfViews):
    """Mean of logits over folds and mirrored views of one window.

    `mirrored` are spatial axes, as nnU-Net counts them. `flat` is for 2-D networks: windows are slices one voxel thick.
    """

    def __init__(self, networks: list[nn.Module], mirrored: tuple[int, ...] = (), *, flat: bool = False) -> None:
        super().__init__()
        if not networks:
            raise InputError("An nnU-Net needs at least one fold, found none.")
        self.folds = nn.ModuleList(networks)
        self.flat = flat
        axes = [axis + 2 for axis in mirrored]
        # the plain view runs last: a hook that keeps a layer's last output then sees it unmirrored
        self.views = [c for n in range(len(axes), -1, -1) for c in itertools.combinations(axes, n)]

    @property
    def count(self) -> int:
        """How many views there are: mirrors of every fold."""
        return len(self.folds) * len(self.views)

    @property
    def wording(self) -> str:
        """How many mirrors and folds."""
        mirrors, folds = len(self.views), len(self.folds)
        return f"{mirrors} mirror{'s' * (mirrors > 1)} x {folds} fold{'s' * (folds > 1)}"

    def one(self, x: Float[Tensor, "batch channels i j k"], view: int) -> Float[Tensor, "batch classes i j k"]:
        """Logits of one mirrored view by one fold, mirrored back."""
        window, mirror = x.squeeze(2) if self.flat else x, self.views[view % len(self.views)]
        logits = self.folds[view // len(self.views)](torch.flip(window, mirror) if mirror else window)
        logits = torch.flip(logits, mirror) if mirror else logits
        return logits.unsqueeze(2) if self.flat else logits


def build_network(configuration: Mapping[str, Any], *, channels: int, classes: int, where: str) -> nn.Module:
    """The network that the plans describe, without deep supervision outputs.

    Only classes of dynamic_network_architectures, built from parts of torch.nn, are allowed. Raises ModelFileError for
    others and MissingExtraError if the package is missing.
    """
    class_name, arguments, imports = _architecture(configuration)
    if not class_name.startswith(_ARCHITECTURES):
        raise ModelFileError(f"Expected a network class of {_ARCHITECTURES[:-1]}, found {class_name} in {where}.")
    try:
        module = import_module(class_name.rpartition(".")[0])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing != _ARCHITECTURES.partition(".")[0]:
            raise ModelFileError(
                f"The network {class_name} of {where} needs the package {missing}, which is not installed: pip install "
                f"{missing}."
            ) from error
        if error.name != missing:
            raise ModelFileError(f"Expected a known network class, found {class_name} in {where}.") from error
        raise MissingExtraError.of(missing, extra="nnunet", purpose="Loading an nnU-Net") from error
    network_class = getattr(module, class_name.rpartition(".")[2], None)
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise ModelFileError(f"Expected a known network class, found {class_name} in {where}.")
    built = dict(arguments)
    for name in imports:
        if built.get(name) is not None:
            built[name] = _torch_class(str(built[name]), where=where)
    if "deep_supervision" in inspect.signature(network_class).parameters:
        built["deep_supervision"] = False
    try:
        network = network_class(input_channels=channels, num_classes=classes, **built)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ModelFileError(f"{class_name} cannot be built as {where} describes it{with_words_of(error)}") from error
    return without_in_place(network)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint without running anything in it: tensors, plain values, NumPy scalars.

    Raises ModelFileError if it is damaged or holds other objects.
    """
    names = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32")
    kinds = [getattr(np.dtypes, f"{name}DType") for name in (*names, "Float64")]
    scalar = import_module("numpy._core.multiarray").scalar
    reconstruct: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar")]  # the second: written by NumPy 1
    content = read_saved(path, what="an nnU-Net v2 checkpoint", allowed=[*reconstruct, np.dtype, *kinds])
    missing = [
        key for key in ("network_weights", "init_args") if not isinstance(content, Mapping) or key not in content
    ]
    if missing:
        raise ModelFileError(f"Expected an nnU-Net v2 checkpoint in {path}, {missing[0]} is missing.")
    return dict(content)


def _architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """Class name, arguments, and the arguments that name classes; plans of before 2.4 are rewritten as nnU-Net does."""
    if "architecture" in configuration:
        found = configuration["architecture"]
        return found["network_class_name"], dict(found["arch_kwargs"]), list(found["_kw_requires_import"])
    stages = len(configuration["n_conv_per_stage_encoder"])
    plain = configuration["UNet_class_name"] == "PlainConvUNet"
    dimension = len(configuration["patch_size"])
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_conv_per_stage" if plain else "n_blocks_per_stage": configuration["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    class_name = f"{_ARCHITECTURES}unet.{'PlainConvUNet' if plain else 'ResidualEncoderUNet'}"
    return class_name, arguments, ["conv_op", "norm_op", "dropout_op", "nonlin"]


def _torch_class(name: str, *, where: str) -> type[nn.Module]:
    """A class of torch.nn by its dotted name."""
    found = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ModelFileError(f"Expected a class of torch.nn, found {name} in {where}.")
    return found


def _configuration(plans: Mapping[str, Any], name: str, *, where: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration of the plans with what it inherits."""
    known = plans.get("configurations", {})
    if name not in known or name in seen:
        raise ModelFileError(f"Expected the configuration {name}, found {', '.join(known) or 'none'} in {where}.")
    own = dict(known[name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**_configuration(plans, parent, where=where, seen=(*seen, name)), **own}


def _labels(dataset: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Names of the logit channels, and whether they are overlapping regions (sigmoid) instead of labels (softmax)."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
    if regions:
        return [name for name, value in labels.items() if value not in (0, [0])], True
    flat = {name: value[0] if isinstance(value, list) else value for name, value in labels.items()}
    return sorted(flat, key=lambda name: int(flat[name])), False


def _channels(dataset: Mapping[str, Any], given: str | None, *, where: str) -> tuple[str, ...]:
    """Names of the inputs: the user's, else those of dataset.json in BIDS spelling."""
    found = dataset.get("channel_names", dataset.get("modality", {}))
    return input_names([str(found[key]) for key in sorted(found, key=int)], given=given, where=where)


def _checkpoints(root: Path, *, folds: str | None, checkpoint: str | None) -> tuple[list[Path], str | None]:
    """One checkpoint file per fold, and a sentence if they are not the final ones of all folds there are.

    What is asked for by name must be there; of folds or checkpoints left open, each fold gives the best it has.
    """
    wanted: tuple[str, ...] = _CHECKPOINTS
    if checkpoint is not None:
        wanted = (checkpoint if checkpoint.endswith(".pth") else f"checkpoint_{checkpoint}.pth",)
    places = _folds_asked_for(root, folds) if folds is not None else _folds_there(root)
    found = {place: next((place / name for name in wanted if (place / name).is_file()), None) for place in places}
    files = [file for file in found.values() if file is not None]
    lacking = [place.name for place, file in found.items() if file is None]
    if not files or (lacking and (folds is not None or checkpoint is not None)):
        inside = ", ".join(sorted(str(p.relative_to(root)) for p in root.glob("fold_*/*.pth"))) or "no checkpoint"
        raise ModelFileError(
            f"Expected {wanted[0]} in {', '.join(lacking) or 'fold_0, fold_1, ... or fold_all'} of {root}, found {inside}."
        )
    sentences = []
    if checkpoint is None:
        by_name = {name: [f.parent.name for f in files if f.name == name] for name in _CHECKPOINTS[1:]}
        sentences = [
            f"{', '.join(those)} of {root.name} {'has' if len(those) == 1 else 'have'} no {_CHECKPOINTS[0]} (training may not "
            f"have ended), so that {name} was read"
            for name, those in by_name.items()
            if those
        ]
    if lacking:
        sentences.append(f"{', '.join(lacking)} of {root.name} without a checkpoint left out")
    return files, f"{'; '.join(sentences)}." if sentences else None


def _folds_asked_for(root: Path, folds: str) -> list[Path]:
    """Folders of the folds in `folds`. Raises InputError for what is no fold's number, and for one that comes twice."""
    numbers = [part.strip() for part in folds.split(",")]
    odd = next((part for part in numbers if not part.isdecimal() and (part != "all" or len(numbers) > 1)), None)
    if odd is not None:
        raise InputError(f"Expected folds=0,1 or folds=all for {root}, found {odd!r} in folds={folds}.")
    plain = [part if part == "all" else str(int(part)) for part in numbers]
    if len(set(plain)) != len(plain):
        raise InputError(f"Expected every fold once for {root}, found folds={folds}, which would count one twice.")
    return [root / f"fold_{part}" for part in plain]


def _folds_there(root: Path) -> list[Path]:
    """The numbered folds, in order; fold_all if there are none with a checkpoint."""
    numbered = [p for p in root.glob("fold_*") if p.is_dir() and p.name.removeprefix("fold_").isdecimal()]
    numbered.sort(key=lambda p: int(p.name.removeprefix("fold_")))
    return numbered if any((p / name).is_file() for p in numbered for name in _CHECKPOINTS) else [root / "fold_all"]


def _root(path: Path) -> Path | None:
    """The results folder that a path belongs to."""
    candidates = [path] if path.is_dir() else []
    if path.is_dir() and path.name.startswith("fold_"):
        candidates.append(path.parent)
    if path.is_file() and path.suffix == ".pth" and path.parent.name.startswith("fold_"):
        candidates.append(path.parent.parent)
    return next((c for c in candidates if (c / "plans.json").is_file()), None)


def _looks_like_plans(path: Path) -> bool:
    try:
        return "configurations" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"Expected nnU-Net's {path.name} in {path.parent}, found no such file.") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"Expected JSON in {path}, but it cannot be parsed.") from error


def _window(patch: list[int]) -> Shape:
    a, b, c = patch if len(patch) == 3 else [1, *patch]
    return a, b, c


def _cam_layer(network: nn.Module) -> str | None:
    """The decoder's half-resolution stage of the first fold: the published choice."""
    stages = [
        name for name, _ in network.named_modules() if name.startswith("decoder.stages.") and name.count(".") == 2
    ]
    return f"folds.0.{stages[-2] if len(stages) > 1 else stages[-1]}" if stages else None
