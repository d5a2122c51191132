"""What other software calls its inputs and labels, and what they are called here."""

from collections.abc import Sequence

from lesionwise.errors import InputError, ModelFileError

_SPELLINGS = {
    "FLAIR": ("flair", "t2flair", "flairw"),
    "T1w": ("t1", "t1w", "mprage", "mpr", "t1mprage", "t1n"),
    "T2w": ("t2", "t2w"),
    "PDw": ("pd", "pdw"),
    "T1wGd": ("t1c", "t1ce", "t1gd", "t1wgd"),
}


def bids_channel(name: str) -> str:
    """BIDS spelling of a channel's name; an unknown one as it is.

    >>> bids_channel("MPRAGE"), bids_channel("T2-FLAIR"), bids_channel("swi")
    ('T1w', 'FLAIR', 'swi')
    """
    plain = "".join(letter for letter in name.lower() if letter.isalnum())
    return next((bids for bids, known in _SPELLINGS.items() if plain in known), name)


def lesion_index(names: Sequence[str], *, wanted: str | None, where: str) -> int:
    """Which label is the lesion: `wanted` by name or number, else the one called lesion or WMH, else the only one.

    Raises ModelFileError that lists the labels if that is not clear.
    """
    if wanted is not None:
        if wanted in names:
            return names.index(wanted)
        if wanted.isdecimal() and int(wanted) < len(names):
            return int(wanted)
        raise ModelFileError(f"Expected a label among {', '.join(names)}, found {wanted} for {where}.")
    lesions = [n for n, name in enumerate(names) if any(word in name.lower() for word in ("lesion", "wmh", "wml"))]
    if len(lesions) == 1:
        return lesions[0]
    foreground = [n for n, name in enumerate(names) if name.lower() != "background"]
    if len(foreground) == 1:
        return foreground[0]
    raise ModelFileError(
        f"Expected one label that is the lesion in {where}, found {', '.join(names)}: name it with ?lesion=."
    )


def lesion_classes(names: Sequence[str], *, wanted: str | None, where: str) -> int | tuple[int, ...]:
    """The label or labels that are lesion: `wanted` may list several, by name or number, which then count as one."""
    if wanted is None or wanted in names or "," not in wanted:
        return lesion_index(names, wanted=wanted, where=where)
    found = tuple(lesion_index(names, wanted=part.strip(), where=where) for part in wanted.split(","))
    if len(set(found)) != len(found):
        raise InputError(f"Expected every label once in ?lesion={wanted} for {where}, found one twice.")
    return found


def input_names(found: Sequence[str], *, given: str | None, where: str) -> tuple[str, ...]:
    """Names of a model's inputs, in order: `given` ones, separated by commas, else its own in BIDS spelling.

    Raises InputError if there are not as many as inputs, or one comes twice.
    """
    names = tuple(bids_channel(name) for name in found)
    if given is not None:
        names = tuple(part.strip() for part in given.split(","))
        if len(names) != len(found) or not all(names):
            raise InputError(f"Expected {len(found)} channel names ({', '.join(found)}) for {where}, found {given}.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"Expected every input of {where} under a name of its own, found {twice} twice in {', '.join(names)}: name "
            "them in order with ?channels=, such as ?channels=FLAIR,T1w."
        )
    return names
