"""The Python interface: explain a case, look at the result, save it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from lesionwise import __version__
from lesionwise.attribution import (
    METHODS,
    TARGETS,
    AbstractMethod,
    AbstractTarget,
    InstanceTarget,
    SmoothGrad,
    target_named,
)
from lesionwise.config import write_config
from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case
from lesionwise.io.cases import read_case
from lesionwise.io.derivative import ScanFiles, write_saliency
from lesionwise.models.zoo import load_model
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import AbstractSegmenter, Placement
from lesionwise.types import MapArray, ProgressFn
from lesionwise.units import Explained, Settings, explain_case, save_prediction, save_table

__all__ = ["Result", "explain", "load_model", "read_case"]


@dataclass(frozen=True, eq=False)
class Result:
    """What was found and what drove it, for one scan.

    `lesions` has one row per instance (columns: docs/outputs.md), `maps` a signed map per explained lesion number.
    """

    explained: Explained
    model: AbstractSegmenter | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.counts.items()) or "no lesions"
        return f"Result({self.case.name.stem}: {counts}; {len(self.maps)} explained by {self.explained.settings.method.name})"

    @property
    def case(self) -> Case:
        """The scan."""
        return self.explained.case

    @property
    def lesions(self) -> pd.DataFrame:
        """One row per instance."""
        return self.explained.lesions

    @property
    def maps(self) -> Mapping[int, SaliencyMap]:
        """Signed maps by lesion number."""
        return self.explained.maps

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Instances per outcome; "predicted" where there is no reference."""
        outcomes = self.lesions["outcome"].fillna("predicted")
        return {str(k): int(v) for k, v in outcomes.value_counts().items()}

    def target(self, lesion: int, *, reduce: Literal["mean", "none"] = "mean") -> InstanceTarget:
        """One lesion's target as a module, for any attribution of Captum or one's own: `result.target(4)` is the forward
        function, `result.input` its input (1, channels, i, j, k), `result.on_scan(gradient)` takes a derivative back.

        Raises InputError for a number that no lesion has, or a result that was read back without its network.
        """
        labels = sorted(one.label for one in self.explained.instances)
        if lesion not in labels:
            raise InputError(f"Expected one of the lesions {', '.join(map(str, labels)) or '(none)'}, found {lesion}.")
        model, voxels = self._asked, next(one.voxels for one in self.explained.instances if one.label == lesion)
        settings = self.explained.settings
        return InstanceTarget(model.network, model.spec, self.placement, voxels, target=settings.target, reduce=reduce)

    @cached_property
    def placement(self) -> Placement:
        """The scan on the network's grid, with the maps there and back."""
        return self._asked.place(self.case)

    @property
    def input(self) -> Float[Tensor, "1 channels i j k"]:
        """What the network's windows are cut from."""
        return self.placement.input

    def on_scan(self, gradient: Float[Tensor, "1 channels i j k"]) -> MapArray:
        """A derivative with respect to `input`, per SD of the scan's own voxels (channels, i, j, k)."""
        return self.placement.pull_back(gradient[0].detach()).numpy()

    @property
    def _asked(self) -> AbstractSegmenter:
        if self.model is None:
            raise InputError("Expected a result of lesionwise.explain, found one without its network.")
        return self.model.for_case(self.case)

    def save(self, out: Path | str) -> Path:
        """Writes the scan into an output folder (a BIDS derivative, see docs/outputs.md) and returns the folder."""
        out = Path(out)
        files = ScanFiles(out, self.case.name)
        save_prediction(self.explained, files, version=__version__)
        settings = self.explained.settings
        for label, saliency in self.maps.items():
            snr_path = files.saliency(label, settings.method.name, stat="snr") if settings.snr else None
            write_saliency(files.saliency(label, settings.method.name), saliency, snr_path=snr_path)
        save_table(self.explained, files)
        write_config(out, settings, self.explained.model, version=__version__)
        return out

    def report(self, path: Path | str) -> Path:
        """Writes the one-file report to `path`; the scan is saved beside it first, so that the two belong together."""
        from lesionwise.report.page import write_scan_report

        path = Path(path)
        self.save(path.parent)
        return write_scan_report(path.parent, self.case.name, path)

    def view(self, lesion: int) -> Any:
        """An interactive view of one lesion in Jupyter (needs the extra `notebook`)."""
        from lesionwise.report.notebook import view

        return view(self, lesion)

    def _repr_html_(self) -> str:
        from lesionwise.report.notebook import result_html

        return result_html(self)


def explain(
    model: AbstractSegmenter,
    case: Case,
    *,
    method: AbstractMethod | str | None = None,
    samples: int | None = None,
    target: AbstractTarget | str = "log_odds",
    lesions: str | int | Sequence[int] = "all",
    controls: int = 0,
    threshold: float | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | str | None = None,
    progress_fn: ProgressFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
    **options: Any,
) -> Result:
    """Explains the lesions of one scan.

    `method` is SmoothGrad with 50 samples, reduced by mean, unless given: a method such as `lw.SmoothGrad(reduce="max")`,
    or a name of `lw.METHODS`; `samples` changes its number of draws or steps. `target` is what is explained: "log_odds",
    "logit" or "probability" of the lesion class, over the lesion's voxels, or an `AbstractTarget` of one's own. `lesions`
    is "all", "largest:5", "drawn:9" (as evenly over outcomes as possible), a number, or several: 3, [1, 4], "1,4".
    `controls` asks for that many control regions (TN) in healthy white matter. Further `options` are those of
    `lesionwise.units.Settings` (connectivity, min_size, rule, snr, ...). With `out` every finished step is saved there
    and an interrupted run resumes.

    Raises InputError, before anything is computed, if an argument or the input is not what is expected.
    """
    if not isinstance(model, AbstractSegmenter):
        raise InputError(f"Expected a model of lw.load_model or lw.Segmenter(network, spec), found {_kind(model)}.")
    if not isinstance(case, Case):
        raise InputError(f"Expected a case of lw.read_case, found {_kind(case)}.")
    known = {f.name for f in fields(Settings)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InputError(f"Expected options among {', '.join(sorted(known))}, found {unknown[0]}.")
    settings = Settings(
        method=method_of(method, samples=samples),
        target=target_of(target),
        lesions=selection_of(lesions),
        controls=controls,
        threshold=threshold,
        seed=seed,
        device=resolve_device(device),
        **options,
    )
    folder = None if out is None else Path(out)
    explained = explain_case(
        model, case, settings, out=folder, progress_fn=progress_fn, announce_fn=announce_fn, version=__version__
    )
    if folder is not None:
        write_config(folder, settings, explained.model, version=__version__)
    return Result(explained, model)


def method_of(method: object = None, *, samples: int | None = None) -> AbstractMethod:
    """A method as given, by its name, or SmoothGrad; with `samples` in the place of its draws or steps.

    Raises InputError that says what was expected, for a class in particular.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise InputError(f"Expected a method among {', '.join(METHODS)}, found {method!r}.")
        method = METHODS[method]()
    found = SmoothGrad() if method is None else method
    if isinstance(found, type) and issubclass(found, AbstractMethod):
        raise InputError(f"Expected a method such as {found.__name__}(), found the class itself: call it.")
    if not isinstance(found, AbstractMethod):
        raise InputError(f"Expected a method such as lw.SmoothGrad() or a name of lw.METHODS, found {_kind(found)}.")
    if samples is None:
        return found
    names: set[str] = {f.name for f in fields(found)} if is_dataclass(found) else set()
    draws = next((name for name in ("n_samples", "n_steps") if name in names), None)
    if draws is None:
        raise InputError(f"The method {found.name} takes no samples.")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"Expected samples as a whole number of at least 1, found {samples!r}.")
    return cast(AbstractMethod, replace(cast(Any, found), **{draws: samples}))


def target_of(target: object) -> AbstractTarget | str:
    """A target as given, or the name of one. Raises InputError that says what was expected."""
    if isinstance(target, type) and issubclass(target, AbstractTarget):
        raise InputError(f"Expected a target such as {target.__name__}(), found the class itself: call it.")
    if not isinstance(target, AbstractTarget | str):
        raise InputError(f"Expected a target among {', '.join(TARGETS)} or an AbstractTarget, found {_kind(target)}.")
    if isinstance(target, AbstractTarget):
        for name in ("name", "unit"):
            if not isinstance(getattr(target, name, None), str):
                raise InputError(
                    f"Expected {type(target).__name__} with a {name}, which files and reports need, found none."
                )
        return target
    return target_named(target).name


def selection_of(lesions: object) -> str:
    """Lesions as text: a number, a sequence of numbers, or what the command line takes. Raises InputError for all else."""
    if isinstance(lesions, str):
        return lesions
    several = [lesions] if isinstance(lesions, Integral) else lesions
    if not isinstance(several, Iterable):
        several = None
    numbers = None if several is None else list(several)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in numbers):
        raise InputError(f"Expected lesions as 'all', 'largest:5', a number or numbers from 1 on, found {lesions!r}.")
    return ",".join(str(int(n)) for n in numbers)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__} {value!r:.60}"


def resolve_device(device: str) -> str:
    """ "auto" becomes "cuda" or "mps" if there is one, else "cpu"."""
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
