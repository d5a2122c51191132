"""Experiments by the name that the command line knows."""

from lesionwise.errors import InputError
from lesionwise.experiments import (
    architecture,
    context,
    controls,
    distance,
    faithfulness,
    fills,
    margins,
    modality,
    peaks,
    sanity,
    synthetic,
)
from lesionwise.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        controls,
        modality,
        distance,
        peaks,
        context,
        architecture,
        synthetic,
        sanity,
        faithfulness,
        margins,
        fills,
    )
}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name. Raises InputError for any other, naming those that exist."""
    if name not in EXPERIMENTS:
        raise InputError(f"The experiment must be one of {', '.join(EXPERIMENTS)}, found {name!r}.")
    return EXPERIMENTS[name]
