"""Marks: what must be known before a number is quoted, as a sign, a word and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slim_eval.analysis.compare.items import DEGRADED, EQUIVALENT, UNDERPOWERED
from slim_eval.analysis.compare.metrics import Kind, Metric
from slim_eval.analysis.evidence import Evidence
from slim_eval.analysis.rules import BASELINE, Doubt, baseline_of, doubts
from slim_eval.results.records import PairedTask
from slim_eval.results.rows import Row


@dataclass(frozen=True, slots=True)
class Mark:
    """One kind of mark.

    Attributes:
        kind: Its class in the style sheet.
        sign: What stands beside a number.
        word: What it is called.
        meaning: What a reader is told.
    """

    kind: str
    sign: str
    word: str
    meaning: str


CONFOUNDED = Mark(
    "confounded", "≠", "confounded", f"other output length than {BASELINE}: the number is of different work"
)
INVALID = Mark("invalid", "!", "invalid", "the measurement did not meet its own conditions; its record says why")
EMULATED = Mark(
    "emulated",
    "E",
    "emulated",
    "quantized kernels imitated in 16 bit: says nothing about a deployment's speed or energy",
)
SETTING = Mark(
    "setting", "S", "other setting", f"other engine, hardware or settings than {BASELINE}: not compared with it"
)
NOISE = Mark("noise", "~", "within noise", f"differs from {BASELINE} by no more than {BASELINE} from itself")
VERDICTS = {
    EQUIVALENT: Mark("equivalent", "=", EQUIVALENT, "the accuracy lost is surely below the margin"),
    DEGRADED: Mark("degraded", "▼", DEGRADED, "accuracy was lost beyond doubt, and not surely less than the margin"),
    UNDERPOWERED: Mark(
        "underpowered", "?", UNDERPOWERED, "too few items to tell a loss of the margin's size from none"
    ),
}
ALL = (CONFOUNDED, INVALID, EMULATED, SETTING, NOISE, *VERDICTS.values())


@dataclass(frozen=True)
class Marker:
    """Gives the numbers of a set of rows their marks.

    Attributes:
        evidence: Pairs and noise floors.
        models: Model -> its rows: the baseline is looked for among them only.
    """

    evidence: Evidence
    models: Mapping[str, Sequence[Row]]
    _seen: dict[str, _Doubtful] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Row], evidence: Evidence) -> Marker:
        """A marker for these rows."""
        models: dict[str, list[Row]] = {}
        for row in rows:
            models.setdefault(row["model"], []).append(row)
        return cls(evidence, models)

    def base(self, row: Row) -> Row | None:
        """The 16-bit row that a row is compared with."""
        return baseline_of(row, self.models[row["model"]])

    def of_metric(self, row: Row, metric: Metric) -> tuple[Mark, ...]:
        """Marks of a metric that is no task."""
        about = self._about(row)
        found = []
        if metric.per_length and Doubt.LENGTH in about.doubts:
            found.append(CONFOUNDED)
        if metric.kind is Kind.ENERGY and Doubt.INVALID_ENERGY in about.doubts:
            found.append(INVALID)
        if metric.kind is not Kind.SIZE and row[_KERNELS[metric.kind]] == "emulated":
            found.append(EMULATED)
        if _SETUP.get(metric.kind) in about.doubts:
            found.append(SETTING)
        return (*found, NOISE) if metric.key in about.noisy else tuple(found)

    def of_task(self, row: Row, task: str) -> tuple[Mark, ...]:
        """Marks of a task's accuracy: the verdict on its drop, and whether that is noise."""
        about = self._about(row)
        verdict = VERDICTS.get(str(about.pairs[task].verdict)) if task in about.pairs else None
        found = () if verdict is None else (verdict,)
        return (*found, NOISE) if task in about.noisy else found

    def pair(self, row: Row, task: str) -> PairedTask | None:
        """A task of a row against the baseline, item by item."""
        return self._about(row).pairs.get(task)

    def all_of(self, row: Row) -> frozenset[Doubt]:
        """Everything in doubt about a row."""
        return self._about(row).doubts

    def noisy(self, row: Row) -> Collection[str]:
        """Columns in which a row differs from its baseline by no more than the noise floor."""
        return self._about(row).noisy

    def _about(self, row: Row) -> _Doubtful:
        key = row["directory"]
        if key not in self._seen:
            self._seen[key] = _Doubtful(
                doubts(row, self.base(row)),
                self.evidence.within_noise(row, self.models[row["model"]]),
                {pair.task: pair for pair in self.evidence.paired.get(key, ())},
            )
        return self._seen[key]


@dataclass(frozen=True)
class _Doubtful:
    doubts: frozenset[Doubt]
    noisy: frozenset[str]
    pairs: Mapping[str, PairedTask]


_KERNELS: Mapping[Kind, str] = {Kind.SPEED: "kernels", Kind.ENERGY: "energy_kernels"}
_SETUP: Mapping[Any, Doubt] = {Kind.SPEED: Doubt.SPEED_SETUP, Kind.ENERGY: Doubt.ENERGY_SETUP}
