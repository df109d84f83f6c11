"""Sensitivity: the one measurement that could change a recommendation.

In this order:

1. A constraint that was not measured, on a configuration that would win by the objective.
2. The measured value whose uncertainty decides the winner of the largest share of the resamples: of those draws in
   which the winner changes if only that value is held at its measured value.
3. An objective that was not measured, on a configuration that breaks no constraint.
4. Of the values without an interval, the one whose smallest relative change would change the pick.
"""

from __future__ import annotations

import math

import numpy as np

from slim_eval.analysis.pareto.dominance import Floats
from slim_eval.analysis.recommend.outcome import (
    Candidate,
    Check,
    CheckState,
    Missing,
    NextMeasurement,
    Ranking,
    Reading,
)
from slim_eval.analysis.recommend.ranking import ChoiceSet
from slim_eval.metrics import Basis, Metric

# A value that decides a smaller share of the resamples is not worth a measurement.
_LEAST_SHARE = 0.005
# Draws x values held x rows, so that many close rivals take a second or two; but never fewer draws than these.
_WORK, _MIN_DRAWS = 2e7, 500


def find_next_measurement(choice_set: ChoiceSet, ranking: Ranking, draws: Floats | None) -> NextMeasurement | None:
    """The one measurement that could change the answer; None if nothing is known to.

    Args:
        choice_set: The setting that gives the answer.
        ranking: Its ranking.
        draws: Resamples, ``(draws, n, k)``; None if no uncertainty is known.
    """
    return (
        _constraint_not_measured(choice_set, ranking)
        or (None if draws is None else _too_uncertain(choice_set, ranking, draws))
        or _objective_not_measured(ranking)
        or _without_interval(choice_set, ranking)
    )


def _constraint_not_measured(choice_set: ChoiceSet, ranking: Ranking) -> NextMeasurement | None:
    scores = choice_set.scores(choice_set.numbers(choice_set.point))[0]
    to_beat = -math.inf if ranking.pick is None else scores[ranking.pick.place]
    rivals = [
        candidate
        for candidate in ranking.candidates
        if _unmeasured(candidate)
        and not _broken(candidate)
        and all(reading.value is not None for reading in candidate.objectives)
        and scores[candidate.place] > to_beat
    ]
    if not rivals:
        return None
    rival = max(rivals, key=lambda candidate: scores[candidate.place])
    missing = _unmeasured(rival)
    titles = " and the ".join(check.reading.metric.title for check in missing)
    what = f"{titles} of {rival.name} ({'; '.join(rival.missing)})"
    limits = " and ".join(str(check.constraint) for check in missing)
    text = f"Measure the {what}: with {_shown(rival)} it would be the pick if it has {limits}."
    return NextMeasurement(rival.name, missing[0].reading.metric.key, Missing.MEASUREMENT, None, None, text)


def _too_uncertain(choice_set: ChoiceSet, ranking: Ranking, draws: Floats) -> NextMeasurement | None:
    """Among variants that win sometimes; the others decide nothing and may be very many."""
    close = [c.place for c in ranking.running if c is ranking.pick or (c.wins or 0) >= _LEAST_SHARE]
    rows = choice_set.relevant(close, draws)
    small, running = choice_set.subset(rows), range(len(close))
    inputs = small.uncertain(range(len(rows)))
    count = max(_MIN_DRAWS, int(_WORK / max(len(inputs) * len(rows), 1)))
    held = draws[:count, rows]
    winners = small.winners(held, running)
    best: tuple[float, int, Metric] | None = None
    for index, metric in inputs:
        column = small.table.column(metric)
        drawn = held[:, index, column].copy()
        held[:, index, column] = small.table.values[index, column]
        decided = float(np.mean((small.winners(held, running) != winners).any(axis=1)))
        held[:, index, column] = drawn
        if best is None or decided > best[0]:
            best = decided, index, metric
    if best is None or best[0] < _LEAST_SHARE:
        return None
    decided, index, metric = best
    name = small.table.variants[index].label
    text = (
        f"Measure the {metric.title} of {name} more precisely, {_how(metric)}: its uncertainty alone decides the "
        f"winner of {decided * 100:.2g} % of the resamples."
    )
    return NextMeasurement(name, metric.key, Missing.PRECISION, decided, None, text)


def _objective_not_measured(ranking: Ranking) -> NextMeasurement | None:
    for candidate in ranking.candidates:
        missing = [reading.metric for reading in candidate.objectives if reading.value is None]
        if missing and not _broken(candidate):
            text = f"Measure the {missing[0].title} of {candidate.name}: without it, the variant could not be compared."
            return NextMeasurement(candidate.name, missing[0].key, Missing.MEASUREMENT, None, None, text)
    return None


def _without_interval(choice_set: ChoiceSet, ranking: Ranking) -> NextMeasurement | None:
    """The closest call among values without a known uncertainty."""
    pick = ranking.pick
    scores = choice_set.scores(choice_set.numbers(choice_set.point))[0]
    calls: list[NextMeasurement] = []
    for candidate in ranking.candidates:
        if candidate is pick:
            calls += [_at_limit(candidate, check, "out") for check in candidate.checks if _is_open(check)]
        elif candidate.excluded is None and candidate.keeps_all and pick is not None:
            calls += _overtaking(choice_set, pick, candidate, float(scores[pick.place] - scores[candidate.place]))
        elif candidate.excluded is not None and len(_broken(candidate)) == 1 and not _unmeasured(candidate):
            check = _broken(candidate)[0]
            if _is_open(check) and (pick is None or scores[candidate.place] > scores[pick.place]):
                calls.append(_at_limit(candidate, check, "the pick"))
    return min(calls, key=lambda call: abs(math.log1p(call.change or 0.0)), default=None)


def _at_limit(candidate: Candidate, check: Check, then: str) -> NextMeasurement:
    """A value that, beyond a limit (`then` is "out") or within it, would change the pick."""
    metric, limit = check.reading.metric, check.constraint.limit
    beyond, within = ("above", "down to") if check.constraint.at_most else ("below", "from")
    side = beyond if then == "out" else within
    text = (
        f"Measure the {metric.title} of {candidate.name} with an interval: it is "
        f"{metric.text(check.reading.value or 0)}, and {side} {metric.text(limit)} it would be {then}."
    )
    return NextMeasurement(
        candidate.name, metric.key, Missing.INTERVAL, None, limit / (check.reading.value or 1) - 1, text
    )


def _overtaking(choice_set: ChoiceSet, pick: Candidate, rival: Candidate, gap: float) -> list[NextMeasurement]:
    """The value with which a rival would win, in the part in which it trails most."""
    trails: list[tuple[float, Reading, bool]] = []
    for objective, own, best in zip(choice_set.objectives, rival.objectives, pick.objectives, strict=True):
        if own.value and best.value and own.low is None and not objective.metric.exact:
            lead = best.value / own.value
            trails.append((lead if objective.maximise else 1 / lead, own, objective.maximise))
    if not trails:
        return []
    lead, own, maximise = max(trails, key=lambda trail: trail[0])
    # One of several parts has to make up for the whole gap between the means of the logarithms.
    factor = lead if len(choice_set.objectives) == 1 else math.exp(gap * len(choice_set.objectives))
    change = (factor if maximise else 1 / factor) - 1
    value = own.value or 0.0
    text = (
        f"Measure the {own.metric.title} of {rival.name} and {pick.name} with intervals: at "
        f"{own.metric.text(value * (1 + change))} instead of {own.metric.text(value)}, {rival.name} would be the pick."
    )
    return [NextMeasurement(rival.name, own.metric.key, Missing.INTERVAL, None, change, text)]


def _unmeasured(candidate: Candidate) -> list[Check]:
    return [check for check in candidate.checks if check.state is CheckState.NOT_MEASURED]


def _broken(candidate: Candidate) -> list[Check]:
    return [check for check in candidate.checks if check.state is CheckState.VIOLATED]


def _is_open(check: Check) -> bool:
    """Whether a value could differ on measurement, by an unknown amount."""
    return bool(check.reading.value) and check.reading.low is None and not check.reading.metric.exact


def _shown(candidate: Candidate) -> str:
    return ", ".join(f"{r.metric.title} {r.metric.text(r.value)}" for r in candidate.objectives if r.value is not None)


def _how(metric: Metric) -> str:
    if metric.basis is Basis.TASK:
        return "on more items"
    return f"over more requests ({'--energy-sample-runs' if metric.is_energy else '--num-runs'})"
