"""Heads and lesions of the simplest kind: an ellipsoid with balls in it."""

import numpy as np


def head_with_balls(
    rng: np.random.Generator, shape: tuple[int, int, int], *, count: int, reach: float, head: float
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the head and of the lesions; lengths are in half edges of the box (`head` is squared)."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    lesions = np.zeros(shape, dtype=bool)
    for _ in range(count):
        centre = rng.uniform(-reach, reach, 3)
        lesions |= ((grid - centre[:, None, None, None]) ** 2).sum(axis=0) < rng.uniform(0.01, 0.04)
    return (grid**2).sum(axis=0) < head, lesions
