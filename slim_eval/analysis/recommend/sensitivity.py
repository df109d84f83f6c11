"""Sensitivity: the one measurement that could change a recommendation.

In this order:

1. A constraint that was not measured, on a variant that would win by the objective.
2. The measured value whose uncertainty decides the winner of the largest share of the resamples: of those draws in
   which the winner changes if only that value is held at its measured value.
3. An objective that was not measured, on a variant that breaks no constraint.
4. Of the values without an interval, the one whose smallest relative change would change the pick.
"""

from __future__ import annotations

import math

import numpy as np

from slim_eval.analysis.pareto.dominance import Floats
from slim_eval.analysis.recommend.outcome import (
    Candidate,
    CheckState,
    ConstraintCheck,
    Missing,
    NextMeasurement,
    Ranking,
)
from slim_eval.analysis.recommend.ranking import ChoiceSet
from slim_eval.metrics import Basis

# A value that decides a smaller share of the resamples is not worth a measurement.
_LEAST_SHARE = 0.005
# Draws x values held x rows, so that many close rivals take a second or two; but never fewer draws than these.
_WORK, _MIN_DRAWS = 2e7, 500


def find_next_measurement(choice_set: ChoiceSet, ranking: Ranking, draws: Floats) -> NextMeasurement | None:
    """The one measurement that could change the answer of a setting's ranking; None if nothing is known to.

    Draws are ``(draws, n, k)``; they are not read if the ranking has no resamples because no uncertainty is known.
    """
    scores = choice_set.scores(choice_set.numbers())[0]
    return (
        _constraint_not_measured(ranking, scores)
        or (None if ranking.resamples is None else _too_uncertain(choice_set, ranking, draws))
        or _objective_not_measured(ranking)
        or _without_interval(ranking, scores)
    )


def _constraint_not_measured(ranking: Ranking, scores: Floats) -> NextMeasurement | None:
    to_beat = -math.inf if ranking.pick is None else scores[ranking.pick.place]
    rivals = [
        candidate
        for candidate in ranking.candidates
        if candidate.checks_in(CheckState.NOT_MEASURED)
        and not candidate.checks_in(CheckState.VIOLATED)
        and all(reading.value is not None for reading in candidate.objectives)
        and scores[candidate.place] > to_beat
    ]
    if not rivals:
        return None
    rival = max(rivals, key=lambda candidate: scores[candidate.place])
    missing = rival.checks_in(CheckState.NOT_MEASURED)
    titles = " and the ".join(check.reading.metric.title for check in missing)
    limits = " and ".join(str(check.constraint) for check in missing)
    shown = ", ".join(f"{r.metric.title} {r.metric.text(r.value)}" for r in rival.objectives if r.value is not None)
    text = (
        f"Measure the {titles} of {rival.name} ({'; '.join(rival.missing)}): with {shown} it would be the pick if it "
        f"has {limits}."
    )
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
    shares = []
    for index, metric in inputs:
        column = small.table.column(metric)
        drawn = held[:, index, column].copy()
        held[:, index, column] = small.table.values[index, column]
        shares.append(float(np.mean((small.winners(held, running) != winners).any(axis=1))))
        held[:, index, column] = drawn
    decided = max(shares, default=0.0)
    if decided < _LEAST_SHARE:
        return None
    index, metric = inputs[shares.index(decided)]
    name = small.table.variants[index].label
    how = "on more items"
    if metric.basis is not Basis.TASK:
        how = f"over more requests ({'--energy-sample-runs' if metric.is_energy else '--num-runs'})"
    text = (
        f"Measure the {metric.title} of {name} more precisely, {how}: its uncertainty alone decides the winner of "
        f"{decided * 100:.2g} % of the resamples."
    )
    return NextMeasurement(name, metric.key, Missing.PRECISION, decided, None, text)


def _objective_not_measured(ranking: Ranking) -> NextMeasurement | None:
    for candidate in ranking.candidates:
        missing = [reading.metric for reading in candidate.objectives if reading.value is None]
        if missing and not candidate.checks_in(CheckState.VIOLATED):
            text = f"Measure the {missing[0].title} of {candidate.name}: without it, the variant could not be compared."
            return NextMeasurement(candidate.name, missing[0].key, Missing.MEASUREMENT, None, None, text)
    return None


def _without_interval(ranking: Ranking, scores: Floats) -> NextMeasurement | None:
    """The closest call among values without a known uncertainty."""
    pick = ranking.pick
    calls: list[NextMeasurement | None] = []
    for candidate in ranking.candidates:
        broken = candidate.checks_in(CheckState.VIOLATED)
        if candidate is pick:
            calls += [_at_limit(candidate, check) for check in candidate.checks]
        elif candidate.excluded is None and candidate.keeps_all and pick is not None:
            gap = float(scores[pick.place] - scores[candidate.place])
            calls.append(_overtaking(ranking, pick, candidate, gap))
        elif (
            len(broken) == 1
            and not candidate.checks_in(CheckState.NOT_MEASURED)
            and (pick is None or scores[candidate.place] > scores[pick.place])
        ):
            calls.append(_at_limit(candidate, broken[0]))
    known = [call for call in calls if call is not None]
    return min(known, key=lambda call: abs(math.log1p(call.change or 0.0)), default=None)


def _at_limit(candidate: Candidate, check: ConstraintCheck) -> NextMeasurement | None:
    """A value that, beyond its limit or within it, would change the pick; None if exact or with an interval."""
    metric, limit, value = check.reading.metric, check.constraint.limit, check.reading.value
    if not value or check.reading.low is not None or metric.exact:
        return None
    beyond, within = ("above", "down to") if check.constraint.at_most else ("below", "from")
    change = f"{within} {metric.text(limit)} it would be the pick"
    if check.state is not CheckState.VIOLATED:
        change = f"{beyond} {metric.text(limit)} it would be out"
    text = f"Measure the {metric.title} of {candidate.name} with an interval: it is {metric.text(value)}, and {change}."
    return NextMeasurement(candidate.name, metric.key, Missing.INTERVAL, None, limit / value - 1, text)


def _overtaking(ranking: Ranking, pick: Candidate, rival: Candidate, gap: float) -> NextMeasurement | None:
    """The value with which a rival would win, in the part in which it trails most."""
    trails = []
    for objective, own, best in zip(ranking.objectives, rival.objectives, pick.objectives, strict=True):
        if own.value and best.value and own.low is None and not own.metric.exact:
            lead = best.value / own.value
            trails.append((lead if objective.maximise else 1 / lead, own.value, objective))
    if not trails:
        return None
    lead, value, objective = max(trails, key=lambda trail: trail[0])
    # One of several parts has to make up for the whole gap between the means of the logarithms.
    factor = lead if len(ranking.objectives) == 1 else math.exp(gap * len(ranking.objectives))
    change, metric = (factor if objective.maximise else 1 / factor) - 1, objective.metric
    text = (
        f"Measure the {metric.title} of {rival.name} and {pick.name} with intervals: at "
        f"{metric.text(value * (1 + change))} instead of {metric.text(value)}, {rival.name} would be the pick."
    )
    return NextMeasurement(rival.name, metric.key, Missing.INTERVAL, None, change, text)
