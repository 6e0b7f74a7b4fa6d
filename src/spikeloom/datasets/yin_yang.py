"""The Yin-Yang data set: points of a disc in three classes, yin, yang and the two dots."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

SEEDS = {"train": 42, "validation": 41, "test": 40}
SIZES = {"train": 5000, "validation": 1000, "test": 1000}
RADIUS, DOT = 0.5, 0.1


def yin_yang(
    part: Literal["train", "validation", "test"] = "train", *, size: int | None = None, seed: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The points of one part, as published: the same numbers, bit for bit, made here.

    Arguments:
        part: "train" (5,000 points), "validation" or "test" (1,000 each).
        size: number of points, if not the published one.
        seed: another seed than the part's (42, 41 and 40).

    Returns:
        Points [size, 4] in [0, 1], float64: x, y, 1 - x and 1 - y; and int64 labels [size]: 0 yang, 1 yin, 2 the dots.
        The classes are equally likely.

    Raises:
        ValueError: no such part, or a size below 1.

    >>> import spikeloom as sl
    >>> points, labels = sl.datasets.yin_yang("test")
    >>> points.shape, labels[:6]
    (torch.Size([1000, 4]), tensor([2, 2, 1, 1, 1, 2]))

    Source: Kriener, Göltz & Petrovici 2022, arXiv:2102.08211.
    """
    if part not in SIZES:
        raise ValueError(f"yin_yang got part={part!r}; expected one of {', '.join(SIZES)}.")
    size = SIZES[part] if size is None else size
    if size < 1:
        raise ValueError(f"yin_yang got size={size}; expected 1 or more.")
    # NumPy's old generator, whose stream is fixed for ever, and drawn from in the order of the published code.
    random = np.random.RandomState(SEEDS[part] if seed is None else seed)
    points, labels = [], []
    for _ in range(size):
        goal = random.randint(3)
        while True:
            x, y = random.rand(2) * 2.0 * RADIUS
            if np.sqrt((x - RADIUS) ** 2 + (y - RADIUS) ** 2) <= RADIUS and _class(x, y) == goal:
                break
        points.append([x, y, 1.0 - x, 1.0 - y])
        labels.append(goal)
    return torch.tensor(points, dtype=torch.float64), torch.tensor(labels)


def _class(x: float, y: float) -> int:
    right = np.sqrt((x - 1.5 * RADIUS) ** 2 + (y - RADIUS) ** 2)
    left = np.sqrt((x - 0.5 * RADIUS) ** 2 + (y - RADIUS) ** 2)
    if right < DOT or left < DOT:
        return 2
    return int(right <= DOT or DOT < left <= 0.5 * RADIUS or (y > RADIUS and right > 0.5 * RADIUS))
