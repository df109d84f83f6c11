"""Pareto frontiers against a plain O(n²) NumPy version in the same run.

1. 100,000 points in two objectives. Target: under 0.2 s.
2. 5,000 points in four objectives. Target: under 1 s.

Each size is measured with random points, few of which are on the frontier, and in the worst case, with all points on
it. The plain version needs tens of seconds for the large problem, so it runs once. Both must find the same points.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from slim_eval.analysis.pareto.dominance import Bools, Floats, non_dominated

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


def seconds(
    find: Callable[[Floats, Sequence[bool]], Bools], values: Floats, maximise: Sequence[bool]
) -> tuple[float, Bools]:
    """Wall time of one call, in seconds, and its result."""
    start = time.perf_counter()
    found = find(values, maximise)
    return time.perf_counter() - start, found


def compare(title: str, values: Floats, target_s: float) -> None:
    """Print the median of several calls against one call of the plain version."""
    maximise = [False] * values.shape[1]
    other, expected = seconds(plain, values, maximise)
    calls = [seconds(non_dominated, values, maximise) for _ in range(ROUNDS)]
    if not all(np.array_equal(found, expected) for _, found in calls):
        raise SystemExit(f"{title}: the two versions disagree")
    mine = statistics.median(took for took, _ in calls)
    print(
        f"{title}, {expected.sum():,} on the frontier: {mine:.4f} s (target: under {target_s:g} s), "
        f"plain NumPy {other:.2f} s: ratio {mine / other:.5f}"
    )


def main() -> None:
    """Measure both sizes, with random points and in the worst case."""
    rng = np.random.default_rng(0)
    line = rng.random(100_000)
    compare("100,000 random points in 2 objectives", rng.random((100_000, 2)), 0.2)
    compare("100,000 points of a line in 2 objectives", np.column_stack([line, 1 - line]), 0.2)
    compare("5,000 random points in 4 objectives", rng.random((5_000, 4)), 1)
    compare("5,000 points of a simplex in 4 objectives", rng.dirichlet(np.ones(4), 5_000), 1)


if __name__ == "__main__":
    main()
