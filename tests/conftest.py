"""Shape hints are enforced here, and only here: every module of the package is checked at run time."""

from jaxtyping import install_import_hook

install_import_hook("lesionwise", "beartype.beartype")
