"""Exact local derivatives: tensors that hold only the box in which they can differ from 0, and the rules of their layers.

The rules need the tensors and the tensors ask for the rules; both meet here, once, whichever part is imported first.
"""

from lesionwise.attribution.sparse import activations, cotangents
from lesionwise.attribution.sparse.local import ACTIVATION_RULES, COTANGENT_RULES

ACTIVATION_RULES.update(activations.RULES)
COTANGENT_RULES.update(cotangents.RULES)
