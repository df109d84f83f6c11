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
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from slim_eval.analysis.caveats import EMULATED, ENGINES_DIFFER, FAILURES, INEXACT, find_caveats
from slim_eval.analysis.comparability import LENGTH_TOLERANCE, lengths_differ
from slim_eval.analysis.loads import at_highest_goodput, at_load, has_levels, load_of, views
from slim_eval.analysis.pareto.dominance import Floats, affordable_draws
from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.cost import Costs, Prices, num_gpus
from slim_eval.analysis.recommend.outcome import Candidate, ConstraintCheck, Ranking, Reading, Recommendation
from slim_eval.analysis.recommend.question import MEMORY, OF_BEST, RECOVERY, Goal, plan_of
from slim_eval.analysis.recommend.ranking import (
    ChoiceSet,
    Numbers,
    Table,
    estimate_of,
    is_computed,
    setting_groups,
    with_computed_sizes,
)
from slim_eval.analysis.recommend.sensitivity import find_next_measurement
from slim_eval.analysis.study import Study
from slim_eval.config import Question, RecommendConfig
from slim_eval.errors import UsageError
from slim_eval.metrics import AMORTISED, DISK, E2E, J_PER_REQUEST, MAX_GOODPUT, THROUGHPUT, TPOT, Basis, Metric
from slim_eval.results.archive import unpacked
from slim_eval.results.store import find_results, require_folder
from slim_eval.results.variants import Variant, with_accuracy_mean
from slim_eval.schemes import find, scheme_of

DRAWS = 4000
_NOTHING_FOUND = "run `slim-eval run` first, or give the folder that contains its results with --input-dir"
_SIZE_TOLERANCE = 0.02


def recommend_from(config: RecommendConfig) -> Recommendation:
    """Read results and recommend one of them; what `slim-eval recommend` does.

    Raises:
        UsageError: The folder is missing or has no measurements, or the question contains something unknown.
    """
    folder = unpacked(config.input_dir)
    require_folder(folder, _NOTHING_FOUND)
    results = find_results(folder)
    variants = [variant for variant in results.variants if variant.records]
    if not variants:
        raise UsageError(f"{config.input_dir}: contains no measurements", _NOTHING_FOUND)
    study = Study.read(variants)
    found = recommend(study, config.question)
    return replace(found, caveats=(*found.caveats, *results.problems), study=study)


def recommend(study: Study, question: Question, *, draws: int = DRAWS, seed: int = 0) -> Recommendation:
    """Recommend the variant to deploy; without a pick if nothing meets the constraints.

    See `question` for the presets. The number of random draws is smaller if there are very many variants; the same
    `seed` gives the same confidence.

    Raises:
        UsageError: There is no variant, or the question names a preset, objective or task that is not known.
    """
    if not study.variants:
        raise UsageError("there is no variant to choose from", _NOTHING_FOUND)
    plan, prices = plan_of(question, study), Prices(question.price_per_gpu_hour, question.price_per_kwh)
    # One mean accuracy over the same tasks in every setting: accuracies are ranked across them.
    bare = [replace(variant, derived={}, mean_tasks=()) for variant in study.variants]
    asked = [objective.metric for part in plan.goal.parts for objective in part]
    asked += [constraint.metric for constraint in plan.constraints]
    if question.max_goodput:
        bare = [at_highest_goodput(variant, question.slo) for variant in bare]
    elif question.load is not None:
        bare = at_load(bare, question.load)
    elif any(metric.basis is Basis.SPEED for metric in asked):
        bare = [view for variant in bare for view in views(variant)]
    study = replace(study, variants=tuple(with_accuracy_mean(bare, plan.tasks)), tasks=plan.tasks)
    study = replace(study, variants=tuple(with_computed_sizes(study)))
    table = Table.of(study, plan, prices)
    made = table.draws(affordable_draws(table.values.shape, draws), seed)
    ranked = []
    for setting, members in setting_groups(table, plan).items():
        choice_set = ChoiceSet(table, tuple(members), _objectives(plan.goal, table, members), plan.constraints)
        ranking = _rank(choice_set, setting, made)
        members_at = [c.variant for c in ranking.candidates if load_of(c.variant) is not None]
        # If only one load of each was measured, it is like any other setting.
        load = (
            load_of(members_at[0]) if not question.max_goodput and has_levels(study.variants) and members_at else None
        )
        ranked.append((replace(ranking, load=load), choice_set))
    ranked.sort(key=lambda pair: (-len(pair[0].running), -len(pair[0].candidates)))
    ranking, choice_set = ranked[0]
    others = tuple(other for other, _ in ranked[1:])
    decisive = find_next_measurement(choice_set, ranking, made)
    found = Recommendation(plan.goal, plan.constraints, table.tasks, ranking, others, decisive)
    caveats = (
        *_loads_of_goodput(found),
        *_caveats_of_load(found),
        *_caveats_of_work(found),
        *_caveats_of_settings(found),
        *_caveats_of_memory(found, study),
        *_caveats_of_costs(found, prices),
        *_caveats_of_resamples(found),
    )
    return replace(found, caveats=caveats)


def _objectives(goal: Goal, table: Table, members: Sequence[int]) -> tuple[Objective, ...]:
    """Of each part the first option that was measured here; of several parts, those that most lack are left out.

    Of several parts, an option counts only if at least half of the variants have it: otherwise it would rule out more
    variants than it compares. If that leaves nothing, any option that was measured counts.

    Throughput stands in for a time of requests that had different numbers of output tokens: that is different work.
    """

    def measured(metric: Metric) -> list[Variant]:
        return [table.variants[index] for index in members if table.missing(index, metric) is None]

    options = [next((o for o in part if 2 * len(measured(o.metric)) >= len(members)), None) for part in goal.parts]
    if len(goal.parts) == 1 or not any(options):
        options = [next((o for o in part if measured(o.metric)), None) for part in goal.parts]
    found = []
    for part, option in zip(goal.parts, options, strict=True):
        timed = option is not None and option.metric.per_length and option.metric.basis is Basis.SPEED
        if option is not None and timed and not option.maximise:
            first, *others = measured(option.metric)
            if any(lengths_differ(variant, first) for variant in others) and measured(THROUGHPUT):
                option = Objective(THROUGHPUT, True)
        if option is not None or len(goal.parts) == 1:
            found.append(option or part[0])
    return tuple(found) or (goal.parts[0][0],)


def _rank(choice_set: ChoiceSet, setting: str, made: Floats) -> Ranking:
    """Rank the variants of a setting by their values, and in each draw ``(draws, n, k)`` if uncertainties are known."""
    point, drawn = choice_set.numbers(), choice_set.numbers(made)
    candidates = {index: _candidate(choice_set, index, point, drawn) for index in choice_set.members}
    running = [index for index, candidate in candidates.items() if candidate.excluded is None]
    score, kept = choice_set.scores(point)[0], choice_set.meets_constraints(point)[0]
    running.sort(key=lambda index: (not kept[index], -score[index]))
    if running and len(choice_set.objectives) > 1:
        fair = [index for index in running if kept[index]] or running
        signs = [1 if objective.maximise else -1 for objective in choice_set.objectives]
        columns = [point[objective.key][0, fair] for objective in choice_set.objectives]
        bests = [sign * (sign * column).max() for sign, column in zip(signs, columns, strict=True)]
        if min(bests) > 0:
            top = sum(sign * math.log(best) for sign, best in zip(signs, bests, strict=True)) / len(bests)
            candidates |= {i: replace(candidates[i], balance=math.exp(score[i] - top)) for i in running}
    resamples, unfulfilled = None, None
    if running and choice_set.uncertain(choice_set.relevant(running, made)):
        winners = choice_set.winners(made, running)
        count = winners.sum(axis=1, keepdims=True)
        wins = np.mean(winners / np.maximum(count, 1), axis=0)  # a tie counts in equal parts
        candidates |= {i: replace(candidates[i], wins=float(w)) for i, w in zip(running, wins, strict=True)}
        resamples, unfulfilled = len(made), float(np.mean(count == 0))
    ordered = tuple(candidates[index] for index in dict.fromkeys((*running, *choice_set.members)))
    return Ranking(setting, choice_set.objectives, ordered, resamples, unfulfilled)


def _candidate(choice_set: ChoiceSet, index: int, point: Numbers, drawn: Numbers) -> Candidate:
    table, variant = choice_set.table, choice_set.table.variants[index]

    def reading(metric: Metric) -> Reading:
        """A number with its interval: as recorded or, if it is computed, from its draws."""
        value = float(point[metric.key][0, index])
        if math.isnan(value):
            return Reading(metric, None)
        recorded = estimate_of(variant, metric)
        if is_computed(variant, metric):
            return Reading(metric, value, computed=True)
        if recorded is not None and recorded.interval is not None:
            return Reading(metric, value, *recorded.interval)
        own = drawn[metric.key][:, index]
        if metric in table.metrics or np.isnan(own).any() or own.min() == own.max():
            return Reading(metric, value)
        low, high = np.quantile(own, (0.025, 0.975))
        return Reading(metric, value, float(low), float(high))

    missing = [table.missing(index, objective.metric) for objective in choice_set.objectives]
    checks = []
    for constraint in choice_set.constraints:
        found, why = reading(constraint.metric), None
        if found.value is None:
            why = table.missing(index, constraint.metric) or f"not measured: {constraint.metric.key}"
        checks.append(ConstraintCheck(constraint, found, why))
    lacks = tuple(dict.fromkeys(filter(None, (*missing, *(check.why for check in checks)))))
    recoveries: dict[str, float | None] = {}
    if any(constraint.metric is RECOVERY for constraint in choice_set.constraints):
        place = table.bases[index]
        for task in table.tasks:
            here, there = variant.number(task), None if place is None else table.variants[place].number(task)
            recoveries[task] = here / there if here is not None and there else None
    objectives = tuple(reading(objective.metric) for objective in choice_set.objectives)
    return Candidate(index, variant, objectives, tuple(checks), lacks, recoveries, Costs.of(variant, table.prices))


# Caveats: claims that the numbers do not support


def _loads_of_goodput(found: Recommendation) -> Iterable[str]:
    """At which load each variant has its highest goodput."""
    at = [
        f"{candidate.name} at {load_of(candidate.variant)}"
        for candidate in found.ranking.candidates
        if candidate.variant.number(MAX_GOODPUT) is not None
    ]
    if at:
        yield f"the highest load that keeps the objectives: {', '.join(at)}; each variant is shown at its own"


def _caveats_of_load(found: Recommendation) -> Iterable[str]:
    """Under which load the answer is true, if there are others."""
    if found.ranking.load is not None and any(other.load is not None for other in found.others):
        yield f"this answer is for the load {found.ranking.load}; --load names another one"


def _caveats_of_work(found: Recommendation) -> Iterable[str]:
    """Metrics used in place of unmeasured ones, omitted parts, and numbers of different output lengths."""
    used = {objective.key for objective in found.ranking.objectives}
    for part in found.goal.parts:
        wanted = part[0].metric
        option = next((objective.metric for objective in part if objective.key in used), None)
        if option is None and THROUGHPUT.key in used and len(found.goal.parts) == 1:
            yield (
                f"output lengths differ, so {wanted.title} would compare different work: {THROUGHPUT.title} was "
                "compared instead"
            )
        elif option is None:
            candidates = found.ranking.candidates
            lacking = [c.name for c in candidates if all(estimate_of(c.variant, o.metric) is None for o in part)]
            some = f" in {len(lacking)} of {len(candidates)} variants ({', '.join(lacking)})"
            where = some if len(lacking) < len(candidates) else ""
            yield f"{wanted.title} was not measured{where} and does not count in the {found.goal.word} objective"
        elif option is not wanted:
            yield f"{wanted.title} was not measured: {option.title} was used instead"
    timed = [
        (length, latency, c.variant) for c in found.ranking.compared
        if c.variant.counts(AMORTISED)
        and (length := c.variant.tokens_per_request) and (latency := c.variant.number(AMORTISED))
    ]  # fmt: skip
    lengths = [length for length, *_ in timed]
    if timed and max(lengths) > (1 + LENGTH_TOLERANCE) * min(lengths):
        span = f"requests had {min(lengths):.0f} to {max(lengths):.0f} output tokens"
        if used & {THROUGHPUT.key, TPOT.key}:
            length, latency, least = min(timed, key=lambda each: each[1])
            yield (
                f"{span}, so amortised latencies compare different work and do not count: the shortest "
                f"({AMORTISED.text(latency)}, {least.label}, {length:.0f} tokens per request) is not evidence of speed"
            )
        if AMORTISED in found.ranking.metrics or E2E in found.ranking.metrics:
            yield f"{span}: the latencies that were compared, with each other or with a limit, cover different work"
    if J_PER_REQUEST in found.ranking.metrics:
        tokens = [None if c.variant.energy is None else c.variant.energy.output_tokens for c in found.ranking.compared]
        known = [length for length in tokens if length is not None]
        if len(known) < len(tokens):
            yield "energy is per request, and lengths are unknown: fewer joules may mean fewer tokens"
        elif known and max(known) > (1 + LENGTH_TOLERANCE) * min(known):
            yield f"energy is per request, and requests had {min(known):.0f} to {max(known):.0f} output tokens"


def _caveats_of_settings(found: Recommendation) -> Iterable[str]:
    if any(metric.basis in (Basis.SPEED, Basis.ENERGY) for metric in found.ranking.metrics):
        if any(c.variant.engine is None or c.variant.hardware is None for c in found.ranking.compared):
            yield "engine or hardware was not recorded: all variants are assumed to have been measured in the same way"
        if any(c.variant.is_emulated for c in found.ranking.candidates):
            yield EMULATED.meaning
    asked = {metric.basis for metric in found.ranking.metrics}
    kinds = (INEXACT, ENGINES_DIFFER) * (Basis.TASK in asked) + (FAILURES,) * (Basis.SPEED in asked)
    for each in find_caveats([candidate.variant for candidate in found.ranking.candidates]) if kinds else ():
        if each.kind in kinds:
            yield f"{', '.join(each.variants)}: {each.text}" if each.kind is FAILURES else each.text
    for other in found.others:
        if other.load is not None and other.load != found.ranking.load:
            continue  # it has an answer of its own
        names = ", ".join(candidate.name for candidate in other.candidates)
        where = f" ({other.setting})" if other.setting else ""
        there = f"; among these, the pick is {other.pick.name}" if other.pick and len(other.running) > 1 else ""
        yield f"measured in another setting{where} and not compared: {names}{there}"


def _caveats_of_memory(found: Recommendation, study: Study) -> Iterable[str]:
    if MEMORY not in found.ranking.metrics:
        return
    yield "memory covers the weights only; the KV cache needs more, up to what the engine's settings allow"
    computed = [c for c in found.ranking.compared if is_computed(c.variant, MEMORY)]
    if computed:
        stored = {c.variant.precision: scheme_of(c.variant.precision).stored_bits for c in computed}
        shown = ", ".join(f"{name} {bits:g}" for name, bits in stored.items())
        yield (
            f"size on disk was not recorded but computed from parameters and bits per weight ({shown}), for "
            f"{_few([c.name for c in computed], found)}: layers left at 16 bit make the files larger"
        )
    on_disk = [
        c.name for c in found.ranking.compared
        if c not in computed and estimate_of(c.variant, MEMORY) == c.variant.estimate(DISK)
    ]  # fmt: skip
    if on_disk:
        yield f"weights as loaded were not measured; size on disk was used instead: {_few(on_disk, found)}"
    for variant in (candidate.variant for candidate in found.ranking.candidates):
        # Impossible sizes on disk: fewer bits than the scheme has.
        base, size = study.baseline(variant), variant.number(DISK)
        loaded = variant.performance is not None and variant.performance.weights_gb is not None
        own, compared = find(variant.precision), None if base is None else find(base.precision)
        if base is None or own is None or compared is None or loaded or not size:
            continue
        bits, whole = own.weight_bits, base.number(DISK) or 0.0
        least = whole * bits / compared.weight_bits
        if size < (1 - _SIZE_TOLERANCE) * least:
            yield (
                f"{variant.label} is recorded with {MEMORY.text(size)} on disk, but at {bits:g} bits per "
                f"weight the baseline's {MEMORY.text(whole)} would become {MEMORY.text(least)}: do not rely on its size"
            )


def _caveats_of_costs(found: Recommendation, prices: Prices) -> Iterable[str]:
    if prices.per_gpu_hour is not None:
        if any(num_gpus(c.variant) is None for c in found.ranking.compared):
            yield "the number of GPUs was not recorded for every variant: one GPU is assumed there"
        records = [(c.variant.performance, c.variant.energy) for c in found.ranking.compared]
        sizes = [[record and record.batch_size for record in pair] for pair in records]
        if prices.per_kwh is not None and any(speed != energy for speed, energy in sizes):
            yield "cost adds hours and joules that were measured at different batch sizes"
    if any(c.costs.joules_per_correct_answer is not None for c in found.ranking.compared):
        yield "joules per correct answer: requests of the energy benchmark are not as long as those of the tasks"


def _caveats_of_resamples(found: Recommendation) -> Iterable[str]:
    if found.ranking.resamples is None:
        return
    fixed: dict[str, dict[str, None]] = {}  # values that were held fixed while others were redrawn
    for candidate in found.ranking.running:
        for reading in candidate.readings:
            # Shares that are 1 by definition: the baseline of itself, the best of the best.
            is_one = reading.metric is OF_BEST or (reading.metric is RECOVERY and candidate.variant.is_baseline)
            if reading.low is None and not reading.metric.exact and not is_one:
                fixed.setdefault(reading.metric.title, {})[candidate.name] = None
    for title, names in fixed.items():
        yield f"{title} has no interval and was held fixed: {_few(list(names), found)}"
    if any(metric.basis is Basis.TASK for metric in found.ranking.metrics):
        yield "resamples treat accuracies as independent; on the same items, their differences vary less"
    if found.ranking.unfulfilled:
        yield f"in {found.ranking.unfulfilled * 100:.1f} % of the resamples, no variant meets every constraint"


def _few(names: Sequence[str], found: Recommendation) -> str:
    return "all" if len(names) == len(found.ranking.compared) > 1 else ", ".join(names)
