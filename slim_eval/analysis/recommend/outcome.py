"""The outcome of a recommendation: plain data, and the same as JSON; `wording` has the sentences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from slim_eval.analysis.pareto.frontier import Objective
from slim_eval.analysis.recommend.question import Constraint, Goal
from slim_eval.errors import NothingFitsError
from slim_eval.metrics import Metric
from slim_eval.results.variants import Variant


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


@dataclass(frozen=True)
class Check:
    """A constraint on a variant; `why` names what is missing if it was not measured."""

    constraint: Constraint
    reading: Reading
    state: CheckState
    why: str | None = None


@dataclass(frozen=True)
class Costs:
    """See `cost`; None if a price or a quantity is missing."""

    money_per_million_tokens: float | None = None
    joules_per_correct_answer: float | None = None
    money_per_correct_answer: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A variant and its place in the ranking.

    Attributes:
        place: Its place in the study.
        variant: The variant.
        objectives: One reading for each part of the objective.
        balance: Geometric mean of the ratios to the best value of each part among those that keep the constraints; None
            for an objective of one part, or where a part is missing.
        checks: One for each constraint.
        missing: The numbers that it does not have, in words.
        recoveries: Task -> accuracy as a share of the fp16 accuracy of the same model, if requested.
        excluded: Why it is not in the running; None if it is.
        wins: Share of the resamples that it wins; None if no uncertainty is known, or it is not in the running.
        costs: What its output costs.
    """

    place: int
    variant: Variant
    objectives: tuple[Reading, ...]
    balance: float | None
    checks: tuple[Check, ...]
    missing: tuple[str, ...]
    recoveries: Mapping[str, float | None]
    excluded: str | None
    wins: float | None
    costs: Costs

    @property
    def name(self) -> str:
        """Model and precision."""
        return self.variant.label

    @property
    def inconclusive(self) -> tuple[Check, ...]:
        """The constraints whose interval includes the limit."""
        return tuple(check for check in self.checks if check.state is CheckState.INCONCLUSIVE)

    @property
    def keeps_all(self) -> bool:
        """Whether every constraint is kept by the measured values."""
        return all(c.reading.value is not None and c.constraint.keeps(c.reading.value) for c in self.checks)


@dataclass(frozen=True)
class Ranking:
    """The variants of one setting.

    Attributes:
        setting: Engine, hardware and other differences from the other settings; ``all`` if nothing is known.
        objectives: The columns that stand for the goal here.
        candidates: Those in the running, best first, then the others.
        resamples: Number of resamples; None if no uncertainty is known.
        unfulfilled: Share of the resamples in which no variant meets every constraint.
    """

    setting: str
    objectives: tuple[Objective, ...]
    candidates: tuple[Candidate, ...]
    resamples: int | None
    unfulfilled: float | None

    @property
    def running(self) -> tuple[Candidate, ...]:
        """Those that are not excluded, best first."""
        return tuple(candidate for candidate in self.candidates if candidate.excluded is None)

    @property
    def pick(self) -> Candidate | None:
        """The best of them; None if all are excluded."""
        return next(iter(self.running), None)


class Missing(Enum):
    """What is missing to be sure of the answer."""

    MEASUREMENT = "not measured"
    PRECISION = "too uncertain"
    INTERVAL = "no interval"


@dataclass(frozen=True)
class NextMeasurement:
    """The one measurement that could change the answer.

    Attributes:
        name: Variant to measure.
        key: Column to measure.
        lack: What is missing.
        share: For a value that is too uncertain, the share of resamples whose winner it decides.
        change: For a value without an interval, the relative change that would change the pick.
        text: In a sentence.
    """

    name: str
    key: str
    lack: Missing
    share: float | None
    change: float | None
    text: str


@dataclass(frozen=True)
class Relaxation:
    """The closest variant if none meets every constraint, and the options that would admit it."""

    name: str
    options: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Recommendation:
    """The answer of `recommend`.

    Attributes:
        goal: What should be best.
        constraints: What had to be kept.
        tasks: Tasks of the mean accuracy and the recovery.
        ranking: The setting that gives the answer.
        others: Rankings of the other settings; they are not compared with this one.
        next_measurement: The one measurement that could change the answer; None if none is known to.
        closest: Where nothing fits, what comes closest; None if something does, or nothing was measured completely.
        caveats: What the numbers do not carry.
    """

    goal: Goal
    constraints: tuple[Constraint, ...]
    tasks: tuple[str, ...]
    ranking: Ranking
    others: tuple[Ranking, ...]
    next_measurement: NextMeasurement | None
    closest: Relaxation | None
    caveats: tuple[str, ...]

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

    def raise_if_nothing_fits(self) -> None:
        """Raise without a pick.

        Raises:
            NothingFitsError: With the closest variant, and the option to relax, by how much.
        """
        if self.pick is not None:
            return
        if self.closest is None:
            count = Counter(lack for candidate in self.ranking.candidates for lack in candidate.missing)
            total = len(self.ranking.candidates)
            lacks = "; ".join(f"{lack} ({times} of {total})" for lack, times in count.most_common())
            raise NothingFitsError(
                f"no variant has every number that the question needs: {lacks}",
                "measure what is missing with `slim-eval run`, or drop that requirement",
            )
        raise NothingFitsError(
            f"no variant meets every constraint; {self.closest.text}",
            f"relax it: {' '.join(self.closest.options)}",
        )


def to_json(found: Recommendation) -> str:
    """Everything as JSON at full precision, shares from 0 to 1; missing values are null."""
    content = {
        "schema_version": 1,
        "goal": {"preset": found.goal.preset, "objective": found.goal.word},
        "constraints": [_constraint_json(constraint) for constraint in found.constraints],
        "tasks": list(found.tasks),
        "pick": _name_json(found.pick),
        "runner_up": _name_json(found.runner_up),
        "sureness": found.confidence,
        "decisive_measurement": None
        if found.next_measurement is None
        else {**asdict(found.next_measurement), "lack": found.next_measurement.lack.value},
        "closest": None if found.closest is None else asdict(found.closest),
        "caveats": list(found.caveats),
        **_ranking_json(found.ranking),
        "other_settings": [{**_ranking_json(r), "pick": _name_json(r.pick)} for r in found.others],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _ranking_json(ranking: Ranking) -> dict[str, Any]:
    return {
        "setting": ranking.setting,
        "objectives": [
            {"key": objective.key, "better": "higher" if objective.maximise else "lower"}
            for objective in ranking.objectives
        ],
        "resamples": ranking.resamples,
        "unfulfilled": ranking.unfulfilled,
        "candidates": [_candidate_json(candidate) for candidate in ranking.candidates],
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    return {
        **_name_json(candidate),
        "objectives": [_reading_json(reading) for reading in candidate.objectives],
        "balance": candidate.balance,
        "wins": candidate.wins,
        "excluded": candidate.excluded,
        "checks": [
            {
                **_constraint_json(check.constraint),
                **{end: getattr(check.reading, end) for end in ("value", "low", "high")},
                "state": check.state.value,
                "why": check.why,
            }
            for check in candidate.checks
        ],
        "recovery": dict(candidate.recoveries),
        "costs": asdict(candidate.costs),
    }


def _constraint_json(constraint: Constraint) -> dict[str, Any]:
    return {
        "option": constraint.option,
        "key": constraint.metric.key,
        "bound": "at most" if constraint.at_most else "at least",
        "limit": constraint.limit,
    }


def _name_json(candidate: Candidate | None) -> Any:
    if candidate is None:
        return None
    variant = candidate.variant
    return {"name": variant.name, "model": variant.model, "precision": variant.precision}


def _reading_json(reading: Reading) -> dict[str, Any]:
    return {"key": reading.metric.key, "value": reading.value, "low": reading.low, "high": reading.high}
