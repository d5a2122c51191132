"""Whatever a sidecar, a description or a table holds: it is read, or refused in one sentence of plain words."""

from collections import Counter

import pytest
from damaged_texts import damaged_texts, strange_sentence, written

from lesionwise.errors import InputError


def test_the_sound_files_are_read(tmp_path):
    for kind in written(tmp_path / "sound"):
        kind.read_fn(kind.path)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path):
    """Seeded; `python scripts/damaged_files.py --minutes 10` goes on for longer."""
    refused: Counter[str] = Counter()
    strange = []
    for seed, kind in damaged_texts(tmp_path / "damaged", range(300)):
        try:
            kind.read_fn(kind.path)
        except InputError as error:
            strange += [(seed, kind.name, str(error))] if strange_sentence(str(error)) else []
            refused[kind.name] += 1
    assert strange == []
    assert len(refused) == 10
    assert min(refused.values()) >= 5
