"""Which variant to deploy for a question, with what confidence, and what could change the answer.

    from slim_eval.analysis.recommend.recommendation import recommend

    found = recommend(Study.of(variants), Question(preset="balanced", min_recovery=0.98))

A variant is out if a requested number is missing, or if its whole 95 % interval is beyond a limit. An inconclusive one
stays in. Among those whose values meet every constraint (if none does, among all that are in), the best by the
objective is the pick. Variants measured in different settings are not ranked together: the setting with the most
variants that are in gives the answer; the others have picks of their own.

Confidence: every measured value is redrawn from its interval, and each draw is decided by the same rules. The
confidence of the pick is the share of draws that it wins; draws in which nothing meets the constraints have no winner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slim_eval.analysis.caveats import EMULATED
from slim_eval.analysis.comparability import LENGTH_TOLERANCE, lengths_differ
from slim_eval.analysis.pareto.dominance import Bools, Floats, affordable_draws
from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.cost import (
    Prices,
    joules_per_correct_answer,
    money_per_correct_answer,
    money_per_million_tokens,
)
from slim_eval.analysis.recommend.outcome import (
    Candidate,
    Check,
    CheckState,
    Costs,
    Ranking,
    Reading,
    Recommendation,
    Relaxation,
)
from slim_eval.analysis.recommend.question import MEMORY, OF_BEST, RECOVERY, Constraint, Goal, plan_of
from slim_eval.analysis.recommend.ranking import (
    ChoiceSet,
    Numbers,
    Table,
    estimate_of,
    num_gpus,
    setting_groups,
    win_shares,
)
from slim_eval.analysis.recommend.sensitivity import find_next_measurement
from slim_eval.analysis.study import Study
from slim_eval.config import Question, RecommendConfig
from slim_eval.errors import UsageError
from slim_eval.metrics import (
    ACCURACY_MEAN,
    AMORTISED,
    DISK,
    E2E,
    J_PER_REQUEST,
    J_PER_TOKEN,
    THROUGHPUT,
    TPOT,
    Basis,
    Metric,
)
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant, with_accuracy_mean
from slim_eval.schemes import SCHEMES

DRAWS = 4000
_NOTHING_FOUND = "run `slim-eval run` first, or give the folder that contains its results with --input-dir"
_PER_TOKEN = Objective(THROUGHPUT, True)
_SIZE_TOLERANCE = 0.02


def recommend_from(config: RecommendConfig) -> Recommendation:
    """Read results and recommend one of them; what `slim-eval recommend` does.

    Raises:
        UsageError: The folder is missing or has no measurements, or the question contains something unknown.
    """
    if not config.input_dir.is_dir():
        raise UsageError(f"{config.input_dir}: no such folder", _NOTHING_FOUND)
    results = find_results(config.input_dir)
    variants = [variant for variant in results.variants if variant.records]
    if not variants:
        raise UsageError(f"{config.input_dir}: contains no measurements", _NOTHING_FOUND)
    found = recommend(Study.of(variants), config.question)
    return replace(found, caveats=(*found.caveats, *results.problems))


def recommend(study: Study, question: Question, *, draws: int = DRAWS, seed: int = 0) -> Recommendation:
    """Recommend the variant to deploy.

    Args:
        study: What was measured.
        question: What the variant must meet, and what to optimize. See `question` for the presets.
        draws: Resamples; fewer if there are very many variants.
        seed: Random seed of the resamples.

    Returns:
        A recommendation; without a pick if nothing meets the constraints.

    Raises:
        UsageError: There is no variant, or the question names a preset, objective or task that is not known.
    """
    if not study.variants:
        raise UsageError("there is no variant to choose from", _NOTHING_FOUND)
    plan = plan_of(question, study)
    prices = Prices(question.price_per_gpu_hour, question.price_per_kwh)
    chosen = _with_mean_over(study, plan.tasks)
    table = Table.of(chosen, plan, prices)
    ranked = []
    for setting, members in setting_groups(table, plan).items():
        choice_set = ChoiceSet(table, tuple(members), _objectives(plan.goal, table, members), plan.constraints)
        ranked.append(_rank(choice_set, setting, draws, seed))
    ranked.sort(key=lambda one: (-len(one.ranking.running), -len(one.choice_set.members)))
    first, rankings = ranked[0], [one.ranking for one in ranked]
    return Recommendation(
        goal=plan.goal,
        constraints=plan.constraints,
        tasks=table.tasks,
        ranking=first.ranking,
        others=tuple(rankings[1:]),
        next_measurement=find_next_measurement(first.choice_set, first.ranking, first.draws),
        closest=None if any(ranking.running for ranking in rankings) else _closest(rankings),
        caveats=tuple(_caveats(_Case(plan.goal, plan.constraints, rankings[0], tuple(rankings[1:]), prices, chosen))),
    )


def _with_mean_over(study: Study, tasks: Sequence[str]) -> Study:
    """The study with one mean accuracy over the same tasks in every setting: accuracies are ranked across them."""
    bare = [replace(variant, derived={}, mean_tasks=()) for variant in study.variants]
    return replace(study, variants=tuple(with_accuracy_mean(bare, tasks)), tasks=tuple(tasks))


@dataclass(frozen=True)
class _Ranked:
    """A setting with its ranking and the draws that it was ranked by; None if no uncertainty is known."""

    choice_set: ChoiceSet
    ranking: Ranking
    draws: Floats | None


def _objectives(goal: Goal, table: Table, members: Sequence[int]) -> tuple[Objective, ...]:
    """Of each part the first option that was measured here; of several parts those without any are left out."""

    def known(objective: Objective) -> bool:
        return any(table.missing(index, objective.metric) is None for index in members)

    found = []
    for part in goal.parts:
        option = next((objective for objective in part if known(objective)), None)
        if option is not None and _unequal_work(option, table, members) and known(_PER_TOKEN):
            option = _PER_TOKEN
        if option is not None or len(goal.parts) == 1:
            found.append(option or part[0])
    return tuple(found) or (goal.parts[0][0],)


def _unequal_work(objective: Objective, table: Table, members: Sequence[int]) -> bool:
    """Whether a time would be compared between requests that had different numbers of output tokens."""
    if objective.maximise or not objective.metric.per_length or objective.metric.basis is not Basis.SPEED:
        return False
    found = [table.variants[index] for index in members if table.missing(index, objective.metric) is None]
    return any(lengths_differ(variant, found[0]) for variant in found)


def _rank(choice_set: ChoiceSet, setting: str, draws: int, seed: int) -> _Ranked:
    """Rank the variants of a setting, and resample them if uncertainties are known."""
    table, point = choice_set.table, choice_set.numbers(choice_set.point)
    made = table.draws(affordable_draws(table.values.shape, draws), seed)
    drawn = choice_set.numbers(made)
    candidates = {index: _candidate(choice_set, index, point, drawn) for index in choice_set.members}
    running = [index for index, candidate in candidates.items() if candidate.excluded is None]
    score, kept = choice_set.scores(point)[0], choice_set.meets_constraints(point)[0]
    running.sort(key=lambda index: (not kept[index], -score[index]))
    candidates |= _balanced(choice_set, candidates, running, score, kept)
    out = [index for index in choice_set.members if index not in running]
    wins, unfulfilled = None, None
    uncertain = bool(running) and bool(choice_set.uncertain(choice_set.relevant(running, made)))
    if uncertain:
        winners = choice_set.winners(made, running)
        wins, unfulfilled = win_shares(winners), float(np.mean(~winners.any(axis=1)))
        candidates |= {i: replace(candidates[i], wins=float(w)) for i, w in zip(running, wins, strict=True)}
    ranking = Ranking(
        setting=setting,
        objectives=choice_set.objectives,
        candidates=tuple(candidates[index] for index in (*running, *out)),
        resamples=len(made) if uncertain else None,
        unfulfilled=unfulfilled,
    )
    return _Ranked(choice_set, ranking, made if uncertain else None)


def _candidate(choice_set: ChoiceSet, index: int, point: Numbers, drawn: Numbers) -> Candidate:
    table = choice_set.table
    objectives = tuple(_reading(table, index, objective.metric, point, drawn) for objective in choice_set.objectives)
    checks = tuple(_check(table, index, constraint, point, drawn) for constraint in choice_set.constraints)
    found = (table.missing(index, objective.metric) for objective in choice_set.objectives)
    lacks = tuple(dict.fromkeys(filter(None, (*found, *(check.why for check in checks)))))
    reasons = (*lacks, *filter(None, map(_breaks, checks)))
    base = table.bases[index]
    recovered = any(constraint.metric is RECOVERY for constraint in choice_set.constraints)
    return Candidate(
        place=index,
        variant=table.variants[index],
        objectives=objectives,
        balance=None,
        checks=checks,
        missing=lacks,
        recoveries={t: _recovery(table, index, base, t) for t in table.tasks} if recovered else {},
        excluded="; ".join(reasons) or None,
        wins=None,
        costs=_costs(table.variants[index], table.prices),
    )


def _reading(table: Table, index: int, metric: Metric, point: Numbers, drawn: Numbers) -> Reading:
    value = float(point[metric.key][0, index])
    if math.isnan(value):
        return Reading(metric, None)
    low, high = table.interval(index, metric, drawn[metric.key]) or (None, None)
    return Reading(metric, value, low, high)


def _check(table: Table, index: int, constraint: Constraint, point: Numbers, drawn: Numbers) -> Check:
    reading = _reading(table, index, constraint.metric, point, drawn)
    if reading.value is None:
        why = table.missing(index, constraint.metric) or f"not measured: {constraint.metric.key}"
        return Check(constraint, reading, CheckState.NOT_MEASURED, why)
    ends = (
        (reading.value, reading.value) if reading.low is None or reading.high is None else (reading.low, reading.high)
    )
    kept = {constraint.keeps(end) for end in ends}
    state = (
        CheckState.INCONCLUSIVE if len(kept) > 1 else (CheckState.SATISFIED if True in kept else CheckState.VIOLATED)
    )
    return Check(constraint, reading, state)


def _breaks(check: Check) -> str | None:
    """How a constraint is broken, in words; None if it is not."""
    if check.state is not CheckState.VIOLATED or check.reading.value is None:
        return None
    constraint, metric = check.constraint, check.constraint.metric
    side = "more" if constraint.at_most else "less"
    return f"{metric.title} {metric.text(check.reading.value)}, {side} than {metric.text(constraint.limit)}"


def _recovery(table: Table, index: int, base: int | None, task: str) -> float | None:
    column = next((place for place, metric in enumerate(table.metrics) if metric.key == task), None)
    if base is None or column is None:
        return None
    here, there = (float(table.values[place, column]) for place in (index, base))
    return here / there if there and not math.isnan(here / there) else None


def _costs(variant: Variant, prices: Prices) -> Costs:
    gpus, accuracy = num_gpus(variant) or 1, variant.number(ACCURACY_MEAN)
    per_request, per_token = (
        variant.number(metric) if variant.counts(metric) else None for metric in (J_PER_REQUEST, J_PER_TOKEN)
    )
    rate, latency = variant.number(THROUGHPUT) or None, variant.number(AMORTISED)
    return Costs(
        money_per_million_tokens=money_per_million_tokens(rate, per_token, prices, gpus),
        joules_per_correct_answer=joules_per_correct_answer(per_request, accuracy),
        money_per_correct_answer=money_per_correct_answer(latency, per_request, accuracy, prices, gpus),
    )


def _balanced(
    choice_set: ChoiceSet, candidates: dict[int, Candidate], running: Sequence[int], score: Floats, kept: Bools
) -> dict[int, Candidate]:
    """The candidates in the running with their balance, if the objective has several parts."""
    if len(choice_set.objectives) < 2 or not running:
        return {}
    fair = [index for index in running if kept[index]] or list(running)
    logs = []
    for part, objective in enumerate(choice_set.objectives):
        values = {index: candidates[index].objectives[part].value for index in fair}
        best = (max if objective.maximise else min)(value for value in values.values() if value is not None)
        if best <= 0:
            return {}
        logs.append(math.log(best) if objective.maximise else -math.log(best))
    top = sum(logs) / len(logs)
    return {index: replace(candidates[index], balance=math.exp(score[index] - top)) for index in running}


def _closest(rankings: Sequence[Ranking]) -> Relaxation | None:
    """Among variants with every number, the one whose worst breach is the smallest share of its limit."""
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


# Caveats


@dataclass(frozen=True)
class _Case:
    """What the caveats are found in."""

    goal: Goal
    constraints: tuple[Constraint, ...]
    ranking: Ranking
    others: tuple[Ranking, ...]
    prices: Prices
    study: Study

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that decide."""
        found = [o.metric for o in self.ranking.objectives] + [c.metric for c in self.constraints]
        return tuple({metric.key: metric for metric in found}.values())

    @property
    def compared(self) -> tuple[Candidate, ...]:
        """Those that have a number for every part of the objective, whether or not they keep the constraints."""
        return tuple(c for c in self.ranking.candidates if all(r.value is not None for r in c.objectives))

    def depends_on(self, *metrics: Metric) -> bool:
        """Whether one of some metrics decides."""
        return not {metric.key for metric in metrics}.isdisjoint(metric.key for metric in self.metrics)


def _caveats(case: _Case) -> list[str]:
    """One line for each claim that the numbers do not support."""
    return [text for check in _CHECKS for text in check(case)]


def _stand_ins(case: _Case) -> Iterable[str]:
    """Metrics used in place of unmeasured ones, and omitted parts."""
    used = {objective.key for objective in case.ranking.objectives}
    for part in case.goal.parts:
        metrics = [objective.metric for objective in part]
        found = next((metric for metric in metrics if metric.key in used), None)
        if found is None and THROUGHPUT.key in used and len(case.goal.parts) == 1:
            yield (
                f"output lengths differ, so {metrics[0].title} would compare different work: {THROUGHPUT.title} was "
                "compared instead"
            )
        elif found is None:
            yield f"{metrics[0].title} was not measured and does not count in the {case.goal.word} objective"
        elif found is not metrics[0]:
            yield f"{metrics[0].title} was not measured: {found.title} was used instead"


def _lengths(case: _Case) -> Iterable[str]:
    """Latencies of unequal work: the shortest one is not evidence of speed."""
    found = [
        (v.tokens_per_request, latency, v) for v in (c.variant for c in case.compared)
        if v.tokens_per_request and (latency := v.number(AMORTISED))
    ]  # fmt: skip
    lengths = [length for length, *_ in found]
    if not found or max(lengths) <= (1 + LENGTH_TOLERANCE) * min(lengths):
        return
    span = f"requests had {min(lengths):.0f} to {max(lengths):.0f} output tokens"
    if {objective.key for objective in case.ranking.objectives} & {THROUGHPUT.key, TPOT.key}:
        length, latency, least = min(found, key=lambda each: each[1])
        yield (
            f"{span}, so amortised latencies compare different work and do not count: the shortest "
            f"({AMORTISED.text(latency)}, {least.label}, {length:.0f} tokens per request) is not evidence of speed"
        )
    if case.depends_on(AMORTISED, E2E):
        yield f"{span}: the latencies that were compared, with each other or with a limit, cover different work"


def _energy(case: _Case) -> Iterable[str]:
    if not case.depends_on(J_PER_REQUEST):
        return
    lengths = [c.variant.energy.output_tokens if c.variant.energy is not None else None for c in case.compared]
    known = [length for length in lengths if length is not None]
    if len(known) < len(lengths):
        yield "energy is per request, and lengths are unknown: fewer joules may mean fewer tokens"
    elif known and max(known) > (1 + LENGTH_TOLERANCE) * min(known):
        yield f"energy is per request, and requests had {min(known):.0f} to {max(known):.0f} output tokens"


def _settings(case: _Case) -> Iterable[str]:
    if not any(metric.basis in (Basis.SPEED, Basis.ENERGY) for metric in case.metrics):
        return
    if any(c.variant.engine is None or c.variant.hardware is None for c in case.compared):
        yield "engine or hardware was not recorded: all variants are assumed to have been measured in the same way"
    if any(c.variant.is_emulated for c in case.ranking.candidates):
        yield EMULATED.meaning


def _other_settings(case: _Case) -> Iterable[str]:
    for other in case.others:
        names = ", ".join(candidate.name for candidate in other.candidates)
        where = f" ({other.setting})" if other.setting else ""
        there = f"; among these, the pick is {other.pick.name}" if other.pick and len(other.running) > 1 else ""
        yield f"measured in another setting{where} and not compared: {names}{there}"


def _memory(case: _Case) -> Iterable[str]:
    if not case.depends_on(MEMORY):
        return
    yield "memory covers the weights only; the KV cache, as large as the engine's settings allow, comes on top"
    on_disk = [c.name for c in case.compared if estimate_of(c.variant, MEMORY) == c.variant.estimate(DISK)]
    if on_disk:
        yield f"weights as loaded were not measured; size on disk was used instead: {_few(on_disk, case)}"


def _too_small(case: _Case) -> Iterable[str]:
    """Impossible sizes on disk: fewer bits than the scheme has."""
    for variant in (c.variant for c in case.ranking.candidates) if case.depends_on(MEMORY) else ():
        base, size = case.study.baseline(variant), variant.number(DISK)
        loaded = variant.performance is not None and variant.performance.weights_gb is not None
        known = base is not None and {variant.precision, base.precision} <= set(SCHEMES)
        if base is None or not known or loaded or not size:
            continue
        bits, whole = SCHEMES[variant.precision].weight_bits, base.number(DISK) or 0.0
        least = whole * bits / SCHEMES[base.precision].weight_bits
        if size < (1 - _SIZE_TOLERANCE) * least:
            yield (
                f"{variant.label} is recorded with {MEMORY.text(size)} on disk, but at {bits:g} bits per "
                f"weight the baseline's {MEMORY.text(whole)} would become {MEMORY.text(least)}: do not rely on its size"
            )


def _cost(case: _Case) -> Iterable[str]:
    if not case.prices:
        return
    if case.prices.per_gpu_hour is not None and any(num_gpus(c.variant) is None for c in case.compared):
        yield "the number of GPUs was not recorded for every variant: one GPU is assumed there"
    sizes = {
        (c.variant.performance and c.variant.performance.batch_size, c.variant.energy and c.variant.energy.batch_size)
        for c in case.compared
    }
    if case.prices.per_gpu_hour is not None and case.prices.per_kwh is not None and any(a != b for a, b in sizes):
        yield "cost adds hours and joules that were measured at different batch sizes"


def _correct_answers(case: _Case) -> Iterable[str]:
    if any(c.costs.joules_per_correct_answer is not None for c in case.compared):
        yield "joules per correct answer: requests of the energy benchmark are not as long as those of the tasks"


def _intervals(case: _Case) -> Iterable[str]:
    """Values that were held fixed while others were redrawn."""
    if case.ranking.resamples is None:
        return
    fixed: dict[str, list[str]] = {}
    for candidate in case.ranking.running:
        for reading in (*candidate.objectives, *(check.reading for check in candidate.checks)):
            # Shares that are 1 by definition: the baseline of itself, the best of the best.
            is_one = reading.metric is OF_BEST or (reading.metric is RECOVERY and candidate.variant.is_baseline)
            if reading.low is None and not reading.metric.exact and not is_one:
                fixed.setdefault(reading.metric.title, []).append(candidate.name)
    for title, names in fixed.items():
        yield f"{title} has no interval and was held fixed: {_few(list(dict.fromkeys(names)), case)}"
    if any(metric.basis is Basis.TASK for metric in case.metrics):
        yield "resamples treat accuracies as independent; on the same items, their differences vary less"


def _unfulfilled(case: _Case) -> Iterable[str]:
    if case.ranking.unfulfilled:
        yield f"in {case.ranking.unfulfilled * 100:.1f} % of the resamples, no variant meets every constraint"


def _few(names: Sequence[str], case: _Case) -> str:
    return "all" if len(names) == len(case.compared) > 1 else ", ".join(names)


_CHECKS: tuple[Callable[[_Case], Iterable[str]], ...] = (
    _stand_ins, _lengths, _energy, _settings, _other_settings, _memory, _too_small, _cost, _correct_answers, _intervals,
    _unfulfilled,
)  # fmt: skip
