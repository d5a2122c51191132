"""What can go wrong, as one family. Every message is a sentence: expected, found, which file or argument.

`InputError` and its children are the user's to mend (exit code 2); anything else that escapes is ours (exit code 1).
"""


class LesionwiseError(Exception):
    """Root of every error raised on purpose."""


class InputError(LesionwiseError, ValueError):
    """The user's input is not what was expected."""


class ImageFileError(InputError, OSError):
    """An image file is unreadable, truncated, empty, 4-D, or holds NaN or infinite values."""


class GridMismatchError(InputError):
    """Two images that must share one grid do not."""


class ModelFileError(InputError, OSError):
    """A model file or folder is not what was expected."""


class UnsupportedModelError(InputError, TypeError):
    """A network cannot be explained as asked (in-place activations, train-mode BatchNorm, no hooks, ...)."""


class OutOfMemoryError(InputError, MemoryError):
    """More memory is needed than there is."""


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    @classmethod
    def of(cls, package: str, *, extra: str, purpose: str) -> "MissingExtraError":
        """One sentence that names the package, what it is for and how to install it."""
        return cls(f"{purpose} needs the package {package}, which is not installed: pip install 'lesionwise[{extra}]'.")


_PYTHON_WORDS = (
    "unpack",
    "object",
    "attribute",
    "argument",
    "literal",
    "convert",
    "subscript",
    "itera",
    "operand",
    "<class",
    "__",
)


def with_words_of(error: Exception) -> str:
    """What a library says of its input, as the end of a sentence: ": its words.", or "." where they are Python's.

    >>> with_words_of(ValueError("spatial_dims must be 2 or 3"))
    ': spatial_dims must be 2 or 3.'
    >>> with_words_of(ValueError("not enough values to unpack (expected 2, got 0)"))
    '.'
    """
    text = " ".join(str(error).split()).rstrip(".")
    return f": {text}." if text and not any(word in text for word in _PYTHON_WORDS) else "."
