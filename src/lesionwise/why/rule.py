"""The decision that is explained: is there a predicted lesion here, by the rule that made the scan's lesions."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from lesionwise.asking.scan import Scan
from lesionwise.geometry.box import Box
from lesionwise.instances.components import label_components, minimum_voxels
from lesionwise.instances.instance import Instance
from lesionwise.types import MaskArray, ScalarArray


@dataclass(frozen=True)
class Rule:
    """A lesion is found where a component of p > `threshold`, of `least` voxels or more, shares a voxel with it.

    METHOD section 1: first match, then drop small components. `connectivity` is 6, 18 or 26.
    """

    threshold: float
    connectivity: int = 18
    least: float = 6.0

    @classmethod
    def of(cls, scan: Scan) -> "Rule":
        """The rule by which the scan's lesions were found."""
        settings, spec = scan.explained.settings, scan.model.spec
        given = settings.min_size is not None
        least = minimum_voxels(
            settings.min_size if settings.min_size is not None else spec.min_size_vox,
            unit=settings.min_size_unit if given else "voxels",  # type: ignore[arg-type]
            affine=scan.case.image.affine,
        )
        return cls(scan.threshold, settings.connectivity, least)

    @property
    def margin_vox(self) -> int:
        """How far around a lesion the prediction must be known: a component that reaches farther is large enough."""
        return max(ceil(self.least) - 1, 1)

    def region(self, instance: Instance, shape: tuple[int, int, int]) -> Box:
        """The part of the scan that decides about a lesion."""
        return Box.around(instance.voxels, margin=self.margin_vox, shape=shape)

    def finds(self, probability: ScalarArray, omega: MaskArray) -> bool:
        """Whether the lesion `omega` is found; both arrays are on the lesion's `region`.

        Exact although the region is cut: a component that leaves it holds more than `margin_vox` voxels inside.
        """
        labels = label_components(probability > self.threshold, connectivity=self.connectivity)
        touching = np.unique(labels[omega])
        sizes = np.bincount(labels.ravel())
        return bool((sizes[touching[touching > 0]] >= self.least).any())
