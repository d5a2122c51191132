"""Boosted trees as numbers: what the walk gives is what scikit-learn gives, on every kind of split; bad trees are refused."""

import json

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from lesionwise.errors import ModelFileError
from lesionwise.triage.trees import Trees


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(400, 5))
    table[rng.random(table.shape) < 0.2] = np.nan  # gaps that are worth a split
    false = ((np.nan_to_num(table[:, 0]) > 0) ^ np.isnan(table[:, 1])).astype(int)
    learner = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=6, max_bins=16, early_stopping=False)
    return learner.fit(table, false), table


def test_the_walk_is_scikit_learns(fitted):
    learner, table = fitted
    trees = Trees.of(learner)
    unseen = np.concatenate([table, np.random.default_rng(1).normal(size=(300, 5)) * 3, np.full((1, 5), np.nan)])
    np.testing.assert_array_equal(trees.score(unseen), learner.decision_function(unseen))
    assert trees.gaps_left[trees.feature >= 0].any()
    assert not trees.gaps_left[trees.feature >= 0].all()


def test_json_gives_the_same_trees_back(fitted):
    learner, table = fitted
    text = json.dumps(Trees.of(learner).as_dict(), allow_nan=False)
    read = Trees.from_dict(json.loads(text), features=5)
    np.testing.assert_array_equal(read.score(table), learner.decision_function(table))


def test_a_tree_by_hand():
    """x0 <= 1 gives 2, larger gives -3, not known goes right; and a split that only tells known from not known."""
    rows = [[0, 1.0, False, 1, 2, 0.0], [-1, 0.0, False, 1, 1, 2.0], [-1, 0.0, False, 2, 2, -3.0]]
    known = [[1, None, False, 1, 2, 0.0], [-1, 0.0, False, 1, 1, 10.0], [-1, 0.0, False, 2, 2, 0.0]]
    trees = Trees.from_dict({"start": 0.5, "trees": [rows, known]}, features=2)
    table = np.array([[1.0, 7.0], [1.1, 7.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(trees.score(table), [12.5, 7.5, -2.5])


@pytest.mark.parametrize(
    "node",
    [
        [0, 0.0, True, 0, 0, 0.0],  # leads to itself: the walk would never end
        [0, 0.0, True, 1, 9, 0.0],  # leads out of the tree
        [5, 0.0, True, 1, 1, 0.0],  # a feature there is not
        [-2, 0.0, True, 1, 1, 0.0],
    ],
)
def test_trees_that_lead_nowhere_are_refused(node):
    leaf = [-1, 0.0, False, 1, 1, 2.0]
    with pytest.raises(ModelFileError, match="lead to leaves, found node 0 of tree 1"):
        Trees.from_dict({"start": 0.0, "trees": [[node, leaf]]}, features=2)
