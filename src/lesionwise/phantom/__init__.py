"""Synthetic patients from the MNI152 templates that nilearn ships: FLAIR, T1w and all that is true about them."""

from lesionwise.phantom.cohort import write_phantoms
from lesionwise.phantom.patient import CHANNELS, TISSUES, Phantom, synthesise

__all__ = ["CHANNELS", "TISSUES", "Phantom", "synthesise", "write_phantoms"]
