"""What a reader of a recommendation must know before acting on it: what its numbers do not carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN
from slim_eval.analysis.recommend.advice import Candidate, Ranking
from slim_eval.analysis.recommend.candidates import gpus_of
from slim_eval.analysis.recommend.cost import Prices
from slim_eval.analysis.recommend.settings import Kind, kinds_of
from slim_eval.analysis.recommend.wishes import (
    CERTAIN,
    MEMORY,
    OF_BEST,
    RECOVERY,
    Constraint,
    Goal,
    is_task,
    label,
    said,
)
from slim_eval.analysis.rules import BASELINE, LENGTH_TOLERANCE, baseline_of
from slim_eval.schemes import SCHEMES

_BITS = {name: member.weight_bits for name, member in SCHEMES.items()}
_SIZE_TOLERANCE = 0.02


@dataclass(frozen=True)
class _Case:
    """What the checks look at."""

    goal: Goal
    constraints: tuple[Constraint, ...]
    ranking: Ranking
    others: tuple[Ranking, ...]
    prices: Prices

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that decide."""
        found = [objective.key for objective in self.ranking.objectives]
        return tuple(dict.fromkeys((*found, *(constraint.key for constraint in self.constraints))))

    @property
    def compared(self) -> tuple[Candidate, ...]:
        """Those that have a number for every part of the objective, whether or not they keep the constraints."""
        return tuple(c for c in self.ranking.candidates if all(r.value is not None for r in c.objectives))

    def rests_on(self, *keys: str) -> bool:
        """Whether one of some columns decides."""
        return not set(keys).isdisjoint(self.keys)


def reservations(
    goal: Goal, constraints: tuple[Constraint, ...], rankings: Sequence[Ranking], prices: Prices
) -> list[str]:
    """One line for each thing that the numbers do not carry; empty where they carry all.

    Args:
        goal: What should be best.
        constraints: What has to be kept.
        rankings: That of the setting that gives the answer, then the others.
        prices: What is paid.
    """
    case = _Case(goal, constraints, rankings[0], tuple(rankings[1:]), prices)
    return [text for check in _CHECKS for text in check(case)]


def _stand_ins(case: _Case) -> Iterable[str]:
    """Columns that stand in for one that was not measured, and parts that are left out."""
    used = {objective.key for objective in case.ranking.objectives}
    for part in case.goal.parts:
        keys = [objective.key for objective in part]
        found = next((key for key in keys if key in used), None)
        if found is None and "tokens_per_second" in used and len(case.goal.parts) == 1:
            yield (
                f"the requests had outputs of different length, so their {label(keys[0])} is of different work: "
                f"{label('tokens_per_second')} was compared instead"
            )
        elif found is None:
            yield f"{label(keys[0])} was not measured: it does not count in the {case.goal.word} objective"
        elif found != keys[0]:
            yield f"{label(keys[0])} was not measured: {label(found)} stands in for it"


def _lengths(case: _Case) -> Iterable[str]:
    """Latencies of unequal work: the shortest one is no evidence of speed."""
    rows = [c.row for c in case.compared if c.row["tokens_per_request"] and c.row["mean_latency_s"]]
    if not rows:
        return
    lengths = [row["tokens_per_request"] for row in rows]
    if max(lengths) <= (1 + LENGTH_TOLERANCE) * min(lengths):
        return
    span = f"requests had from {min(lengths):.0f} to {max(lengths):.0f} output tokens"
    if {objective.key for objective in case.ranking.objectives} & {"tokens_per_second", "tpot_s"}:
        least = min(rows, key=lambda row: row["mean_latency_s"])
        yield (
            f"{span}, so amortised latencies are of different work and do not count: the shortest, "
            f"{said('mean_latency_s', least['mean_latency_s'])} of {least['name']} {least['precision']} "
            f"({least['tokens_per_request']:.0f} tokens a request), does not make it the fastest"
        )
    if case.rests_on("mean_latency_s", "e2e_latency_s"):
        yield f"{span}: the latencies that were compared, with each other or with a limit, are of different work"


def _energy(case: _Case) -> Iterable[str]:
    if not case.rests_on("energy_per_query_j"):
        return
    lengths = [c.row["energy_output_tokens"] for c in case.compared]
    if None in lengths:
        yield "energy is per request, of unknown length: fewer joules may be fewer tokens"
    elif lengths and max(lengths) > (1 + LENGTH_TOLERANCE) * min(lengths):
        yield f"energy is per request, and requests had from {min(lengths):.0f} to {max(lengths):.0f} output tokens"


def _settings(case: _Case) -> Iterable[str]:
    if not any(set(kinds_of(key)) & {Kind.SPEED, Kind.ENERGY} for key in case.keys):
        return
    if any(c.row["engine"] is None or c.row["hardware"] is None for c in case.compared):
        yield "engine or hardware was not recorded: all were taken to be measured alike"
    if any("emulated" in (c.row["kernels"], c.row["energy_kernels"]) for c in case.ranking.candidates):
        yield "emulated kernels imitate quantized arithmetic in 16 bit: deployed, speed and energy are others"


def _other_settings(case: _Case) -> Iterable[str]:
    for other in case.others:
        names = ", ".join(candidate.name for candidate in other.candidates)
        where = f" ({other.setting})" if other.setting else ""
        there = f"; of these the pick is {other.pick.name}" if other.pick and len(other.running) > 1 else ""
        yield f"measured in another setting{where} and not compared: {names}{there}"


def _memory(case: _Case) -> Iterable[str]:
    if not case.rests_on(MEMORY):
        return
    yield "memory is that of the weights; the KV cache, as large as the engine is allowed to make it, comes on top"
    on_disk = [c.name for c in case.compared if c.row["weights_gb"] is None or c.row["kernels"] == "emulated"]
    if on_disk:
        yield f"weights as loaded were not measured, their size on disk stands in: {_few(on_disk, len(case.compared))}"


def _too_small(case: _Case) -> Iterable[str]:
    """Sizes on disk that cannot be: fewer bits than the precision has."""
    rows = [candidate.row for candidate in case.ranking.candidates]
    for row in rows if case.rests_on(MEMORY) else ():
        base, bits = baseline_of(row, rows), _BITS.get(row["precision"])
        if base is None or bits is None or row["weights_gb"] is not None or not row["model_size_gb"]:
            continue
        least = (base["model_size_gb"] or 0) * bits / _BITS[BASELINE]
        if row["model_size_gb"] < (1 - _SIZE_TOLERANCE) * least:
            yield (
                f"{row['name']} {row['precision']} is recorded with {said(MEMORY, row['model_size_gb'])} on disk, but "
                f"{bits} bits a weight instead of the {said(MEMORY, base['model_size_gb'])} at {BASELINE} are "
                f"{said(MEMORY, least)}: its size is not to be relied on"
            )


def _cost(case: _Case) -> Iterable[str]:
    if not case.prices:
        return
    if case.prices.per_gpu_hour is not None and any(gpus_of(c.row) is None for c in case.compared):
        yield "the number of GPUs was not recorded everywhere: taken as one there"
    sizes = {(c.row["batch_size"], c.row["energy_batch_size"]) for c in case.compared}
    if case.prices.per_gpu_hour is not None and case.prices.per_kwh is not None and any(a != b for a, b in sizes):
        yield "cost adds hours and joules that were measured at different batch sizes"


def _correct_answers(case: _Case) -> Iterable[str]:
    if any(c.costs.joules_per_correct_answer is not None for c in case.compared):
        yield "joules per correct answer: requests of the energy benchmark are not as long as those of the tasks"


def _intervals(case: _Case) -> Iterable[str]:
    """Values that were held fixed while others were drawn anew."""
    if case.ranking.resamples is None:
        return
    fixed: dict[str, list[str]] = {}
    for candidate in case.ranking.running:
        for reading in (*candidate.objectives, *(check.reading for check in candidate.checks)):
            if reading.low is None and reading.key not in CERTAIN and not _certain(candidate, reading.key):
                fixed.setdefault(reading.key, []).append(candidate.name)
    for key, names in fixed.items():
        yield f"{label(key)} has no interval and was held fixed: {_few(list(dict.fromkeys(names)), len(case.compared))}"
    compared = {ACCURACY_MEAN, OF_BEST, RECOVERY}
    if compared & set(case.keys) or any(is_task(objective.key) for objective in case.ranking.objectives):
        yield "resamples take accuracies to be independent; on the same items their differences vary less than that"


def _certain(candidate: Candidate, key: str) -> bool:
    """Shares that are 1 by definition: fp16 of itself, the best of the best."""
    return key == OF_BEST or (key == RECOVERY and candidate.row["precision"] == BASELINE)


def _unfulfilled(case: _Case) -> Iterable[str]:
    share = case.ranking.unfulfilled
    if share:
        yield f"in {share * 100:.1f} % of the resamples no configuration keeps every constraint"


def _few(names: Sequence[str], total: int) -> str:
    return "all" if len(names) == total and total > 1 else ", ".join(names)


_CHECKS: tuple[Callable[[_Case], Iterable[str]], ...] = (
    _stand_ins, _lengths, _energy, _settings, _other_settings, _memory, _too_small, _cost, _correct_answers, _intervals,
    _unfulfilled,
)  # fmt: skip
