"""The outcome of a recommendation: plain data, and the same as JSON; `wording` has the sentences."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.cost import Costs
from slim_eval.analysis.recommend.question import Constraint, Goal
from slim_eval.errors import NothingFitsError
from slim_eval.metrics import Metric
from slim_eval.results.variants import Variant

if TYPE_CHECKING:
    from slim_eval.analysis.study import Study
    from slim_eval.analysis.verdict import Verdict


class CheckState(Enum):
    """Whether a variant meets a constraint, by the 95 % interval of its value."""

    SATISFIED = "satisfied"
    VIOLATED = "violated"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Reading:
    """A number of a variant with its 95 % interval; None if there is none."""

    metric: Metric
    value: float | None
    low: float | None = None
    high: float | None = None
    computed: bool = False  # from parameters and bits per weight, not measured


@dataclass(frozen=True)
class ConstraintCheck:
    """A constraint on a variant."""

    constraint: Constraint
    reading: Reading
    why: str | None = None  # what is missing if it was not measured

    @property
    def state(self) -> CheckState:
        """By the ends of the interval; without one, by the value."""
        if self.reading.value is None:
            return CheckState.NOT_MEASURED
        ends = [end for end in (self.reading.low, self.reading.high) if end is not None] or [self.reading.value]
        kept = [self.constraint.keeps(end) for end in ends]
        if all(kept):
            return CheckState.SATISFIED
        return CheckState.INCONCLUSIVE if any(kept) else CheckState.VIOLATED

    @property
    def breach(self) -> float:
        """How far the value is beyond the limit, as a share of the limit; 0 or less within it."""
        value, limit = self.reading.value, self.constraint.limit
        if value is None or not limit:
            return math.inf
        return (value - limit if self.constraint.at_most else limit - value) / limit

    def __str__(self) -> str:
        """The value against the limit that it violates: ``mmlu 60.0 %, less than 65.0 %``."""
        metric, side = self.reading.metric, "more" if self.constraint.at_most else "less"
        return (
            f"{metric.title} {metric.text(self.reading.value or 0)}, {side} than {metric.text(self.constraint.limit)}"
        )


@dataclass(frozen=True)
class Candidate:
    """A variant and its place in the ranking."""

    place: int  # in the study
    variant: Variant
    objectives: tuple[Reading, ...]  # one for each part of the objective
    checks: tuple[ConstraintCheck, ...]  # one for each constraint
    missing: tuple[str, ...]  # the numbers that it does not have, in words
    recoveries: Mapping[str, float | None]  # task -> share of the accuracy of the same model's fp16, if requested
    costs: Costs  # of its output
    #: Geometric mean of the ratios to the best value of each part among those that keep the constraints; None for an
    #: objective of one part, or if a part is missing.
    balance: float | None = None
    #: Share of the resamples that it wins; None if no uncertainty is known, or it is not in the running.
    wins: float | None = None

    @property
    def name(self) -> str:
        """Model and precision."""
        return self.variant.label

    def checks_in(self, state: CheckState) -> list[ConstraintCheck]:
        """Its checks in a state."""
        return [check for check in self.checks if check.state is state]

    @cached_property
    def excluded(self) -> str | None:
        """Why it is not in the running; None if it is."""
        return "; ".join((*self.missing, *map(str, self.checks_in(CheckState.VIOLATED)))) or None

    @property
    def readings(self) -> list[Reading]:
        """The numbers that decide: of the objective, then of the constraints."""
        return [*self.objectives, *(check.reading for check in self.checks)]

    @property
    def keeps_all(self) -> bool:
        """Whether every constraint is kept by the measured values."""
        return all(c.reading.value is not None and c.constraint.keeps(c.reading.value) for c in self.checks)


@dataclass(frozen=True)
class Ranking:
    """The variants of one setting."""

    setting: str  # engine, hardware and other differences from the other settings; ``all`` if nothing is known
    objectives: tuple[Objective, ...]  # the columns that stand for the goal here
    candidates: tuple[Candidate, ...]  # those in the running, best first, then the others
    resamples: int | None  # None if no uncertainty is known
    unfulfilled: float | None  # share of the resamples in which no variant meets every constraint
    load: str | None = None  # of the server, in words, if several were measured

    @cached_property
    def running(self) -> tuple[Candidate, ...]:
        """Those that are not excluded, best first."""
        return tuple(candidate for candidate in self.candidates if candidate.excluded is None)

    @property
    def pick(self) -> Candidate | None:
        """The best of them; None if all are excluded."""
        return next(iter(self.running), None)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that decide."""
        return [reading.metric for reading in self.candidates[0].readings]

    @cached_property
    def compared(self) -> list[Candidate]:
        """Those that have a number for every part of the objective, whether or not they keep the constraints."""
        return [c for c in self.candidates if all(reading.value is not None for reading in c.objectives)]


class Missing(str, Enum):
    """What is missing to be sure of the answer."""

    MEASUREMENT = "not measured"
    PRECISION = "too uncertain"
    INTERVAL = "no interval"


@dataclass(frozen=True)
class NextMeasurement:
    """The one measurement that could change the answer."""

    name: str  # variant to measure
    key: str  # column to measure
    lack: Missing
    share: float | None  # for a value that is too uncertain, the share of resamples whose winner it decides
    change: float | None  # for a value without an interval, the relative change that would change the pick
    text: str  # in a sentence


@dataclass(frozen=True)
class Relaxation:
    """The closest variant if none meets every constraint, and the options that would admit it."""

    name: str
    options: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Recommendation:
    """The answer of `recommend`."""

    goal: Goal
    constraints: tuple[Constraint, ...]
    tasks: tuple[str, ...]  # of the mean accuracy and the recovery
    ranking: Ranking  # the setting that gives the answer
    others: tuple[Ranking, ...]  # the other settings, which are not compared with this one
    next_measurement: NextMeasurement | None  # None if none is known to change the answer
    caveats: tuple[str, ...] = ()  # what the numbers do not carry
    #: The study that the question was put to; None if the variants came without their folders.
    study: Study | None = field(default=None, repr=False)

    @property
    def pick(self) -> Candidate | None:
        """The variant to deploy."""
        return self.ranking.pick

    @property
    def runner_up(self) -> Candidate | None:
        """The one to deploy if the pick were not there."""
        return next(iter(self.ranking.running[1:]), None)

    @property
    def confidence(self) -> float | None:
        """Share of the resamples that the pick wins; None if no uncertainty is known."""
        return None if self.pick is None else self.pick.wins

    @cached_property
    def verdict(self) -> Verdict | None:
        """The pick with what it gains and costs against its baseline; None without a study."""
        from slim_eval.analysis.verdict import verdict_on

        return None if self.study is None else verdict_on(self, self.study)

    def _repr_html_(self) -> str:
        """The verdict and its table, in a notebook."""
        from slim_eval.analysis.notebook import html_of

        return "" if self.verdict is None else html_of(self.verdict)

    @cached_property
    def closest(self) -> Relaxation | None:
        """If nothing fits: of variants with every number, the one whose worst breach is the least share of a limit."""
        rankings = (self.ranking, *self.others)
        if any(ranking.running for ranking in rankings):
            return None
        every = [candidate for ranking in rankings for candidate in ranking.candidates]
        complete = [c for c in every if all(reading.value is not None for reading in c.readings)]
        if not complete:
            return None
        nearest = min(complete, key=lambda candidate: max(check.breach for check in candidate.checks))
        broken = nearest.checks_in(CheckState.VIOLATED)
        words = [f"{check} ({check.breach * 100:.2g} % beyond the limit)" for check in broken]
        options = (check.constraint.relaxed(check.reading.value or 0) for check in broken)
        return Relaxation(nearest.name, tuple(options), f"the closest is {nearest.name}: {'; '.join(words)}")

    def raise_if_nothing_fits(self) -> None:
        """Raise without a pick.

        Raises:
            NothingFitsError: With the closest variant, and the option to relax, by how much.
        """
        if self.pick is not None:
            return
        if self.closest is not None:
            cause = f"no variant meets every constraint; {self.closest.text}"
            raise NothingFitsError(cause, f"relax it: {' '.join(self.closest.options)}")
        count = Counter(lack for candidate in self.ranking.candidates for lack in candidate.missing)
        lacks = (f"{lack} ({times} of {len(self.ranking.candidates)})" for lack, times in count.most_common())
        raise NothingFitsError(
            f"no variant has every number that the question needs: {'; '.join(lacks)}",
            "measure what is missing with `slim-eval run`, or drop that requirement",
        )


def to_json(found: Recommendation) -> str:
    """Everything as JSON at full precision, shares from 0 to 1; missing values are null."""
    content = {
        "schema_version": 1,
        "goal": {"preset": found.goal.preset, "objective": found.goal.word},
        "constraints": [_constraint_json(constraint) for constraint in found.constraints],
        "tasks": found.tasks,
        "pick": found.pick and _name_json(found.pick),
        "runner_up": found.runner_up and _name_json(found.runner_up),
        "sureness": found.confidence,
        "decisive_measurement": found.next_measurement and asdict(found.next_measurement),
        "closest": found.closest and asdict(found.closest),
        "verdict": found.verdict and found.verdict.to_json(),
        "caveats": found.caveats,
        **_ranking_json(found.ranking),
        "other_settings": [{**_ranking_json(r), "pick": r.pick and _name_json(r.pick)} for r in found.others],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _ranking_json(ranking: Ranking) -> dict[str, Any]:
    return {
        "setting": ranking.setting,
        **({"load": ranking.load} if ranking.load is not None else {}),
        "objectives": [{"key": o.key, "better": "higher" if o.maximise else "lower"} for o in ranking.objectives],
        "resamples": ranking.resamples,
        "unfulfilled": ranking.unfulfilled,
        "candidates": [
            {
                **_name_json(candidate),
                "objectives": [{"key": r.metric.key, **_value_json(r)} for r in candidate.objectives],
                "balance": candidate.balance,
                "wins": candidate.wins,
                "excluded": candidate.excluded,
                "checks": [
                    {**_constraint_json(c.constraint), **_value_json(c.reading), "state": c.state.value, "why": c.why}
                    for c in candidate.checks
                ],
                "recovery": candidate.recoveries,
                "costs": asdict(candidate.costs),
            }
            for candidate in ranking.candidates
        ],
    }


def _constraint_json(constraint: Constraint) -> dict[str, Any]:
    bound = "at most" if constraint.at_most else "at least"
    return {"option": constraint.option, "key": constraint.metric.key, "bound": bound, "limit": constraint.limit}


def _value_json(reading: Reading) -> dict[str, float | bool | None]:
    computed = {"computed": True} if reading.computed else {}
    return {"value": reading.value, "low": reading.low, "high": reading.high, **computed}


def _name_json(candidate: Candidate) -> dict[str, str]:
    variant = candidate.variant
    return {"name": variant.name, "model": variant.model, "precision": variant.precision}
