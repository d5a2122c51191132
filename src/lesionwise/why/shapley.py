"""Shapley values of a game given by its values: exact over all coalitions, or from random permutations with an error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
from jaxtyping import Float64

ValueFn = Callable[[Sequence[frozenset[int]]], Sequence[float]]
"""The game: values of some coalitions (players by number)."""


@dataclass(frozen=True, eq=False)
class Shares:
    """What every player contributes; they add up to v(all) - v(none). `errors` are nan where they are exact."""

    values: Float64[np.ndarray, " players"]
    errors: Float64[np.ndarray, " players"]
    exact: bool
    evaluations: int
    total: float


def shapley(players: int, value_fn: ValueFn, *, evaluations: int, rng: np.random.Generator) -> Shares:
    """Exact if all 2^players coalitions are affordable within `evaluations`, sampled otherwise."""
    if 2**players <= evaluations:
        return exact(players, value_fn)
    return sampled(players, value_fn, evaluations=evaluations, rng=rng)


def exact(players: int, value_fn: ValueFn) -> Shares:
    """phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)) (Shapley 1953).

    >>> found = exact(2, lambda sets: [3.0 * (0 in s) + 1.0 * (1 in s) + 2.0 * (len(s) == 2) for s in sets])
    >>> found.values.tolist()
    [4.0, 2.0]
    """
    coalitions = [_members(code, players) for code in range(2**players)]
    values = np.asarray(value_fn(coalitions), dtype=float)
    found = np.zeros(players)
    for code, members in enumerate(coalitions):
        size = len(members)
        for player in set(range(players)) - members:
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            found[player] += weight * (values[code | 1 << player] - values[code])
    return Shares(found, np.full(players, np.nan), True, len(values), float(values[-1] - values[0]))


def sampled(players: int, value_fn: ValueFn, *, evaluations: int, rng: np.random.Generator) -> Shares:
    """Mean marginal contributions over random orders, each with its reverse; standard errors over the pairs.

    As many pairs as `evaluations` allow, two at least. Every order's contributions add up to v(all) - v(none), so theirs
    do too.
    """
    pairs = max(2, (evaluations - 2) // (2 * max(players - 1, 1)))
    orders = []
    for _ in range(pairs):
        order = rng.permutation(players).tolist()
        orders += [order, order[::-1]]
    needed = list(dict.fromkeys(frozenset(order[:n]) for order in orders for n in range(players + 1)))
    known = dict(zip(needed, value_fn(needed), strict=True))
    gains = np.zeros((len(orders), players))
    for row, order in zip(gains, orders, strict=True):
        for n, player in enumerate(order):
            row[player] = known[frozenset(order[: n + 1])] - known[frozenset(order[:n])]
    each = gains.reshape(pairs, 2, players).mean(axis=1)
    errors = each.std(axis=0, ddof=1) / np.sqrt(pairs)
    total = known[frozenset(range(players))] - known[frozenset()]
    return Shares(each.mean(axis=0), errors, False, len(needed), float(total))


def _members(code: int, players: int) -> frozenset[int]:
    return frozenset(n for n in range(players) if code >> n & 1)
