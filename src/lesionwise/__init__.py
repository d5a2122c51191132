"""Explain single lesions of any 3-D segmentation network: signed, quantitative, exact through sliding windows.

Importing this package is cheap: names are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "explain": "api",
    "Result": "api",
    "load_model": "models.zoo",
    "read_case": "io.cases",
    "ReferenceRule": "io.masks",
    "read_scan": "io.derivative",
    "Box": "geometry.box",
    "Case": "geometry.volume",
    "ScanName": "geometry.volume",
    "Volume": "geometry.volume",
    "SaliencyMap": "saliency",
    "Segmenter": "segmenter",
    "AbstractSegmenter": "segmenter",
    "Spec": "segmenter",
    "FixedNormalisation": "segmenter",
    "SmoothGrad": "attribution",
    "Gradient": "attribution",
    "InputTimesGradient": "attribution",
    "IntegratedGradients": "attribution",
    "ExpectedGradients": "attribution",
    "GradCAMPlusPlus": "attribution",
    "HiResCAM": "attribution",
    "SegGradCAM": "attribution",
    "Occlusion": "attribution",
    "Shapley": "attribution",
    "METHODS": "attribution",
    "TARGETS": "attribution",
    "AbstractMethod": "attribution",
    "AbstractInputMethod": "attribution",
    "AbstractTarget": "attribution",
    "InstanceTarget": "attribution",
    "synthesise": "phantom",
    "run_experiment": "experiments.run",
    "InputError": "errors",
    "LesionwiseError": "errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lesionwise' has no attribute {name!r}")
    return getattr(import_module(f"lesionwise.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
