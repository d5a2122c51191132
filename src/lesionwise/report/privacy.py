"""What a page must not tell: where its files lie."""

import re

_PATH = re.compile(r"(?<![\w:/<.])(?:file://)?(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\",;:()]+)+[/\\]?")


def without_paths(text: str) -> str:
    """The text with every absolute path cut to its last part: a page travels, a folder's name should not.

    >>> without_paths("resampled /home/jane/scans/t1.nii.gz onto FLAIR")
    'resampled t1.nii.gz onto FLAIR'
    """
    return _PATH.sub(lambda match: re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)
