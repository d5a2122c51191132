"""Lesions as instances: components, matching with the reference, control regions."""

from lesionwise.instances.components import component_voxels, label_components, parse_min_size
from lesionwise.instances.controls import Control, ControlPlacement, place_controls
from lesionwise.instances.instance import Instance, instances_to_labels
from lesionwise.instances.matching import Matching, find_instances, match_lesions, select
from lesionwise.instances.tissue import Tissues, WhiteMatter, tissues, white_matter

__all__ = [
    "Control",
    "ControlPlacement",
    "Instance",
    "Matching",
    "Tissues",
    "WhiteMatter",
    "component_voxels",
    "find_instances",
    "instances_to_labels",
    "label_components",
    "match_lesions",
    "parse_min_size",
    "place_controls",
    "select",
    "tissues",
    "white_matter",
]
