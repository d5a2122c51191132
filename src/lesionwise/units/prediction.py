"""From a case to its lesions: probability on the scan's grid, mask, instances."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lesionwise.errors import InputError
from lesionwise.geometry.box import triple
from lesionwise.geometry.volume import Case
from lesionwise.instances.controls import place_controls
from lesionwise.instances.instance import Instance
from lesionwise.instances.matching import match_lesions
from lesionwise.instances.tissue import white_matter
from lesionwise.io.derivative import (
    ScanFiles,
)
from lesionwise.io.nifti import read_image
from lesionwise.network import check_dtype, check_logits, check_repeats
from lesionwise.segmenter import AbstractSegmenter, Placement
from lesionwise.types import ProgressFn
from lesionwise.units.keys import case_key, digest, stored
from lesionwise.units.settings import Settings
from lesionwise.windows import WindowGrid, predict, probability_on_scan


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of a case: the lesion probability on the scan's grid, and how the case was laid on its grid."""

    probability: np.ndarray
    placement: Placement
    key: str


def model_facts(model: AbstractSegmenter, *, used: AbstractSegmenter | None = None) -> dict[str, Any]:
    """Which model spoke: name, fingerprint, what its card says; `used` is what it gave for one case (`for_case`)."""
    spec = (used or model).spec
    chosen = {} if used is None or used is model else {"NetworkFingerprint": used.fingerprint}
    return {
        "Name": spec.name,
        "Fingerprint": model.fingerprint,
        **chosen,
        "Channels": list(spec.channels),
        "Window": list(spec.window),
        "Overlap": spec.overlap,
        "Blending": spec.blending,
        "Activation": spec.activation,
        "Classes": spec.classes,
        "LesionClasses": list(spec.lesion_classes),
        "Members": spec.members,
        "Threshold": spec.threshold,
        "Preprocessing": list((used or model).preprocessing),
        "Card": {key: value for key, value in spec.card.items() if isinstance(value, str | int | float | list)},
    }


def predict_case(
    model: AbstractSegmenter,
    case: Case,
    *,
    device: str = "cpu",
    progress_fn: ProgressFn | None = None,
    known: ScanFiles | None = None,
) -> Prediction:
    """Lesion probability on the scan's grid; 0 where the network's grid does not reach.

    `known` names an output folder from which an earlier, identical prediction is read back. Raises UnsupportedModelError for
    a network of another precision, one that answers differently when asked twice, and one that returns probabilities.
    """
    placement = model.place(case)
    key = digest(case_key(case), model.fingerprint)
    if known is not None and stored(known.facts).get("PredictionKey") == key:
        try:
            probability = read_image(known.probability)[0]
            if probability.shape == tuple(case.image.shape):
                return Prediction(probability, placement, key)
        except InputError:
            pass
        known.facts.unlink(missing_ok=True)  # gone or damaged: it is predicted and written again
    grid = WindowGrid.of(model.spec, triple(placement.input.shape[-3:]))
    step = None if progress_fn is None else lambda done, total: progress_fn("predict", done, total)
    x = placement.input.to(device)
    check_dtype(model.network, x)
    middle = grid.boxes[len(grid.boxes) // 2]
    check_repeats(model.network, grid.pad(x)[(..., *middle.slices)])
    logits = predict(model.network, x, grid, progress_fn=step).cpu()
    check_logits(logits, softmax=model.spec.activation == "softmax", members=model.spec.members)
    on_scan = probability_on_scan(logits, placement, model.spec)
    return Prediction(np.ascontiguousarray(on_scan.numpy(), dtype=np.float32), placement, key)


def find_lesions(
    model: AbstractSegmenter, case: Case, prediction: np.ndarray, settings: Settings
) -> tuple[np.ndarray, list[Instance], tuple[str, ...]]:
    """Mask (p > threshold), instances with outcome, control regions, and sentences about what could not be placed."""
    threshold = model.spec.threshold if settings.threshold is None else settings.threshold
    mask = prediction > threshold
    matched = match_lesions(
        mask,
        affine=case.image.affine,
        reference=case.reference,
        connectivity=settings.connectivity,
        min_size=model.spec.min_size_vox if settings.min_size is None else settings.min_size,
        min_size_unit=settings.min_size_unit if settings.min_size is not None else "voxels",  # type: ignore[arg-type]
        rule=settings.rule,  # type: ignore[arg-type]
        one_to_one=settings.one_to_one,
    )
    instances = matched.instances
    notes: tuple[str, ...] = ()
    if matched.specks_only:
        many = "lesion was" if matched.specks_only == 1 else "lesions were"
        notes = (
            f"{matched.specks_only} reference {many} met by predicted components below the minimum size only: found, so no "
            "false negative, and without a row of their own.",
        )
    if settings.controls and instances:
        healthy = white_matter(case, seed=settings.seed)
        avoid = mask if case.reference is None else mask | case.reference
        placed = place_controls(
            instances,
            white_matter=healthy.mask,
            avoid=avoid,
            rng=np.random.default_rng(settings.seed),
            n=settings.controls,
        )
        instances = [*instances, *placed.instances]
        notes = (*notes, healthy.note, *placed.failures, *placed.notes)
    return mask, instances, notes
