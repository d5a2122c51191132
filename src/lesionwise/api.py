"""The Python interface: explain a case, look at the result, save it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lesionwise import __version__
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.config import write_config
from lesionwise.geometry.volume import Case
from lesionwise.io.cases import read_case
from lesionwise.io.derivative import ScanFiles, write_saliency
from lesionwise.models.zoo import load_model
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Explained, ProgressFn, Settings, explain_case, save_prediction, save_table

__all__ = ["Result", "explain", "load_model", "read_case"]


@dataclass(frozen=True, eq=False)
class Result:
    """What was found and what drove it, for one scan.

    `lesions` has one row per instance (columns: docs/outputs.md), `maps` a signed map per explained lesion number.
    """

    explained: Explained

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
    method: AbstractMethod | None = None,
    target: str = "log_odds",
    lesions: str = "all",
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

    `method` is SmoothGrad with 50 samples, reduced by mean, unless given. `target` is what is explained: "log_odds",
    "logit" or "probability" of the lesion class, over the lesion's voxels. `lesions` is "all", "largest:5",
    "drawn:9" (as evenly over outcomes as possible) or "1,4". `controls` asks for that many control regions (TN) in
    healthy white matter. Further `options` are those of
    `lesionwise.units.Settings` (connectivity, min_size, rule, snr, ...). With `out` every finished step is saved there
    and an interrupted run resumes.

    Raises InputError if the input is not what the model expects.
    """
    settings = Settings(
        method=method or SmoothGrad(),
        target=target,
        lesions=lesions,
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
    return Result(explained)


def resolve_device(device: str) -> str:
    """ "auto" becomes "cuda" or "mps" if there is one, else "cpu"."""
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
