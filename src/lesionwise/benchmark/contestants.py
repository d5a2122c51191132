"""Who is judged: every method of the registry, Captum's, MONAI's, the published formulas, and anybody's own."""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution import PRESETS, AbstractInputMethod, AbstractMethod, AbstractTarget, InstanceTarget
from lesionwise.attribution.result import Attribution
from lesionwise.benchmark.networks import CAM_LAYER
from lesionwise.benchmark.truth import Kind
from lesionwise.errors import InputError, MissingExtraError
from lesionwise.experiments.faithfulness import NAMES, default_methods

Map = Float[Tensor, "1 channels i j k"]
CHUNK = 512
"""Voxels that a published script sums before it takes the maximum (METHOD section 7)."""


@dataclass(frozen=True)
class Contestant:
    """A method to be judged; `kind` None is told by the map (`kind_of`). `label` is for figures."""

    name: str
    family: str
    method: AbstractMethod
    kind: Kind | None = None
    target: str = "log_odds"
    label: str = ""


def kind_of(one: Contestant, found: Attribution) -> Kind:
    """What a map's values are: as the contestant says, else location if the method does not measure, contribution if the
    map names what it answers for taking away, derivative otherwise."""
    if one.kind is not None:
        return one.kind
    if not one.method.quantitative:
        return "location"
    return "derivative" if found.removal is None else "contribution"


@dataclass(frozen=True)
class Foreign(AbstractInputMethod):
    """Another package's method as a function of the instance's target and the network's input."""

    attribute_fn: Callable[[InstanceTarget, Tensor, int], Tensor]
    samples: int
    name: str = "foreign"

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return target.unit

    def attribute(self, function: InstanceTarget, x: Map) -> Map:
        """What the other package returns."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Captum announces every hook that it sets
            return self.attribute_fn(function, x, self.samples).detach()


def contestants(methods: Sequence[str] = (), *, samples: int = 8) -> list[Contestant]:
    """Everybody, or those of `methods`: names, families ("registry", "captum", "monai", "published") and `module:Name`s.

    Raises InputError for a name that does not exist, MissingExtraError for Captum's without Captum.
    """
    own = [own_contestant(name) for name in methods if ":" in name]
    names = [name for name in methods if ":" not in name]
    if own and not names:
        return own
    wants_captum = not names or any(name.startswith("captum") for name in names)
    has_captum = importlib.util.find_spec("captum") is not None
    if names and wants_captum and not has_captum:
        raise MissingExtraError.of("captum", extra="captum", purpose="Judging Captum's methods")
    known = [*_registry(samples), *_published(samples), *_monai(samples)]
    known += _captum(samples) if wants_captum and has_captum else []
    if not names:
        return known
    unknown = [name for name in names if name not in {k for one in known for k in (one.name, one.family)}]
    if unknown:
        raise InputError(
            f"Expected --method to be module:Name or among {', '.join(one.name for one in known)}, found {unknown[0]!r}."
        )
    return [one for one in known if one.name in names or one.family in names] + own


def own_contestant(reference: str) -> Contestant:
    """The method `module:Name`: a class of `AbstractMethod` that needs no arguments, an instance, or what makes one.

    The module is looked for in the working folder too, and imported, which runs it. An attribute `answers_for` of the
    method says what its values are: "derivative", "contribution" or "location". Raises InputError if there is none.
    """
    module_name, _, name = reference.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"Expected a module {module_name} to import for --method {reference}: {error}.") from error
    if not name or not hasattr(module, name):
        raise InputError(f"Expected {name or 'a name'} in the module {module_name}, found none.")
    made = getattr(module, name)
    try:
        method: Any = made if isinstance(made, AbstractMethod) else made()
    except TypeError as error:
        raise InputError(f"Expected {reference} to be made without arguments: {error}.") from error
    if not isinstance(method, AbstractMethod):
        raise InputError(f"Expected {reference} to be a method (lw.AbstractMethod), found {type(method).__name__}.")
    kind = getattr(method, "answers_for", None)
    if kind is not None and kind not in get_args(Kind):
        raise InputError(f"Expected answers_for of {reference} among {', '.join(get_args(Kind))}, found {kind!r}.")
    return Contestant(method.name, "own", method, kind, label=method.name)


def _registry(samples: int) -> list[Contestant]:
    methods = default_methods(n_samples=samples)
    return [Contestant(name, "registry", method, label=NAMES.get(name, name)) for name, method in methods.items()]


def _published(samples: int) -> list[Contestant]:
    """The published protocol (its formula as written, and the sum over chunks of one script), with `samples` draws."""
    preset = PRESETS["spagnolo2026"]
    full = replace(preset.smoothgrad, n_samples=samples)
    chunked = replace(full, chunk=CHUNK)
    return [
        Contestant("published-max", "published", full, None, preset.target, "published SmoothGrad, max"),
        Contestant("published-chunked", "published", chunked, None, preset.target, "published SmoothGrad, chunks"),
        Contestant("published-gradcampp", "published", preset.gradcampp, None, preset.target, "published Grad-CAM++"),
    ]


def _monai(samples: int) -> list[Contestant]:
    each = {
        "monai-gradcam": ("location", monai_gradcam, "MONAI GradCAM"),
        "monai-smoothgrad": ("derivative", monai_smoothgrad, "MONAI SmoothGrad"),
    }
    return [
        Contestant(name, "monai", Foreign(fn, samples, name.replace("-", "")), kind, label=label)  # type: ignore[arg-type]
        for name, (kind, fn, label) in each.items()
    ]


class _Scores(torch.nn.Module):
    """The instance's target as the one class of a classifier, which MONAI's explainers expect."""

    def __init__(self, function: InstanceTarget) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Scores (batch, 1)."""
        return self.function(x)[:, None]


def monai_gradcam(function: InstanceTarget, x: Tensor, _samples: int) -> Tensor:
    """MONAI's GradCAM of the instance's target, unscaled; the same in every channel."""
    from monai.visualize import GradCAM

    explain = GradCAM(_Scores(function), f"function.network.{CAM_LAYER}", postprocessing=lambda found: found)
    return explain(x.detach().requires_grad_(True), class_idx=0).expand_as(x)


def monai_smoothgrad(function: InstanceTarget, x: Tensor, samples: int) -> Tensor:
    """MONAI's SmoothGrad of the instance's target, signed."""
    from monai.visualize import SmoothGrad

    return SmoothGrad(_Scores(function), n_samples=samples, magnitude=False, verbose=False)(x.detach(), index=0)


def _captum(samples: int) -> list[Contestant]:
    from captum import attr

    def layer(function: InstanceTarget) -> torch.nn.Module:
        return function.network.get_submodule(CAM_LAYER)

    def tunnel(f: InstanceTarget, x: Tensor, n: int) -> Tensor:
        sd = (0.05 * float(x.max() - x.min()),)
        return attr.NoiseTunnel(attr.Saliency(f)).attribute(
            x, nt_type="smoothgrad", nt_samples=n, nt_samples_batch_size=1, stdevs=sd, abs=False
        )

    def gradcam(f: InstanceTarget, x: Tensor, _n: int) -> Tensor:
        found = attr.LayerGradCam(f, layer(f)).attribute(x, relu_attributions=True)
        return attr.LayerAttribution.interpolate(found, tuple(x.shape[2:]), "trilinear").expand_as(x)

    each: dict[str, tuple[Kind, Callable[[InstanceTarget, Tensor, int], Tensor], str]] = {
        "Saliency": ("derivative", lambda f, x, n: attr.Saliency(f).attribute(x, abs=False), "Saliency"),
        "NoiseTunnel": ("derivative", tunnel, "NoiseTunnel"),
        "GuidedBackprop": ("derivative", lambda f, x, n: attr.GuidedBackprop(f).attribute(x), "GuidedBackprop"),
        "Deconvolution": ("derivative", lambda f, x, n: attr.Deconvolution(f).attribute(x), "Deconvolution"),
        "InputXGradient": ("contribution", lambda f, x, n: attr.InputXGradient(f).attribute(x), "InputXGradient"),
        "IntegratedGradients": (
            "contribution",
            lambda f, x, n: attr.IntegratedGradients(f).attribute(x, n_steps=n, internal_batch_size=1),
            "IntegratedGradients (zero baseline)",
        ),
        "GradientShap": (
            "contribution",
            lambda f, x, n: attr.GradientShap(f).attribute(x, torch.zeros_like(x), n_samples=n, stdevs=0.09),
            "GradientShap (zero baseline)",
        ),
        "DeepLift": ("contribution", lambda f, x, n: attr.DeepLift(f).attribute(x), "DeepLift (zero baseline)"),
        "LayerGradCam": ("location", gradcam, "LayerGradCam"),
    }
    return [
        Contestant(f"captum-{key}", "captum", Foreign(fn, samples, f"captum{key}"), kind, label=f"Captum {label}")
        for key, (kind, fn, label) in ((name.lower(), one) for name, one in each.items())
    ]  # fmt: skip
