"""Lesions as instances: components, matching with the reference, control regions."""

from lesionwise.instances.components import component_voxels, label_components, parse_min_size
from lesionwise.instances.controls import Control, Placement, WhiteMatter, place_controls, white_matter
from lesionwise.instances.instance import Instance, instances_to_labels
from lesionwise.instances.matching import find_instances, select

__all__ = [
    "Control",
    "Instance",
    "Placement",
    "WhiteMatter",
    "component_voxels",
    "find_instances",
    "instances_to_labels",
    "label_components",
    "parse_min_size",
    "place_controls",
    "select",
    "white_matter",
]
