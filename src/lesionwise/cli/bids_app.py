"""Command lines as BIDS Apps have them."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperOption

MANY = ("--participant-label", "--participant_label", "--session-label", "--session_label")


class BidsAppCommand(TyperCommand):
    """Takes several labels after one flag, as BIDS Apps do: `--participant-label 01 02 03`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the flag before each label, then parses as usual."""
        positionals = sum(not isinstance(param, TyperOption) for param in self.params)
        return super().parse_args(ctx, spread_labels(args, takes_value=self._takes_value(), positionals=positionals))

    def _takes_value(self) -> frozenset[str]:
        found: list[str] = []
        for param in self.params:
            if isinstance(param, TyperOption) and not param.is_flag:
                found += param.opts
        return frozenset(found)


def spread_labels(args: Sequence[str], *, takes_value: frozenset[str], positionals: int) -> list[str]:
    """`--participant-label 01 02` becomes `--participant-label 01 --participant-label 02`.

    Before the positional arguments a flag takes one label only: `--participant-label 01 BIDS_DIR OUT participant`.
    """
    spread: list[str] = []
    seen, place = 0, 0
    while place < len(args):
        token = args[place]
        spread.append(token)
        place += 1
        if token in MANY:
            first = True
            while place < len(args) and not args[place].startswith("-") and (first or seen >= positionals):
                spread += [args[place]] if first else [token, args[place]]
                first = False
                place += 1
        elif token in takes_value and place < len(args):
            spread.append(args[place])
            place += 1
        elif not token.startswith("-"):
            seen += 1
    return spread
