"""Everything that an analysis knows about a set of variants: the source of tables, figures, findings and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from slim_eval.analysis.caveats import NOISE, Caveat, Kind, find_caveats, marks_of, unpaired_caveats
from slim_eval.analysis.comparability import baseline_of, comparable_groups
from slim_eval.analysis.compare.noise_floor import noise_floor, within_noise
from slim_eval.analysis.impact import Impact, impact_of
from slim_eval.errors import ResultFileError
from slim_eval.metrics import METRICS, Metric
from slim_eval.results.records import NoiseRecord, PairedTask
from slim_eval.results.store import read_samples
from slim_eval.results.variants import Variant, by_model, labelled, metric_of, tasks_of, with_accuracy_mean


@dataclass(frozen=True)
class Study:
    """A set of variants and the facts about them together."""

    variants: tuple[Variant, ...]  # with unique labels, and with their mean accuracy over the tasks shown
    tasks: tuple[str, ...]  # accuracy tasks that are shown
    #: Folder of a variant -> its tasks against the baseline, item by item, judged together.
    paired: Mapping[Path, Sequence[PairedTask]] = field(default_factory=dict)
    #: Folder of a variant -> the noise floor that applies to it.
    noise: Mapping[Path, NoiseRecord] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # files that could not be read, one line each
    served: tuple[Variant, ...] = ()  # with every load that each was measured under, if any was under several
    _within: dict[Path, frozenset[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _marks: dict[tuple[Path, str], tuple[Kind, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, variants: Sequence[Variant], tasks: Sequence[str] | None = None) -> Study:
        """A study of variants only, over these tasks or all measured: no samples or noise floors are read."""
        shown = tasks_of(variants) if tasks is None else tuple(tasks)
        named = list(variants) if all(variant.name for variant in variants) else labelled(variants)
        # The mean accuracy in each setting is over the tasks that were measured there.
        settings: dict[str, list[int]] = {}
        for index, label in enumerate(comparable_groups(named).labels):
            settings.setdefault(label, []).append(index)
        for members in settings.values():
            means = with_accuracy_mean([named[index] for index in members], shown)
            for index, variant in zip(members, means, strict=True):
                named[index] = variant
        return cls(tuple(named), shown)

    @classmethod
    def read(cls, variants: Sequence[Variant], tasks: Sequence[str] | None = None, margin_pp: float = 1.0) -> Study:
        """A study of variants with their paired items and noise floors, from their folders.

        A drop of at most `margin_pp` percentage points counts as equivalent.
        """
        from slim_eval.analysis.compare.items import pair_all  # with numpy, which the terminal's table does without

        plain = cls.of(variants, tasks)
        floors: dict[Path, NoiseRecord] = {}
        problems: dict[str, None] = {}
        for variant in plain.variants:
            try:
                found = noise_floor(variant)
            except ResultFileError as error:
                problems[error.cause] = None
            else:
                floors |= {variant.directory: found} if found is not None else {}
        paired = {variant.directory: found for (_, variant), found in pair_all(plain.variants, margin_pp)}
        return cls(plain.variants, plain.tasks, paired, floors, tuple(problems))

    def metric(self, key: str) -> Metric:
        """The row of a metric or task by its key."""
        return self._metrics[key] if key in self._metrics else metric_of(key, self.variants)

    @cached_property
    def _metrics(self) -> dict[str, Metric]:
        return {key: metric_of(key, self.variants) for key in (*METRICS, *tasks_of(self.variants))}

    @cached_property
    def task_metrics(self) -> tuple[Metric, ...]:
        """One metric per task shown."""
        return tuple(self.metric(task) for task in self.tasks)

    def is_measured(self, metric: Metric) -> bool:
        """Whether any variant has a number of a metric."""
        return any(variant.number(metric) is not None for variant in self.variants)

    def first_measured(self, metrics: Sequence[Metric]) -> Metric | None:
        """Among alternatives for one quantity, in the order of preference, the first that is widely measured.

        Returns:
            The first that has at least half as many variants as the most common one, so that a few older records do not
            displace a better metric. None if nothing was measured.
        """
        counts = [sum(variant.number(metric) is not None for variant in self.variants) for metric in metrics]
        return next((m for m, count in zip(metrics, counts, strict=True) if count and 2 * count >= max(counts)), None)

    @cached_property
    def _by_model(self) -> dict[str, list[Variant]]:
        return by_model(self.variants)

    def baseline(self, variant: Variant) -> Variant | None:
        """The variant that a variant is compared with: itself for a baseline; None if there is none."""
        return variant if variant.is_baseline else baseline_of(variant, self._by_model[variant.base_model])

    @cached_property
    def impacts(self) -> tuple[Impact, ...]:
        """What changed, one per variant that is not a baseline, in their order; over the tasks shown."""
        return tuple(impact_of(v, self.baseline(v), self.tasks) for v in self.variants if not v.is_baseline)

    def impact(self, variant: Variant) -> Impact | None:
        """What changed in a variant; None for a baseline."""
        return self._impact_by_folder.get(variant.directory)

    @cached_property
    def _impact_by_folder(self) -> dict[Path, Impact]:
        return {impact.variant.directory: impact for impact in self.impacts}

    def pair(self, variant: Variant, task: str) -> PairedTask | None:
        """A task of a variant against its baseline, item by item; None if nothing was paired."""
        return next((pair for pair in self.paired.get(variant.directory, ()) if pair.task == task), None)

    def within_noise(self, variant: Variant) -> frozenset[str]:
        """Metric keys and tasks in which a variant differs from its baseline by no more than the noise floor."""
        if variant.directory not in self._within:
            floor = self.noise.get(variant.directory)
            self._within[variant.directory] = within_noise(variant, self.baseline(variant), floor)
        return self._within[variant.directory]

    @cached_property
    def caveats(self) -> tuple[Caveat, ...]:
        """All reasons to doubt the results."""
        pairs = (
            (v.label, [p for p in self.paired.get(v.directory, ()) if p.task in self.tasks]) for v in self.variants
        )
        return (*find_caveats(self.variants), *unpaired_caveats(pairs))

    def marks(self, variant: Variant, metric: Metric) -> tuple[Kind, ...]:
        """The kinds of caveat that concern one number of a variant, in the order of `caveats.MARKS`."""
        key = (variant.directory, metric.key)
        if key not in self._marks:
            found = marks_of(metric, variant, None if variant.is_baseline else self.baseline(variant))
            self._marks[key] = (*found, NOISE) if metric.key in self.within_noise(variant) else found
        return self._marks[key]

    def samples(self, variant: Variant, name: str) -> list[dict[str, Any]]:
        """The raw samples of a variant's record; none if they cannot be read, which `problems` reports."""
        try:
            return read_samples(variant.directory, name)
        except ResultFileError:
            return []
