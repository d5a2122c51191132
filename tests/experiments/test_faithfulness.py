import numpy as np
import pandas as pd
import pytest
from known import Linear, cohort, scan_of

from lesionwise.attribution import Gradient, InputTimesGradient, IntegratedGradients
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.experiments.faithfulness import default_methods, faithfulness_finding, faithfulness_rows

FRACTIONS = (0.0, 0.05, 0.2, 0.5, 1.0)


class Elsewhere(Gradient):
    """A wrong method: the gradient, mirrored in space. It points at where the lesion is not."""

    @property
    def name(self):
        return "elsewhere"

    def explain(self, scene, work, sites):
        from dataclasses import replace

        for number, found in super().explain(scene, work, sites):
            shape = scene.placement.to_scan.target_shape
            whole = np.zeros((len(found.data), *shape), dtype=found.data.dtype)
            whole[(slice(None), *found.box.slices)] = found.data
            flipped = np.roll(whole, (9, -8, 5), axis=(1, 2, 3))
            from lesionwise.geometry.box import Box

            yield number, replace(found, data=flipped, box=Box.whole(shape))


METHODS: dict[str, AbstractMethod] = {
    "gradient": Gradient(),
    "inputxgradient": InputTimesGradient(),
    "ig": IntegratedGradients(n_steps=4),
    "elsewhere": Elsewhere(),
}


def rows_of(network, **options):
    return faithfulness_rows(scan_of(network, **options), methods=METHODS, fractions=FRACTIONS, perturbations=6)


@pytest.mark.slow
def test_a_wrong_map_loses_in_every_measure():
    """On a linear network the gradient is the truth; the same map put elsewhere must be told apart."""
    means = (
        rows_of(Linear((3.0, 0.0), width=3, bias=3.0))
        .groupby("method")[["deletion", "insertion", "pointing", "infidelity", "specificity"]]
        .mean()
    )
    right, wrong = means.loc["gradient"], means.loc["elsewhere"]
    assert right["deletion"] < wrong["deletion"] - 0.2
    assert right["insertion"] > wrong["insertion"] + 0.2
    assert right["specificity"] > wrong["specificity"]
    assert (right["pointing"], wrong["pointing"]) == (1.0, 0.0)
    assert right["infidelity"] < 1e-3 < 0.3 < wrong["infidelity"]
    assert right["deletion"] < means.loc["random", "deletion"]
    assert means.loc["distance", "deletion"] < means.loc["random", "deletion"]


def test_intensity_is_a_strong_baseline_for_a_network_that_thresholds_intensity():
    """A map need not win: for a network that reads FLAIR voxel by voxel, brightness orders voxels as well."""
    means = rows_of(Linear((3.0, 0.0), bias=3.0)).groupby("method")["deletion"].mean()
    assert means["intensity"] <= means["gradient"] + 0.02


def test_gradient_of_a_linear_network_is_stable():
    rows = rows_of(Linear((3.0, 0.0), width=3, bias=3.0))
    assert rows.loc[rows["method"] == "gradient", "sensitivity"].max() < 1e-5
    assert rows.loc[rows["method"] == "inputxgradient", "sensitivity"].min() > 1e-4


def test_leakage_counts_mass_in_other_lesions_only():
    scan = scan_of(Linear((3.0, 0.0), width=3, bias=3.0))
    rows = faithfulness_rows(scan, methods={"gradient": Gradient()}, fractions=FRACTIONS, perturbations=2)
    assert (rows.loc[rows["method"] == "gradient", "leakage"] == 0).all()  # the kernel is shorter than the gap


def test_methods_that_do_not_apply_are_named_not_dropped():
    methods = {"gradient": Gradient(), "gradcampp": default_methods()["gradcampp"]}
    rows = faithfulness_rows(
        scan_of(Linear((3.0, 0.0), bias=3.0)), methods=methods, fractions=FRACTIONS, perturbations=2
    )
    finding = faithfulness_finding(rows, np.random.default_rng(0))
    table = finding.tables["faithfulness"].set_index("method")
    assert "gradcampp" in table.index
    if np.isnan(table.loc["gradcampp", "deletion"]):
        assert table.loc["gradcampp", "note"]
        assert "Not applicable" in finding.text


@pytest.mark.slow
def test_the_table_ranks_all_methods_with_intervals():
    rows = cohort(
        Linear((3.0, 0.0), width=3, bias=3.0),
        faithfulness_rows,
        methods=METHODS,
        fractions=FRACTIONS,
        settings={"lesions": "largest:1"},
        patients=6,
        perturbations=2,
    )
    finding = faithfulness_finding(rows, np.random.default_rng(0))
    table = finding.tables["faithfulness"]
    assert set(table["method"]) == {*METHODS, "random", "intensity", "distance"}
    maps = table[~table["baseline"]]
    assert maps["method"].iloc[-1] == "elsewhere"
    assert maps["deletion_low"].notna().all()
    tests = finding.tables["faithfulness_tests"].set_index("method")
    assert tests.loc["elsewhere", "p"] == pytest.approx(2 / 2**6)
    assert "6 patients" in finding.text


def test_every_method_of_the_registry_is_in_the_default_table():
    from lesionwise.attribution import METHODS as REGISTRY

    assert set(default_methods()) >= set(REGISTRY)


def test_curves_divided_by_next_to_nothing_are_left_out() -> None:
    evidence = {1: 10.0, 2: 12.0, 3: 0.2, 4: -3.0}
    rows = pd.DataFrame(
        [
            {"subject": f"{n}", "scan": f"{n}", "model": "m", "lesion": n, "method": name, "evidence": e, "note": ""}
            | {"deletion": 0.1 if e > 1 else -9.0, "insertion": 0.9 if e > 1 else 9.0}
            for n, e in evidence.items()
            for name in ("gradient", "distance")
        ]
    )
    finding = faithfulness_finding(rows, np.random.default_rng(0))
    assert finding.text.startswith("4 patients, 4 lesions. 2 of them have no deletion and insertion")
    table = finding.tables["faithfulness"].set_index("method")
    assert table.loc["gradient", "deletion"] == pytest.approx(0.1)
    assert table.loc["gradient", "insertion"] == pytest.approx(0.9)
