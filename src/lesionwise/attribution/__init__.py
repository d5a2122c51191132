"""Per-instance attribution: targets, methods, and the engine that runs them exactly through sliding windows."""

from lesionwise.attribution.engine.method import AbstractMethod, MethodFactory
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.engine.plan import Plan
from lesionwise.attribution.engine.session import Session, attribute, plan_attribution, stream
from lesionwise.attribution.instance_target import AbstractInputMethod, InstanceTarget
from lesionwise.attribution.methods.cam import GradCAMPlusPlus, HiResCAM, SegGradCAM
from lesionwise.attribution.methods.gradient import Gradient, InputTimesGradient, SmoothGrad
from lesionwise.attribution.methods.occlusion import Occlusion, Shapley
from lesionwise.attribution.methods.path import ExpectedGradients, IntegratedGradients
from lesionwise.attribution.preset import PRESETS, Preset, preset
from lesionwise.attribution.result import Attribution
from lesionwise.attribution.target import TARGETS, AbstractTarget, target_named

METHODS: dict[str, MethodFactory] = {
    "smoothgrad": SmoothGrad,
    "gradient": Gradient,
    "inputxgradient": InputTimesGradient,
    "ig": IntegratedGradients,
    "eg": ExpectedGradients,
    "gradcampp": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "seggradcam": SegGradCAM,
    "occlusion": Occlusion,
    "shapley": Shapley,
}
"""Methods by the name that the command line knows."""

__all__ = [
    "METHODS",
    "PRESETS",
    "TARGETS",
    "AbstractInputMethod",
    "AbstractMethod",
    "AbstractTarget",
    "Attribution",
    "ExpectedGradients",
    "GradCAMPlusPlus",
    "Gradient",
    "HiResCAM",
    "InputTimesGradient",
    "InstanceTarget",
    "IntegratedGradients",
    "Occlusion",
    "Plan",
    "Preset",
    "RunOptions",
    "SegGradCAM",
    "Session",
    "Shapley",
    "SmoothGrad",
    "attribute",
    "plan_attribution",
    "preset",
    "stream",
    "target_named",
]
