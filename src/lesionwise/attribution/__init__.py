"""Per-instance attribution: targets, methods, and the engine that runs them exactly through sliding windows."""

from lesionwise.attribution.engine import attribute, stream
from lesionwise.attribution.gradient import Gradient, InputTimesGradient, SmoothGrad
from lesionwise.attribution.method import AbstractMethod, MethodFactory
from lesionwise.attribution.plan import Plan, plan_attribution
from lesionwise.attribution.result import Attribution
from lesionwise.attribution.target import TARGETS, AbstractTarget, target_named

METHODS: dict[str, MethodFactory] = {
    "smoothgrad": SmoothGrad,
    "gradient": Gradient,
    "inputxgradient": InputTimesGradient,
}
"""Methods by the name that the command line knows."""

__all__ = [
    "METHODS",
    "TARGETS",
    "AbstractMethod",
    "AbstractTarget",
    "Attribution",
    "Gradient",
    "InputTimesGradient",
    "Plan",
    "SmoothGrad",
    "attribute",
    "plan_attribution",
    "stream",
    "target_named",
]
