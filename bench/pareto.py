"""Pareto frontiers and the probabilities of being on them, against other ways to compute them in the same run.

1. 100,000 points in two objectives, against plain O(n²) NumPy. Target: under 0.2 s.
2. 5,000 points in four objectives, likewise. Target: under 1 s.
3. 2,000 draws of 4 to 200 variants in four objectives: all pairs of many draws at once in NumPy, as slim-eval does for
   few variants, against one call of moocore per draw, as it does for many.

The frontiers are measured with random points, few of which are on the frontier, and in the worst case, with all points
on it. Plain NumPy needs tens of seconds for the large problem, so it runs once. Both ways must find the same points.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from slim_eval.analysis.pareto import dominance
from slim_eval.analysis.pareto.dominance import DRAWS, Bools, Floats, non_dominated, share_non_dominated

ROUNDS = 9


def plain(values: Floats, maximise: Sequence[bool]) -> Bools:
    """Compare each point with all others, column by column: the fastest way in NumPy without sorting."""
    columns = np.where(maximise, -values, values).T.copy()
    result = np.empty(len(values), dtype=np.bool_)
    for i, point in enumerate(columns.T):
        no_worse, better = columns[0] <= point[0], columns[0] < point[0]
        for column, value in zip(columns[1:], point[1:], strict=True):
            no_worse &= column <= value
            better |= column < value
        result[i] = not (no_worse & better).any()
    return result


def moocore_shares(draws: Floats, maximise: Sequence[bool]) -> Floats:
    """The share of draws in which each variant is not dominated, by one call of moocore per draw."""
    found = [moocore.is_nondominated(draw, maximise=list(maximise), keep_weakly=True) for draw in draws]
    return np.asarray(np.mean(found, axis=0))


def seconds(
    find: Callable[[Floats, Sequence[bool]], NDArray[np.generic]], values: Floats, maximise: Sequence[bool], rounds: int
) -> tuple[float, NDArray[np.generic]]:
    """Median wall time of some calls, in seconds, and the result."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = find(values, maximise)
        times.append(time.perf_counter() - start)
    return statistics.median(times), found


def compare_frontiers(title: str, values: Floats, target_s: float) -> None:
    """Print the median of several calls against one call of the plain version."""
    maximise = [False] * values.shape[1]
    other, expected = seconds(plain, values, maximise, 1)
    mine, found = seconds(non_dominated, values, maximise, ROUNDS)
    if not np.array_equal(found, expected):
        raise SystemExit(f"{title}: the two versions disagree")
    print(
        f"{title}, {expected.sum():,} on the frontier: {mine:.4f} s (target: under {target_s:g} s), "
        f"plain NumPy {other:.2f} s: ratio {mine / other:.5f}"
    )


def compare_draws(n: int, d: int = 4) -> None:
    """Print the medians of both ways to compute probabilities."""
    draws, maximise = np.random.default_rng(0).random((DRAWS, n, d)), [False] * d
    dominance._PAIRWISE_POINTS = n
    pairwise, expected = seconds(share_non_dominated, draws, maximise, ROUNDS)
    single, found = seconds(moocore_shares, draws, maximise, ROUNDS)
    if not np.allclose(found, expected):
        raise SystemExit(f"{n} variants: the two versions disagree")
    print(
        f"{DRAWS:,} draws of {n} variants in {d} objectives: all pairs {pairwise:.4f} s, moocore per draw "
        f"{single:.4f} s: ratio {pairwise / single:.2f}"
    )


def main() -> None:
    """Measure frontiers of both sizes, with random points and in the worst case, then probabilities."""
    rng = np.random.default_rng(0)
    line = rng.random(100_000)
    compare_frontiers("100,000 random points in 2 objectives", rng.random((100_000, 2)), 0.2)
    compare_frontiers("100,000 points of a line in 2 objectives", np.column_stack([line, 1 - line]), 0.2)
    compare_frontiers("5,000 random points in 4 objectives", rng.random((5_000, 4)), 1)
    compare_frontiers("5,000 points of a simplex in 4 objectives", rng.dirichlet(np.ones(4), 5_000), 1)
    for n in (4, 13, 32, 64, 200):
        compare_draws(n)


if __name__ == "__main__":
    main()
