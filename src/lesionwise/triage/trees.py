"""Boosted trees as plain numbers: walked in NumPy, written as JSON, read without any object reader."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lesionwise.errors import ModelFileError

COLUMNS = ("feature", "threshold", "gaps_left", "left", "right", "value")
"""What is kept of a node, in the order of a row."""


@dataclass(frozen=True, eq=False)
class Trees:
    """An ensemble of binary trees whose leaves add up.

    All trees lie one after another in one array of nodes; `roots` are their first nodes. At an inner node a lesion goes to
    node `left` if its `feature` is at most `threshold`, or is not known and `gaps_left`; to `right` otherwise. `feature` is -1
    at a leaf, whose `value` is added to `start`.
    """

    roots: Int[np.ndarray, " trees"]
    feature: Int[np.ndarray, " nodes"]
    threshold: Float[np.ndarray, " nodes"]
    gaps_left: Bool[np.ndarray, " nodes"]
    left: Int[np.ndarray, " nodes"]
    right: Int[np.ndarray, " nodes"]
    value: Float[np.ndarray, " nodes"]
    start: float

    @classmethod
    def of(cls, learner: Any) -> "Trees":
        """From a fitted `HistGradientBoostingClassifier` of two classes without categorical features."""
        parts = [trees[0].nodes for trees in learner._predictors]
        roots = np.concatenate([[0], np.cumsum([len(part) for part in parts])[:-1]]).astype(np.int64)
        nodes = np.concatenate(parts)
        first = np.repeat(roots, [len(part) for part in parts])
        leaf = nodes["is_leaf"].astype(bool)
        here = np.arange(len(nodes))
        return cls(
            roots=roots,
            feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int64),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]).astype(float),
            gaps_left=nodes["missing_go_to_left"].astype(bool),
            left=np.where(leaf, here, first + nodes["left"].astype(np.int64)),
            right=np.where(leaf, here, first + nodes["right"].astype(np.int64)),
            value=np.where(leaf, nodes["value"], 0.0).astype(float),
            start=float(np.ravel(learner._baseline_prediction)[0]),
        )

    def score(self, table: Float[np.ndarray, "lesions features"]) -> Float[np.ndarray, " lesions"]:
        """The sum of the leaves that every lesion reaches; nan is a feature that is not known."""
        table = np.asarray(table, dtype=float)
        total = np.full(len(table), self.start)
        rows = np.arange(len(table))
        for root in self.roots:
            at = np.full(len(table), root)
            while (inner := self.feature[at] >= 0).any():
                values = table[rows, np.maximum(self.feature[at], 0)]
                to_left = np.where(np.isnan(values), self.gaps_left[at], values <= self.threshold[at])
                at = np.where(inner, np.where(to_left, self.left[at], self.right[at]), at)
            total = total + self.value[at]
        return total

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: a list of nodes per tree, node numbers within the tree; an infinite threshold is null."""
        ends = [*self.roots[1:], len(self.feature)]
        trees = []
        for root, end in zip(self.roots, ends, strict=True):
            part = slice(root, end)
            columns = (
                self.feature[part], self.threshold[part], self.gaps_left[part], self.left[part] - root,
                self.right[part] - root, self.value[part],
            )  # fmt: skip
            rows = [[column[n].item() for column in columns] for n in range(end - root)]
            trees.append([[None if value == np.inf else value for value in row] for row in rows])
        return {"start": self.start, "columns": list(COLUMNS), "trees": trees}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, features: int) -> "Trees":
        """What `as_dict` gave.

        Raises ModelFileError for trees that ask for features there are not, or whose nodes do not lead on to a leaf.
        """
        rows: list[tuple] = []
        roots: list[int] = []
        for tree in content["trees"]:
            roots.append(len(rows))
            rows += [(*row[:3], row[3] + roots[-1], row[4] + roots[-1], row[5]) for row in tree]
            for number, (feature, _, _, left, right, _) in enumerate(tree):
                onward = feature == -1 or number < min(left, right) <= max(left, right) < len(tree)
                if not onward or not -1 <= feature < features:
                    raise ModelFileError(
                        f"Expected trees over {features} features that lead to leaves, found node {number} of tree "
                        f"{len(roots)} that does not."
                    )
            if not tree:
                raise ModelFileError("Expected trees with at least one node, found an empty one.")
        feature, threshold, gaps_left, left, right, value = zip(*rows, strict=True) if rows else ((),) * 6
        return cls(
            roots=np.array(roots, dtype=np.int64),
            feature=np.array(feature, dtype=np.int64),
            threshold=np.array([np.inf if value is None else value for value in threshold], dtype=float),
            gaps_left=np.array(gaps_left, dtype=bool),
            left=np.array(left, dtype=np.int64),
            right=np.array(right, dtype=np.int64),
            value=np.array(value, dtype=float),
            start=float(content["start"]),
        )
