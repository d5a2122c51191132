"""Synthetic patients from the MNI152 templates that nilearn ships: FLAIR, T1w and all that is true about them."""

from lesionwise.phantom.patient import Phantom, synthesise

__all__ = ["Phantom", "synthesise"]
