import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from lesionwise import metrics
from lesionwise.metrics import LesionCounts, dice, lesion_counts, lesion_table, normalised_dice, rates_by_bin

EYE = np.eye(4)


def labels(*spans, length=40):
    """Components 1, 2, ... from a to b (exclusive) along a line."""
    out = np.zeros((1, 1, length), dtype=int)
    for number, (a, b) in enumerate(spans, start=1):
        out[..., a:b] = number
    return out


def test_dice_by_hand():
    assert dice(labels((0, 6)) > 0, labels((4, 8)) > 0) == pytest.approx(2 * 2 / (6 + 4))
    empty = labels() > 0
    assert dice(empty, empty) == 1.0
    assert dice(empty, labels((0, 3)) > 0) == 0.0


def test_normalised_dice_by_hand():
    """V = 1000, h = 10, 6 predicted of which 4 true: k = .999 * 10 / (.001 * 990) = 10.0909; 8 / (8 + 6 + 20.1818)."""
    reference, prediction = np.zeros((2, 10, 10, 10), dtype=bool)
    reference[0, 0, :10] = True
    prediction[0, 0, :4] = prediction[5, 5, :2] = True
    assert normalised_dice(prediction, reference) == pytest.approx(8 / (8 + 6 + 2 * 9.99 / 0.99))
    assert normalised_dice(prediction, reference) == pytest.approx(0.234043, abs=1e-6)


def test_normalised_dice_equals_dice_at_its_own_load():
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 10, 10, 10)) < 0.05
    assert normalised_dice(prediction, reference, load=reference.mean()) == pytest.approx(dice(prediction, reference))


def test_normalised_dice_without_reference_lesions():
    empty, some = labels() > 0, labels((0, 3)) > 0
    assert normalised_dice(some, empty) == 0.0
    assert normalised_dice(empty, empty) == 1.0
    assert normalised_dice(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool)) == 1.0


def test_published_counts_give_the_published_rates():
    """U-Net of the paper: TP 3050, FP 1818, FN 789 give F1 .7006, PPV .6265, TPR 79 %, FDR 37 %."""
    counts = LesionCounts(predicted=3050 + 1818, predicted_true=3050, reference=3000 + 789, reference_found=3000)
    assert counts.f1 == pytest.approx(0.7006, abs=5e-5)
    assert counts.ppv == pytest.approx(0.6265, abs=5e-5)
    assert round(counts.tpr_published, 2) == 0.79
    assert round(counts.fdr, 2) == 0.37
    assert counts.tpr_published + counts.fnr_published == pytest.approx(1)


def test_fragments_count_once_in_the_reference_based_rate():
    prediction, reference = labels((0, 6), (8, 14)), labels((0, 14), (20, 30))
    counts = lesion_counts(prediction, reference)
    assert counts == LesionCounts(2, 2, 2, 1)
    assert counts.tpr == 0.5
    assert counts.tpr_published == pytest.approx(2 / 3)


def test_iou_rule_one_to_one_and_small_components():
    prediction, reference = labels((0, 6), (7, 9), (30, 40)), labels((0, 10), (38, 40))
    assert lesion_counts(prediction, reference) == LesionCounts(2, 2, 1, 1)
    assert lesion_counts(prediction, reference, rule="iou") == LesionCounts(2, 1, 1, 1, under_segmented=1)
    assert lesion_counts(prediction, reference, min_voxels=1) == LesionCounts(3, 3, 2, 2)
    assert lesion_counts(prediction, reference, min_voxels=1, one_to_one=True) == LesionCounts(3, 2, 2, 2)


def test_rates_without_lesions_are_undefined():
    rates = lesion_counts(labels(), labels()).rates()
    assert all(np.isnan(value) for value in rates.values())
    assert lesion_counts(labels((0, 8)), labels()).fdr == 1.0


def test_counts_add_up():
    assert LesionCounts(1, 1, 2, 1) + LesionCounts(3, 0, 1, 1) == LesionCounts(4, 1, 3, 2)


def test_lesions_by_size_and_ventricle_distance():
    prediction, reference = labels((0, 6), (20, 32)), labels((2, 8), (12, 18))
    ventricles = labels((36, 40)) > 0
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    table = lesion_table(prediction, reference, affine=affine, ventricles=ventricles)
    assert table["volume_mm3"].tolist() == [12, 24, 12, 12]
    assert table["matched"].tolist() == [True, False, True, False]
    assert table["ventricle_distance_mm"].tolist() == [61, 9, 57, 37]  # to the border: half a voxel less
    by_size = rates_by_bin(table, column="volume_mm3", edges=[0, 20, 100])
    assert by_size["tpr"].tolist()[0] == 0.5
    assert by_size["fdr"].tolist() == [0.0, 1.0]
    assert np.isnan(by_size["tpr"].tolist()[1])


def test_surface_distances_of_shifted_cubes():
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    a = np.zeros((12, 12, 12), bool)
    b = a.copy()
    a[2:6, 2:6, 2:6] = True
    b[2:6, 2:6, 4:8] = True

    def surface(mask):
        edge = mask & ~ndimage.binary_erosion(mask)
        return np.argwhere(edge) * [1, 1, 3.0]

    ab = cKDTree(surface(b)).query(surface(a))[0]
    ba = cKDTree(surface(a)).query(surface(b))[0]
    assd, hd95 = metrics.surface_distances(a, b, affine=affine)
    assert assd == pytest.approx(np.concatenate([ab, ba]).mean(), rel=1e-5)
    assert hd95 == pytest.approx(max(np.percentile(ab, 95), np.percentile(ba, 95)), rel=1e-5)


def test_surface_distances_without_a_surface_are_undefined():
    assert all(np.isnan(metrics.surface_distances(labels() > 0, labels((0, 4)) > 0, affine=EYE)))


def test_scan_metrics_agree_with_their_parts():
    prediction, reference = np.zeros((2, 8, 8, 20), dtype=int)
    prediction[2:4, 2:4, 2:6] = 1
    reference[2:4, 2:4, 3:8], reference[5:7, 5:7, 12:16] = 1, 2
    out = metrics.scan_metrics(prediction, reference, affine=EYE)
    assert out["dice"] == dice(prediction > 0, reference > 0)
    assert out["volume_difference_mm3"] == 16 - 36
    assert out["tpr"] == 0.5
    assert out["tpr_iou"] == 0.5
    assert out["lesions_reference"] == 2


def test_one_prediction_over_three_lesions_is_under_segmented_by_iou_and_nothing_is_missed():
    reference, prediction = np.zeros((5, 5, 40), dtype=np.int32), np.zeros((5, 5, 40), dtype=np.int32)
    for number, start in enumerate((2, 14, 26), start=1):
        reference[1:4, 1:4, start : start + 5] = number
    prediction[1:4, 1:4, 2:31] = 1
    merged = lesion_counts(prediction, reference, rule="iou")
    assert (merged.predicted, merged.predicted_true, merged.under_segmented, merged.false_positive) == (1, 0, 1, 0)
    assert (merged.reference, merged.reference_found, merged.reference_touched, merged.false_negative) == (3, 0, 3, 0)
    assert (merged.tpr, merged.ppv, merged.f1) == (0.0, 0.0, 0.0)  # neither right nor found
    split = lesion_counts(reference, prediction, rule="iou")
    assert (split.predicted, split.under_segmented, split.reference_touched) == (3, 3, 1)
    both = merged + split
    assert (both.under_segmented, both.reference_touched) == (4, 4)
    assert lesion_counts(prediction, reference).reference_found == 3
