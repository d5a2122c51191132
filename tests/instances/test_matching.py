from itertools import permutations

import numpy as np
import pytest

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.instances import (
    Instance,
    find_instances,
    instances_to_labels,
    label_components,
    match_lesions,
    select,
)
from lesionwise.metrics import component_overlap, lesion_counts

EYE = np.eye(4)


def row(*spans, length=60):
    """A 1-D world in 3-D: True from a to b (exclusive) along the last axis."""
    mask = np.zeros((3, 3, length), dtype=bool)
    for a, b in spans:
        mask[1, 1, a:b] = True
    return mask


def outcomes(instances):
    return [(one.label, one.outcome, one.n_voxels, round(one.iou, 3)) for one in instances]


def test_overlap_rule_on_a_hand_made_scan():
    prediction = row((0, 10), (20, 28), (40, 46))
    reference = row((8, 16), (30, 38), (40, 52))
    assert outcomes(find_instances(prediction, reference=reference, affine=EYE)) == [
        (1, "TP", 10, 0.125),  # shares 2 of 16 voxels
        (2, "FP", 8, 0.0),
        (3, "TP", 6, 0.5),
        (4, "FN", 8, 0.0),
    ]


def test_iou_rule_names_the_under_segmented():
    prediction, reference = row((0, 10), (20, 28), (40, 46)), row((8, 16), (30, 38), (40, 52))
    found = find_instances(prediction, reference=reference, affine=EYE, rule="iou")
    assert [one.outcome for one in found] == ["US", "FP", "TP", "FN"]


def test_iou_of_exactly_a_quarter_is_true():
    found = find_instances(row((0, 10)), reference=row((0, 40)), affine=EYE, rule="iou")
    assert outcomes(found) == [(1, "TP", 10, 0.25)]


def test_match_first_then_drop():
    speck_on_a_lesion = row((5, 8))
    found = find_instances(speck_on_a_lesion, reference=row((0, 20)), affine=EYE)
    assert found == []  # not FN: it was touched; and too small to be explained itself
    assert [one.outcome for one in find_instances(speck_on_a_lesion, reference=row((20, 40)), affine=EYE)] == ["FN"]


@pytest.mark.parametrize(("size", "kept"), [(5, 0), (6, 1)])
def test_components_of_five_voxels_or_fewer_are_dropped(size, kept):
    assert len(find_instances(row((0, size)), affine=EYE)) == kept
    assert len(find_instances(row(), reference=row((0, size)), affine=EYE)) == kept


def test_minimum_size_in_mm3():
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    assert len(find_instances(row((0, 3)), affine=affine, min_size=6, min_size_unit="mm3")) == 1
    assert len(find_instances(row((0, 2)), affine=affine, min_size=6, min_size_unit="mm3")) == 0


def test_without_a_reference_there_is_no_outcome():
    assert outcomes(find_instances(row((0, 6)), affine=EYE)) == [(1, None, 6, 0.0)]


def test_empty_masks_are_results():
    mask = row((0, 6), (10, 17))
    assert [o.outcome for o in find_instances(mask, reference=row(), affine=EYE)] == ["FP", "FP"]
    assert [o.outcome for o in find_instances(row(), reference=mask, affine=EYE)] == ["FN", "FN"]
    assert find_instances(row(), reference=row(), affine=EYE) == []


def test_one_to_one_gives_each_lesion_one_partner():
    # Two predicted pieces of one lesion; one predicted piece over two lesions.
    prediction, reference = row((0, 6), (8, 15), (30, 50)), row((0, 15), (30, 36), (40, 50))
    many = find_instances(prediction, reference=reference, affine=EYE)
    assert [o.outcome for o in many] == ["TP", "TP", "TP"]
    single = find_instances(prediction, reference=reference, affine=EYE, one_to_one=True)
    assert outcomes(single) == [(1, "TP", 20, 0.5), (2, "TP", 7, 0.467), (3, "FP", 6, 0.0), (4, "FN", 6, 0.0)]
    labels = instances_to_labels(single, prediction.shape)
    assert (labels[1, 1, 30:36] == 1).all()  # the prediction wins where a missed lesion lies beneath


def test_one_to_one_reaches_the_best_sum_of_iou():
    rng = np.random.default_rng(4)
    prediction, reference = rng.random((9, 9, 9)) < 0.1, rng.random((9, 9, 9)) < 0.1
    found = find_instances(prediction, reference=reference, affine=EYE, one_to_one=True, min_size=0, connectivity=6)
    total = sum(one.iou for one in found)
    a, b = label_components(prediction, connectivity=6), label_components(reference, connectivity=6)
    overlap = component_overlap(a, b)
    rows, columns = np.unique(overlap.prediction), np.unique(overlap.reference)
    score = np.zeros((len(rows), len(columns)))
    for p, r, value in zip(overlap.prediction, overlap.reference, overlap.iou, strict=True):
        score[np.searchsorted(rows, p), np.searchsorted(columns, r)] = value
    assert total == pytest.approx(_best_sum(score))


def _best_sum(score):
    """Exhaustive over blocks of components that touch one another."""
    total, left = 0.0, set(range(len(score)))
    while left:
        rows, columns = {left.pop()}, set()
        while True:
            more_columns = {int(c) for r in rows for c in np.flatnonzero(score[r])} - columns
            columns |= more_columns
            more_rows = {int(r) for c in columns for r in np.flatnonzero(score[:, c])} - rows
            rows |= more_rows
            if not more_columns and not more_rows:
                break
        left -= rows
        small, large = (sorted(rows), sorted(columns))
        block = score[np.ix_(small, large)]
        if block.shape[0] > block.shape[1]:
            block = block.T
        total += max(
            sum(block[i, j] for i, j in enumerate(order)) for order in permutations(range(block.shape[1]), len(block))
        )
    return total


def test_iou_equals_a_direct_count():
    rng = np.random.default_rng(1)
    prediction, reference = rng.random((14, 14, 14)) < 0.2, rng.random((14, 14, 14)) < 0.05
    parts = label_components(reference)
    for one in find_instances(prediction, reference=reference, affine=EYE):
        if one.source == "prediction":
            mask = one.mask((14, 14, 14))
            each = [(mask & (parts == n)).sum() / (mask | (parts == n)).sum() for n in range(1, parts.max() + 1)]
            assert one.iou == pytest.approx(max(each))
            assert one.outcome == ("TP" if (mask & reference).any() else "FP")


def test_numbers_are_stable_large_to_small_and_unique():
    rng = np.random.default_rng(2)
    prediction, reference = rng.random((20, 20, 20)) < 0.1, rng.random((20, 20, 20)) < 0.05
    found = find_instances(prediction, reference=reference, affine=EYE, min_size=2)
    assert [one.label for one in found] == list(range(1, len(found) + 1))
    sources = [one.source for one in found]
    assert sources == sorted(sources)  # prediction before reference
    sizes = [one.n_voxels for one in found if one.source == "prediction"]
    assert sizes == sorted(sizes, reverse=True)
    labels = instances_to_labels(found, prediction.shape)
    assert all((labels[one.index] == one.label).all() for one in found)


def test_volume_and_centroid_come_from_an_oblique_affine():
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 2.0, 0.5])
    affine[:3, 3] = [5, -7, 11]
    (one,) = find_instances(row((10, 16)), affine=affine)
    assert one.volume_mm3 == pytest.approx(6 * 1.0)
    expected = affine @ [1, 1, 12.5, 1]
    assert one.centroid_mm == pytest.approx(tuple(expected[:3]))


def test_different_grids_are_an_error():
    with pytest.raises(GridMismatchError, match="shape"):
        find_instances(row(), reference=row(length=61), affine=EYE)


def test_lesions_are_chosen_as_asked():
    found = find_instances(row((0, 6), (10, 17), (20, 28)), affine=EYE)
    assert [one.label for one in select(found, "all")] == [1, 2, 3]
    assert [one.n_voxels for one in select(found, "largest:2")] == [8, 7]
    assert [one.label for one in select(found, "1,3")] == [1, 3]
    control = Instance(4, found[0].voxels + np.array([1, 0, 0]), EYE, "TN", "control")
    assert [one.label for one in select([*found, control], "largest:1")] == [1, 4]
    with pytest.raises(InputError, match="4"):
        select(found, "1,4")
    with pytest.raises(InputError, match="largest:5"):
        select(found, "biggest")


def test_a_draw_takes_outcomes_in_turn_and_is_a_function_of_the_seed() -> None:
    outcomes = ["TP"] * 5 + ["FP"] * 3 + ["FN"]
    found = [
        Instance(n, np.array([[n, 0, 0]]), np.eye(4), outcome, "reference" if outcome == "FN" else "prediction")
        for n, outcome in enumerate(outcomes, start=1)
    ]
    drawn = select(found, "drawn:6", seed=3)
    assert [one.outcome for one in drawn] == ["TP", "TP", "TP", "FP", "FP", "FN"]
    assert [one.label for one in drawn] == [one.label for one in select(found, "drawn:6", seed=3)]
    others = {tuple(one.label for one in select(found, "drawn:6", seed=seed)) for seed in range(8)}
    assert len(others) > 1
    assert select(found, "drawn:50") == found


def test_a_row_says_which_reference_lesions_it_covers():
    merged = find_instances(row((0, 30)), reference=row((2, 8), (10, 16), (20, 26), (40, 46)), affine=EYE)
    assert [(one.outcome, one.reference_lesions) for one in merged] == [("TP", (1, 2, 3)), ("FN", (4,))]
    pieces = find_instances(row((2, 8), (10, 16), (50, 56)), reference=row((0, 30)), affine=EYE)
    assert [(one.outcome, one.reference_lesions) for one in pieces] == [("TP", (1,)), ("TP", (1,)), ("FP", ())]
    assert find_instances(row((0, 30)), affine=EYE)[0].reference_lesions == ()


def test_reference_lesions_met_by_specks_only_are_counted_and_without_a_row():
    prediction, reference = row((5, 8), (30, 40)), row((0, 20), (30, 40))
    matched = match_lesions(prediction, reference=reference, affine=EYE)
    assert [one.outcome for one in matched.instances] == ["TP"]
    assert matched.specks_only == 1
    assert match_lesions(row((30, 40)), reference=reference, affine=EYE).specks_only == 0


@pytest.mark.parametrize("rule", ["overlap", "iou"])
@pytest.mark.parametrize("one_to_one", [False, True])
def test_the_table_of_explain_and_the_counts_of_evaluate_agree(rule, one_to_one):
    """Whatever overlaps whatever: TP, US, FP and FN of the instances are those that `lesion_counts` counts."""
    met = {"TP": 0, "US": 0, "FP": 0, "FN": 0, "specks": 0}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        prediction, reference = rng.random((16, 16, 16)) < 0.11, rng.random((16, 16, 16)) < 0.11
        options = {"rule": rule, "one_to_one": one_to_one}
        matched = match_lesions(prediction, reference=reference, affine=EYE, connectivity=26, **options)
        labels = [label_components(mask, connectivity=26) for mask in (prediction, reference)]
        counts = lesion_counts(labels[0], labels[1], **options)
        outcomes = [one.outcome for one in matched.instances]
        expected = {
            "TP": counts.predicted_true,
            "US": counts.under_segmented,
            "FP": counts.false_positive,
            "FN": counts.false_negative,
        }
        assert {outcome: outcomes.count(outcome) for outcome in expected} == expected
        assert matched.specks_only == counts.reference_specks
        for key, count in {**expected, "specks": counts.reference_specks}.items():
            met[key] += count
    assert all(count > 0 for key, count in met.items() if key != "US" or rule == "iou")
