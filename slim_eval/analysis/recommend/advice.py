"""What a recommendation holds: plain data, and the same as JSON. Its words: `advice_text`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from slim_eval.analysis.pareto.objectives import Objective
from slim_eval.analysis.recommend.wishes import Constraint, Goal
from slim_eval.errors import NothingFitsError
from slim_eval.results.rows import Row


class CheckState(Enum):
    """Whether a configuration keeps a constraint, by the 95 % interval of its value."""

    SATISFIED = "satisfied"
    VIOLATED = "violated"
    CANNOT_TELL = "cannot tell"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Reading:
    """A number of a configuration with its 95 % interval; None where there is none."""

    key: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Check:
    """A constraint on a configuration; `why` says what is missing where it was not measured."""

    constraint: Constraint
    reading: Reading
    state: CheckState
    why: str | None = None


@dataclass(frozen=True)
class Costs:
    """See `cost`; None where a price or a quantity is missing."""

    money_per_million_tokens: float | None = None
    joules_per_correct_answer: float | None = None
    money_per_correct_answer: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A configuration, and how it stands.

    Attributes:
        place: Its place among the rows.
        row: All that is known of it.
        objectives: One reading for each part of the objective.
        balance: Geometric mean of the ratios to the best value of each part among those that keep the constraints; None
            for an objective of one part, or where a part is missing.
        checks: One for each constraint.
        lacks: The numbers that it lacks, in words.
        recoveries: Task -> accuracy as a share of the fp16 accuracy of the same model, where it was asked for.
        excluded: Why it is not in the running; None where it is.
        wins: Share of the resamples that it wins; None where no uncertainty is known, or it is not in the running.
        costs: What its output costs.
    """

    place: int
    row: Row
    objectives: tuple[Reading, ...]
    balance: float | None
    checks: tuple[Check, ...]
    lacks: tuple[str, ...]
    recoveries: Mapping[str, float | None]
    excluded: str | None
    wins: float | None
    costs: Costs

    @property
    def name(self) -> str:
        """Model and precision."""
        return f"{self.row['name']} {self.row['precision']}"

    @property
    def unsure(self) -> tuple[Check, ...]:
        """The constraints of which cannot be told whether they are kept."""
        return tuple(check for check in self.checks if check.state is CheckState.CANNOT_TELL)

    @property
    def keeps_all(self) -> bool:
        """Whether every constraint is kept by the measured values."""
        return all(c.reading.value is not None and c.constraint.keeps(c.reading.value) for c in self.checks)


@dataclass(frozen=True)
class Ranking:
    """The configurations of one setting.

    Attributes:
        setting: Engine, hardware and what else tells it from the other settings; ``all`` where nothing is known.
        objectives: The columns that stand for the goal here.
        candidates: Those in the running, best first, then the others.
        resamples: How many were drawn; None where no uncertainty is known.
        unfulfilled: Share of the resamples in which none keeps every constraint.
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
        """The best of them; None where all are excluded."""
        return next(iter(self.running), None)


class Lack(Enum):
    """What is missing to be sure of the answer."""

    MEASUREMENT = "not measured"
    PRECISION = "too uncertain"
    INTERVAL = "no interval"


@dataclass(frozen=True)
class Decisive:
    """The one measurement that could change the answer.

    Attributes:
        name: Configuration to measure.
        key: Column to measure.
        lack: What is missing.
        share: For a value that is too uncertain, the share of resamples whose winner it decides.
        change: For a value without an interval, the relative change that would change the pick.
        text: In a sentence.
    """

    name: str
    key: str
    lack: Lack
    share: float | None
    change: float | None
    text: str


@dataclass(frozen=True)
class Relaxation:
    """The configuration that comes closest where none keeps every constraint, and the options that would let it in."""

    name: str
    options: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Advice:
    """The answer of `recommend`.

    Attributes:
        goal: What should be best.
        constraints: What had to be kept.
        tasks: Tasks of the mean accuracy and the recovery.
        ranking: The setting that gives the answer.
        others: Rankings of the other settings; they are not compared with this one.
        decisive: The one measurement that could change the answer; None where nothing would.
        closest: Where nothing fits, what comes closest; None where something does, or nothing was measured completely.
        caveats: What the numbers do not carry.
    """

    goal: Goal
    constraints: tuple[Constraint, ...]
    tasks: tuple[str, ...]
    ranking: Ranking
    others: tuple[Ranking, ...]
    decisive: Decisive | None
    closest: Relaxation | None
    caveats: tuple[str, ...]

    @property
    def pick(self) -> Candidate | None:
        """The configuration to deploy."""
        return self.ranking.pick

    @property
    def runner_up(self) -> Candidate | None:
        """The one to deploy if the pick were not there."""
        return next(iter(self.ranking.running[1:]), None)

    @property
    def sureness(self) -> float | None:
        """Share of the resamples that the pick wins; None where no uncertainty is known."""
        return None if self.pick is None else self.pick.wins

    def raise_if_nothing_fits(self) -> None:
        """Raise where there is no pick.

        Raises:
            NothingFitsError: Naming the closest configuration and how far to relax which option.
        """
        if self.pick is not None:
            return
        if self.closest is None:
            count = Counter(lack for candidate in self.ranking.candidates for lack in candidate.lacks)
            total = len(self.ranking.candidates)
            lacks = "; ".join(f"{lack} ({times} of {total})" for lack, times in count.most_common())
            raise NothingFitsError(
                f"no configuration has every number that was asked for: {lacks}",
                "measure it with `slim-eval run`, or do not ask for it",
            )
        raise NothingFitsError(
            f"no configuration keeps every constraint; {self.closest.text}",
            f"relax it: {' '.join(self.closest.options)}",
        )


def to_json(advice: Advice) -> str:
    """Everything as JSON, full precision, shares from 0 to 1; what does not exist is null."""
    content = {
        "schema_version": 1,
        "goal": {"preset": advice.goal.preset, "objective": advice.goal.word},
        "constraints": [_constraint_json(constraint) for constraint in advice.constraints],
        "tasks": list(advice.tasks),
        "pick": _name_json(advice.pick),
        "runner_up": _name_json(advice.runner_up),
        "sureness": advice.sureness,
        "decisive_measurement": None
        if advice.decisive is None
        else {**asdict(advice.decisive), "lack": advice.decisive.lack.value},
        "closest": None if advice.closest is None else asdict(advice.closest),
        "caveats": list(advice.caveats),
        **_ranking_json(advice.ranking),
        "other_settings": [{**_ranking_json(r), "pick": _name_json(r.pick)} for r in advice.others],
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
        "objectives": [asdict(reading) for reading in candidate.objectives],
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
        "key": constraint.key,
        "bound": "at most" if constraint.at_most else "at least",
        "limit": constraint.limit,
    }


def _name_json(candidate: Candidate | None) -> Any:
    if candidate is None:
        return None
    return {key: candidate.row[key] for key in ("name", "model", "precision")}
