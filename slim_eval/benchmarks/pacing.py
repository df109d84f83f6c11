"""When warm-up is over and when enough was measured: rules over what the iterations took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from slim_eval.benchmarks.latency import RESAMPLES, Iteration, iteration_means, mean_interval, throughput_interval
from slim_eval.stats import drift_p_value

WINDOW = 10  # iterations that are tested for drift together
MAX_ROUNDS = 10  # windows that may drift before warm-up is given up
DRIFT_LEVEL = 0.01
MIN_ITERATIONS = 20  # below this no interval is trusted to end a measurement
_MIN_WINDOW = 6  # a perfect trend over 5 values has p = 1/60, which is no drift at `DRIFT_LEVEL`
_QUICK_RESAMPLES = 1_000


def drifts(walls_s: Sequence[float]) -> bool | None:
    """Whether iterations get faster or slower: Kendall's test for a trend, at the level `DRIFT_LEVEL`.

    Args:
        walls_s: Wall times of iterations in their order, seconds.

    Returns:
        None where there are too few of them to tell.
    """
    if len(walls_s) < _MIN_WINDOW:
        return None
    p_value = drift_p_value(walls_s)
    return p_value is not None and p_value < DRIFT_LEVEL


def precise_enough(iterations: Sequence[Iteration], share: float) -> bool:
    """Whether the 95 % intervals of mean TPOT and of throughput are within ± `share` of their value.

    Where there is no TPOT (one token, or an engine that does not say), throughput alone counts. Stopping on a width
    makes the interval slightly too narrow: a run stops a little more often where the spread came out small by chance.
    As the width goes to 0 its coverage is right (Chow & Robbins 1965, doi:10.1214/aoms/1177700156); `MIN_ITERATIONS`
    keeps it close before. The intervals that decide are those of the record.

    Args:
        iterations: What was measured so far.
        share: Half-width / value, a fraction.

    Returns:
        False below `MIN_ITERATIONS`.
    """
    if len(iterations) < MIN_ITERATIONS:
        return False
    # Asked after each iteration: few resamples say no cheaply, and the record's own number of them says yes.
    return all(
        half_width <= share
        for resamples in (_QUICK_RESAMPLES, RESAMPLES)
        for half_width in _relative_half_widths(iterations, resamples)
    )


def _relative_half_widths(iterations: Sequence[Iteration], resamples: int) -> Iterator[float]:
    throughput = throughput_interval(iterations, resamples)
    value = iterations[0].output_tokens / fmean(iteration.wall_s for iteration in iterations) if throughput else 0.0
    yield throughput.half_width / value if throughput else float("inf")
    tpots_s = iteration_means(iterations, "tpot_s")
    if tpots_s is None:
        return
    tpot = mean_interval(iterations, "tpot_s", resamples)
    yield tpot.half_width / fmean(tpots_s) if tpot and fmean(tpots_s) > 0 else float("inf")
