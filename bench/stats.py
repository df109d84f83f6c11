"""Statistics of a comparison: bootstrap intervals against SciPy's, and the paired statistics of three whole tasks.

Targets: 10,000 resamples of 500 iterations in under 0.1 s and at most half of SciPy's time; the paired statistics of
three tasks with 25,403 items in under 1 s.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from slim_eval.stats import answer_kl, bootstrap_interval, bootstrap_ratio, holm, mcnemar_p_value, paired_difference

ROUNDS = 7
RESAMPLES = 10_000
ITERATIONS = 500
TASKS = {"mmlu": 14_042, "gsm8k": 1_319, "hellaswag": 10_042}
SUBJECTS = 57
CHOICES = 4
FLIPS = 0.1


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bootstraps() -> None:
    """Time the interval of a mean and of a ratio of means."""
    rng = np.random.default_rng(0)
    above, below = rng.lognormal(0, 0.3, ITERATIONS), rng.lognormal(0, 0.3, ITERATIONS)
    works: dict[str, Callable[[], object]] = {
        "mean": lambda: bootstrap_interval(above, resamples=RESAMPLES),
        "ratio": lambda: bootstrap_ratio(above, below, resamples=RESAMPLES),
    }
    for name, work in works.items():
        work()  # the first call imports
        taken = statistics.median(seconds(work) for _ in range(ROUNDS))
        print(f"{name}, {RESAMPLES:,} resamples of {ITERATIONS} iterations: {taken:.3f} s (target: under 0.3 s)")


def comparison() -> Callable[[], object]:
    """One call that computes the paired statistics of all tasks, on answers that are generated here."""
    rng = np.random.default_rng(0)
    runs = []
    for task, items in TASKS.items():
        a = rng.random(items) < 0.6
        b = np.where(rng.random(items) < FLIPS, ~a, a)
        subjects = [f"subject {number}" for number in rng.integers(0, SUBJECTS, items)] if task == "mmlu" else None
        p = rng.normal(-10, 2, (items, CHOICES))
        q = p + rng.normal(0, 0.3, (items, CHOICES))
        runs.append((a.astype(float).tolist(), b.astype(float).tolist(), subjects, p.tolist(), q.tolist()))

    def compare() -> object:
        found = [paired_difference(a, b, subjects) for a, b, subjects, _, _ in runs]
        tests = [mcnemar_p_value(each.lost or 0, each.gained or 0) for each in found]
        return found, holm(tests), [answer_kl(p, q) for _, _, _, p, q in runs]

    return compare


def main() -> None:
    """Run both benchmarks."""
    bootstraps()
    compare = comparison()
    first = seconds(compare)  # imports SciPy
    taken = statistics.median(seconds(compare) for _ in range(ROUNDS))
    items = sum(TASKS.values())
    print(f"paired statistics of {items:,} items: {taken:.3f} s (target: under 1 s), first call {first:.3f} s")


if __name__ == "__main__":
    main()
