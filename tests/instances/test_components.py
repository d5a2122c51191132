import time
import tracemalloc
from itertools import product

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.instances.components import component_voxels, label_components, minimum_voxels, parse_min_size

FACES = {6: 1, 18: 2, 26: 3}


def by_flood_fill(mask, connectivity):
    """Independent labelling: a set-based flood fill over neighbours that differ in at most 1, 2 or 3 coordinates."""
    steps = [s for s in product((-1, 0, 1), repeat=3) if 0 < np.count_nonzero(s) <= FACES[connectivity]]
    left = {tuple(v) for v in np.argwhere(mask)}
    out = []
    while left:
        stack, part = [left.pop()], set()
        while stack:
            at = stack.pop()
            part.add(at)
            for step in steps:
                near = tuple(np.add(at, step))
                if near in left:
                    left.remove(near)
                    stack.append(near)
        out.append(frozenset(map(lambda v: tuple(int(x) for x in v), part)))
    return set(out)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_components_equal_flood_fill(connectivity):
    mask = np.random.default_rng(0).random((12, 11, 10)) < 0.12
    labels = label_components(mask, connectivity=connectivity)
    found = {frozenset(tuple(int(x) for x in v) for v in part) for part in component_voxels(labels)}
    assert found == by_flood_fill(mask, connectivity)
    assert np.array_equal(labels > 0, mask)


def test_face_edge_and_corner_neighbours_join_at_6_18_26():
    counts = {}
    for name, other in {"face": (1, 0, 0), "edge": (1, 1, 0), "corner": (1, 1, 1)}.items():
        mask = np.zeros((3, 3, 3), dtype=bool)
        mask[0, 0, 0] = mask[other] = True
        counts[name] = [int(label_components(mask, connectivity=c).max()) for c in (6, 18, 26)]
    assert counts == {"face": [1, 1, 1], "edge": [2, 1, 1], "corner": [2, 2, 1]}


def test_an_empty_mask_has_no_component():
    assert component_voxels(label_components(np.zeros((4, 4, 4), dtype=bool))) == []


def test_unknown_connectivity_is_a_sentence():
    with pytest.raises(InputError, match="6, 18 or 26"):
        label_components(np.zeros((4, 4, 4), dtype=bool), connectivity=8)


def test_a_confluent_lesion_of_68_ml_costs_no_more_than_its_size():
    mask = np.zeros((182, 218, 182), dtype=bool)
    mask[60:120, 80:140, 80:99] = True  # 68,400 voxels of 1 mm3
    mask[10, 10, 10] = mask[170, 200, 170] = True  # boxes of components may span the whole scan
    begin = time.perf_counter()
    labels = label_components(mask)
    tracemalloc.start()
    parts = component_voxels(labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(len(p) for p in parts) == [1, 1, 68_400]
    assert peak < 4 * labels.nbytes  # well below one mask per component
    assert time.perf_counter() - begin < 5.0


def test_minimum_size_in_mm3_follows_the_affine():
    affine = np.diag([0.8, 1.0, 1.0, 1.0])
    assert 5.99 < minimum_voxels(4.8, unit="mm3", affine=affine) <= 6
    assert minimum_voxels(6, unit="voxels", affine=affine) == 6


@pytest.mark.parametrize(
    ("text", "meant"), [("6", (6.0, "voxels")), ("6vox", (6.0, "voxels")), ("5 mm3", (5.0, "mm3"))]
)
def test_minimum_size_as_written(text, meant):
    assert parse_min_size(text) == meant


def test_unreadable_minimum_size_is_a_sentence():
    with pytest.raises(InputError, match="5mm3"):
        parse_min_size("six")
