"""Which configuration to deploy for given wishes, how sure that is, and what could change the answer.

    from slim_eval.analysis.recommend.recommendation import recommend

    advice = recommend(rows_of(variants), Wishes(preset="balanced", min_recovery=0.98))

A configuration is out if it lacks a number that was asked for, or surely breaks a constraint: all of its 95 % interval
lies beyond the limit. What cannot be told stays in. Of those that keep every constraint by their values (where none
does, of all that are in) the best by the objective is the pick. Configurations measured in different settings are not
ranked together: the setting with the most configurations that are in gives the answer, the others their own picks.

How sure: every measured value is drawn anew from its interval, and each draw is decided by the same rules. The pick is
as sure as the share of draws that it wins; draws in which nothing keeps the constraints are won by none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slim_eval.analysis.pareto.dominance import Bools, Floats, affordable_draws
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN, Objective, with_accuracy_mean
from slim_eval.analysis.recommend.advice import (
    Advice,
    Candidate,
    Check,
    CheckState,
    Costs,
    Ranking,
    Reading,
    Relaxation,
)
from slim_eval.analysis.recommend.candidates import Field, Numbers, field_of, gpus_of
from slim_eval.analysis.recommend.contest import Contest, shares
from slim_eval.analysis.recommend.cost import (
    Prices,
    joules_per_correct_answer,
    money_per_correct_answer,
    money_per_million_tokens,
)
from slim_eval.analysis.recommend.decisive import decisive_measurement
from slim_eval.analysis.recommend.reservations import reservations
from slim_eval.analysis.recommend.settings import groups_of, ranked_columns
from slim_eval.analysis.recommend.wishes import RECOVERY, Constraint, Goal, label, plan_of, said
from slim_eval.analysis.rules import lengths_differ
from slim_eval.config import RecommendConfig, Wishes
from slim_eval.errors import UsageError
from slim_eval.results.rows import Row, rows_of
from slim_eval.results.store import find_results

DRAWS = 4000
_NOTHING_FOUND = "run `slim-eval run` first, or give the folder that holds its results with --input-dir"
# Times of a whole request or iteration: of unequal work where outputs are of unequal length.
_OF_A_REQUEST = {
    f"{kind}{key}"
    for key in ("latency_s", "e2e_latency_s")
    for kind in ("mean_" if key == "latency_s" else "", "median_", "p95_", "p99_")
}
_PER_TOKEN = Objective("tokens_per_second", True)


def advise(config: RecommendConfig) -> Advice:
    """Read results and recommend one of them.

    Raises:
        UsageError: The folder is missing or holds no measurement, or a wish names something unknown.
    """
    results = find_results(_folder(config.input_dir))
    variants = [variant for variant in results.variants if variant.records]
    if not variants:
        raise UsageError(f"{config.input_dir}: holds no measurement", _NOTHING_FOUND)
    advice = recommend(rows_of(variants), config.wishes)
    return replace(advice, caveats=(*advice.caveats, *results.problems))


def recommend(rows: Sequence[Row], wishes: Wishes, *, draws: int = DRAWS, seed: int = 0) -> Advice:
    """The configuration to deploy.

    Args:
        rows: As `rows.rows_of` makes them.
        wishes: What it has to do, and what it should be best at. See `wishes` for the presets.
        draws: Resamples; fewer where there are very many configurations.
        seed: Of the resamples.

    Returns:
        Advice without a pick where nothing keeps the constraints.

    Raises:
        UsageError: There is no row, or a wish names a preset, objective or task that is not known.
    """
    if not rows:
        raise UsageError("there is no configuration to choose from", _NOTHING_FOUND)
    plan = plan_of(wishes, rows)
    prices = Prices(wishes.price_per_gpu_hour, wishes.price_per_kwh)
    field = field_of(with_accuracy_mean(rows, plan.tasks), plan, prices)
    judged = []
    for setting, members in groups_of(field.rows, ranked_columns(plan, field.tasks, prices)).items():
        contest = Contest(field, tuple(members), _objectives(plan.goal, field, members), plan.constraints)
        judged.append(_judged(contest, setting, draws, seed))
    judged.sort(key=lambda one: (-len(one.ranking.running), -len(one.contest.members)))
    first, rankings = judged[0], [one.ranking for one in judged]
    return Advice(
        goal=plan.goal,
        constraints=plan.constraints,
        tasks=field.tasks,
        ranking=first.ranking,
        others=tuple(rankings[1:]),
        decisive=decisive_measurement(first.contest, first.ranking, first.draws),
        closest=None if any(ranking.running for ranking in rankings) else _closest(rankings),
        caveats=tuple(reservations(plan.goal, plan.constraints, rankings, prices)),
    )


@dataclass(frozen=True)
class _Judged:
    """A setting with its ranking and the draws that it was judged by; None where no uncertainty is known."""

    contest: Contest
    ranking: Ranking
    draws: Floats | None


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder", _NOTHING_FOUND)
    return path


def _objectives(goal: Goal, field: Field, members: Sequence[int]) -> tuple[Objective, ...]:
    """Of each part the first option that was measured here; of several parts those without any are left out."""

    def known(objective: Objective) -> bool:
        return any(field.lacking(index, objective.key) is None for index in members)

    found = []
    for part in goal.parts:
        option = next((objective for objective in part if known(objective)), None)
        if option is not None and _unequal_work(option, field, members) and known(_PER_TOKEN):
            option = _PER_TOKEN
        if option is not None or len(goal.parts) == 1:
            found.append(option or part[0])
    return tuple(found) or (goal.parts[0][0],)


def _unequal_work(objective: Objective, field: Field, members: Sequence[int]) -> bool:
    """Whether a time would be compared between requests that had different numbers of output tokens."""
    if objective.maximise or objective.key not in _OF_A_REQUEST:
        return False
    rows = [field.rows[index] for index in members if field.lacking(index, objective.key) is None]
    return any(lengths_differ(row, rows[0]) for row in rows)


def _judged(contest: Contest, setting: str, draws: int, seed: int) -> _Judged:
    """Rank the configurations of a setting, and draw them anew where uncertainties are known."""
    field, point = contest.field, contest.numbers(contest.point)
    made = field.draws(affordable_draws(field.values.shape, draws), seed)
    drawn = contest.numbers(made)
    candidates = {index: _candidate(contest, index, point, drawn) for index in contest.members}
    running = [index for index, candidate in candidates.items() if candidate.excluded is None]
    score, kept = contest.scores(point)[0], contest.kept(point)[0]
    running.sort(key=lambda index: (not kept[index], -score[index]))
    candidates |= _balanced(contest, candidates, running, score, kept)
    out = [index for index in contest.members if index not in running]
    wins, unfulfilled = None, None
    uncertain = bool(running) and bool(contest.uncertain(contest.relevant(running, made)))
    if uncertain:
        winners = contest.winners(made, running)
        wins, unfulfilled = shares(winners), float(np.mean(~winners.any(axis=1)))
        candidates |= {i: replace(candidates[i], wins=float(w)) for i, w in zip(running, wins, strict=True)}
    ranking = Ranking(
        setting=setting,
        objectives=contest.objectives,
        candidates=tuple(candidates[index] for index in (*running, *out)),
        resamples=len(made) if uncertain else None,
        unfulfilled=unfulfilled,
    )
    return _Judged(contest, ranking, made if uncertain else None)


def _candidate(contest: Contest, index: int, point: Numbers, drawn: Numbers) -> Candidate:
    field = contest.field
    objectives = tuple(_reading(field, index, objective.key, point, drawn) for objective in contest.objectives)
    checks = tuple(_check(field, index, constraint, point, drawn) for constraint in contest.constraints)
    found = (field.lacking(index, objective.key) for objective in contest.objectives)
    lacks = tuple(dict.fromkeys(filter(None, (*found, *(check.why for check in checks)))))
    reasons = (*lacks, *filter(None, map(_breaks, checks)))
    base = field.bases[index]
    recovered = any(constraint.key == RECOVERY for constraint in contest.constraints)
    return Candidate(
        place=index,
        row=field.rows[index],
        objectives=objectives,
        balance=None,
        checks=checks,
        lacks=lacks,
        recoveries={t: _recovery(field, index, base, t) for t in field.tasks} if recovered else {},
        excluded="; ".join(reasons) or None,
        wins=None,
        costs=_costs(field.rows[index], field.prices),
    )


def _reading(field: Field, index: int, key: str, point: Numbers, drawn: Numbers) -> Reading:
    value = float(point[key][0, index])
    if math.isnan(value):
        return Reading(key, None)
    low, high = field.ends(index, key, drawn[key]) or (None, None)
    return Reading(key, value, low, high)


def _check(field: Field, index: int, constraint: Constraint, point: Numbers, drawn: Numbers) -> Check:
    reading = _reading(field, index, constraint.key, point, drawn)
    if reading.value is None:
        why = field.lacking(index, constraint.key) or f"not measured: {constraint.key}"
        return Check(constraint, reading, CheckState.NOT_MEASURED, why)
    ends = (
        (reading.value, reading.value) if reading.low is None or reading.high is None else (reading.low, reading.high)
    )
    kept = {constraint.keeps(end) for end in ends}
    state = CheckState.CANNOT_TELL if len(kept) > 1 else (CheckState.SATISFIED if True in kept else CheckState.VIOLATED)
    return Check(constraint, reading, state)


def _breaks(check: Check) -> str | None:
    """In words how a constraint is broken; None where it is not."""
    if check.state is not CheckState.VIOLATED or check.reading.value is None:
        return None
    constraint, key = check.constraint, check.constraint.key
    side = "more" if constraint.at_most else "less"
    return f"{label(key)} {said(key, check.reading.value)}, {side} than {said(key, constraint.limit)}"


def _recovery(field: Field, index: int, base: int | None, task: str) -> float | None:
    if base is None or task not in field.columns:
        return None
    here, there = (float(field.values[row, field.columns.index(task)]) for row in (index, base))
    return here / there if there and not math.isnan(here / there) else None


def _costs(row: Row, prices: Prices) -> Costs:
    gpus, joules, accuracy = gpus_of(row) or 1, row["energy_per_query_j"], row[ACCURACY_MEAN]
    joules = None if row["valid"] is False else joules
    per_token = None if row["valid"] is False else row["joules_per_output_token"]
    return Costs(
        money_per_million_tokens=money_per_million_tokens(row["tokens_per_second"] or None, per_token, prices, gpus),
        joules_per_correct_answer=joules_per_correct_answer(joules, accuracy),
        money_per_correct_answer=money_per_correct_answer(row["mean_latency_s"], joules, accuracy, prices, gpus),
    )


def _balanced(
    contest: Contest, candidates: dict[int, Candidate], running: Sequence[int], score: Floats, kept: Bools
) -> dict[int, Candidate]:
    """The candidates in the running with their balance, where the objective has several parts."""
    if len(contest.objectives) < 2 or not running:
        return {}
    fair = [index for index in running if kept[index]] or list(running)
    logs = []
    for part, objective in enumerate(contest.objectives):
        values = {index: candidates[index].objectives[part].value for index in fair}
        best = (max if objective.maximise else min)(value for value in values.values() if value is not None)
        if best <= 0:
            return {}
        logs.append(math.log(best) if objective.maximise else -math.log(best))
    top = sum(logs) / len(logs)
    return {index: replace(candidates[index], balance=math.exp(score[index] - top)) for index in running}


def _closest(rankings: Sequence[Ranking]) -> Relaxation | None:
    """Of the configurations with every number the one whose worst breach is the smallest part of its limit."""
    complete = [
        candidate
        for ranking in rankings
        for candidate in ranking.candidates
        if all(reading.value is not None for reading in (*candidate.objectives, *(c.reading for c in candidate.checks)))
    ]
    if not complete:
        return None

    def worst(candidate: Candidate) -> float:
        return max(_breach(check) for check in candidate.checks)

    nearest = min(complete, key=worst)
    broken = [check for check in nearest.checks if check.state is CheckState.VIOLATED]
    words = [f"{_breaks(check)} ({_breach(check) * 100:.2g} % beyond the limit)" for check in broken]
    options = [check.constraint.relaxed(check.reading.value) for check in broken if check.reading.value is not None]
    return Relaxation(nearest.name, tuple(options), f"the closest is {nearest.name}: {'; '.join(words)}")


def _breach(check: Check) -> float:
    """How far a value is beyond its limit, as a share of the limit; 0 or less within it."""
    value, limit = check.reading.value, check.constraint.limit
    if value is None:
        return math.inf
    gap = value - limit if check.constraint.at_most else limit - value
    return gap / limit if limit else math.inf
