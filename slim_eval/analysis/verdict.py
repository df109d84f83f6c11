"""The verdict: what to deploy, what that gains and costs, with what confidence, and what could change it.

Every command shows the same one. It has no rules of its own: a variant's word follows from the verdicts on its tasks
(decision 009) and from what may be compared; among the variants that are safe, `recommend` chooses.

- *safe*: every task that has a margin is equivalent to the baseline's or improved, and none is degraded;
- *degraded*: a task is degraded beyond chance;
- *inconclusive*: neither, with what it would take;
- *not comparable*: its model has no baseline, or no task may be compared with it;
- *deploy*: the choice among the baseline and the safe variants of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from slim_eval.analysis.compare.items import DEGRADED, EQUIVALENT, IMPROVED, LOG_SAMPLES, UNDERPOWERED, VERDICT_WORDS
from slim_eval.analysis.impact import Impact, change_words
from slim_eval.metrics import DISK, ENERGY, J_PER_REQUEST, J_PER_TOKEN, PEAK_MEMORY, THROUGHPUT, TPOT, WEIGHTS, Metric
from slim_eval.results.variants import Interval, Variant, by_model
from slim_eval.utils import number, short_name

if TYPE_CHECKING:
    from slim_eval.analysis.compare.comparison import MetricComparison, VariantComparison
    from slim_eval.analysis.compare.folders import ComparisonReport
    from slim_eval.analysis.recommend.outcome import Recommendation
    from slim_eval.analysis.study import Study
    from slim_eval.results.records import PairedTask

_SPEEDS = (("tpot_speedup", TPOT), ("per_token_speedup", THROUGHPUT))
_ENERGIES, _SIZES = (J_PER_TOKEN, J_PER_REQUEST, ENERGY), (WEIGHTS, DISK, PEAK_MEMORY)
_NO_GAIN = "nothing is shown to be better"
_SHOWN = 3  # names, tasks or models that a sentence lists


class Word(str, Enum):
    """The verdict on one variant."""

    DEPLOY = "deploy"
    SAFE = "safe"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"
    BASELINE = "baseline"  # that is not the choice


class Tone(str, Enum):
    """Whether an effect is better or worse than the baseline beyond chance."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"  # an exact number that did not change
    UNSURE = "unsure"  # its interval includes no change, or it is within the noise floor
    UNTESTED = "untested"  # without an interval, nothing is known about chance
    NONE = "none"  # not measured, or not comparable


@dataclass(frozen=True)
class Effect:
    """What a variant changes against its baseline in one respect."""

    of: str  # speed, energy, memory, accuracy
    measure: str = ""  # the metric or task: ``time per output token``
    value: float | None = None  # in `unit`; None if not known
    interval: Interval | None = None  # 95 %
    unit: str = ""  # ``x``: a ratio, no change is 1; ``%`` and ``pp``: a difference, no change is 0
    tone: Tone = Tone.NONE
    note: str = ""  # why the number is missing, or what limits it

    @property
    def neutral(self) -> float:
        """The value that means no change."""
        return 1.0 if self.unit == "x" else 0.0

    @property
    def direction(self) -> Tone:
        """Better, worse or the same by the value alone, which may be chance."""
        if self.value is None or self.value == self.neutral:
            return Tone.SAME
        return Tone.BETTER if (self.value > self.neutral) == (self.of in ("speed", "accuracy")) else Tone.WORSE

    @property
    def short(self) -> str:
        """The value alone: ``1.38x``, ``-38 %``, ``gsm8k -7.2 pp``; a dash without one."""
        if self.value is None:
            return "-"
        text = _amount(self.value, self.unit)
        return f"{self.measure} {text}" if self.of == "accuracy" else text

    @property
    def shown(self) -> str:
        """The value with its interval: ``1.38x [1.30, 1.46]``."""
        if self.value is None or self.interval is None:
            return self.short
        return f"{self.short} [{', '.join(_amount(end, self.unit, bare=True) for end in self.interval)}]"

    @property
    def sentence(self) -> str:
        """With what was measured and what limits it."""
        if self.value is None:
            return f"{self.of}: {self.note or 'not measured'}"
        if self.of == "accuracy":
            return self.shown
        note = f", {self.note}" if self.note else ""
        return f"{self.of} {self.shown} ({self.measure}{note})"


def _amount(value: float, unit: str, *, bare: bool = False) -> str:
    if unit == "x":
        return f"{value:.2f}" + ("" if bare else "x")
    if unit == "":  # a score's change in its own words has its unit
        return number(value)
    text = f"{round(value, 1) + 0.0:+.1f}" if unit == "pp" or abs(value) < 10 else f"{value:+.0f}"
    return text if bare else f"{text} {unit}"


@dataclass(frozen=True)
class VariantVerdict:
    """The verdict on one variant: a word, the effects, and the reason."""

    variant: Variant
    word: Word
    reason: str = ""
    effects: tuple[Effect, ...] = ()  # speed, energy, memory, and the accuracy of the task that lost most
    tasks: tuple[Effect, ...] = ()  # the accuracy of every task
    needs: str = ""  # what would make an inconclusive verdict a conclusive one
    name: str = ""  # of the variant, if not its label

    @property
    def label(self) -> str:
        """The variant's name."""
        return self.name or self.variant.label

    @property
    def is_reference(self) -> bool:
        """Whether it is what others are compared with, so that it has no effects."""
        return not self.effects

    def effect(self, of: str) -> Effect:
        """The effect in one respect; without a number if there is none."""
        return next((effect for effect in self.effects if effect.of == of), Effect(of))

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if self.is_reference:
            return f"{self.label}: {self.word.value}" + (f" ({self.reason})" if self.reason else "")
        known = [f"{e.of} {e.short}" for e in self.effects if e.of != "accuracy" and e.value is not None]
        return f"{self.label}: {self.word.value}: {'; '.join(filter(None, (', '.join(known), self.reason)))}"


@dataclass(frozen=True)
class Verdict:
    """The answer, and one verdict per variant."""

    answer: str
    gains: str
    costs: str
    confidence: str
    change: str  # what could change the answer
    variants: tuple[VariantVerdict, ...]
    asked: tuple[str, ...] = field(default=())  # outcomes of conditions that were asked for, in words

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The sentences below the answer, each with its heading; empty ones are left out."""
        named = (
            ("Gains", self.gains), ("Costs", self.costs), ("Confidence", self.confidence),
            ("What could change it", self.change),
        )  # fmt: skip
        return [(heading, text) for heading, text in named if text]

    @property
    def chosen(self) -> list[VariantVerdict]:
        """The variants to deploy: one, or one per model."""
        return [each for each in self.variants if each.word is Word.DEPLOY]

    def of(self, variant: Variant) -> VariantVerdict | None:
        """The verdict on a variant."""
        return next((each for each in self.variants if each.variant.directory == variant.directory), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data at full precision; missing values are None."""
        return {
            "answer": self.answer, "gains": self.gains, "costs": self.costs, "confidence": self.confidence,
            "what_could_change_it": self.change, "conditions": list(self.asked),
            "variants": [
                {
                    "name": each.label, "model": each.variant.model, "precision": each.variant.precision,
                    "verdict": each.word.value, "reason": each.reason, "needs": each.needs or None,
                    "effects": [_effect_json(effect) for effect in each.effects if effect.of != "accuracy"],
                    "tasks": [_effect_json(effect) for effect in each.tasks],
                }
                for each in self.variants
            ],
        }  # fmt: skip


def _effect_json(effect: Effect) -> dict[str, Any]:
    return {
        "of": effect.of, "measure": effect.measure, "value": effect.value, "interval": effect.interval,
        "unit": effect.unit, "is": effect.tone.value, "note": effect.note or None,
    }  # fmt: skip


# Effects


def _tone(value: float, interval: Interval | None, neutral: float, sign: int, *, exact: bool = False) -> Tone:
    """Better or worse if the whole interval is; a value without one only if it is exact."""
    if interval is None and not exact:
        return Tone.UNTESTED
    if interval is None and value == neutral:
        return Tone.SAME
    ends = interval or (value, value)
    if min(ends) <= neutral <= max(ends):
        return Tone.UNSURE
    return Tone.BETTER if (value - neutral) * sign > 0 else Tone.WORSE


def _effects_of(study: Study, impact: Impact) -> list[Effect]:
    """Speed, energy and memory of a variant against its baseline."""
    refused = dict(reason.split(": ", 1) for reason in impact.reasons if ": " in reason)
    noisy = study.within_noise(impact.variant)
    found: list[Effect] = []
    for name, metric in _SPEEDS:
        ratio = impact.speedups.get(name)
        if ratio is not None and not found:
            is_noise = metric.key in noisy
            tone = Tone.UNSURE if is_noise else _tone(ratio.value, ratio.interval, 1, 1)
            note = "within noise" if is_noise else "" if ratio.interval else "no interval"
            if impact.variant.kernels == "emulated":  # their speed is not that of the scheme
                tone, note = Tone.NONE, "emulated kernels"
            found.append(Effect("speed", metric.title, ratio.value, ratio.interval, "x", tone, note))
    if not found:
        found.append(Effect("speed", note=refused.get("speed", "")))
    saved = impact.energy_reduction
    if saved is None:
        found.append(Effect("energy", note=refused.get("energy", "")))
    else:
        ends = None if saved.interval is None else (-saved.interval[1], -saved.interval[0])
        is_noise = J_PER_TOKEN.key in noisy
        tone = Tone.UNSURE if is_noise else _tone(-saved.value, ends, 0, -1)
        note = "within noise" if is_noise else "" if ends else "no interval"
        found.append(Effect("energy", impact.energy_basis or "", -saved.value, ends, "%", tone, note))
    for ratio_of_sizes, metric in ((impact.weights_ratio, WEIGHTS), (impact.size_ratio, DISK)):
        if ratio_of_sizes:
            value = (1 / ratio_of_sizes - 1) * 100
            found.append(Effect("memory", metric.title, value, None, "%", _tone(value, None, 0, -1, exact=True)))
            break
    else:
        found.append(Effect("memory"))
    return found


def _effects_between(pair: VariantComparison) -> list[Effect]:
    """The same of B against A, from the intervals of a comparison."""
    from slim_eval.analysis.compare.comparison import MetricVerdict

    rows = {made.metric: made for made in pair.metrics}
    tones = {
        MetricVerdict.BETTER: Tone.BETTER, MetricVerdict.WORSE: Tone.WORSE, MetricVerdict.SAME: Tone.SAME,
        MetricVerdict.NO_INTERVAL: Tone.UNTESTED,
    }  # fmt: skip

    def effect(of: str, metrics: Sequence[Metric]) -> Effect:
        present = [made for metric in metrics if (made := rows.get(metric)) is not None]
        known = [made for made in present if made.ratio and made.verdict is not MetricVerdict.CONFOUNDED]
        if not known:
            return Effect(of, note=next((made.reason for made in present if made.reason), ""))
        made = known[0]
        tone = tones.get(made.verdict, Tone.UNSURE)
        words = {MetricVerdict.NOISE: "within noise", MetricVerdict.NO_INTERVAL: "no interval"}
        return _effect_of_ratio(of, made, tone, words.get(made.verdict, ""))

    return [effect("speed", (TPOT, THROUGHPUT)), effect("energy", _ENERGIES), effect("memory", _SIZES)]


def _effect_of_ratio(of: str, made: MetricComparison, tone: Tone, note: str) -> Effect:
    ratio, ends = made.ratio or 1.0, made.interval
    if ends is not None and ends[0] == ends[1]:
        ends = None
    if of == "speed":
        if made.metric.better == "lower":
            ratio = 1 / ratio
            ends = None if ends is None or ends[0] <= 0 else (1 / ends[1], 1 / ends[0])
        return Effect(of, made.metric.title, ratio, ends, "x", tone, note)
    percent = None if ends is None else ((ends[0] - 1) * 100, (ends[1] - 1) * 100)
    return Effect(of, made.metric.title, (ratio - 1) * 100, percent, "%", tone, note)


_TASK_TONES = {EQUIVALENT: Tone.BETTER, IMPROVED: Tone.BETTER, DEGRADED: Tone.WORSE}


def _task_effect(pair: PairedTask) -> Effect:
    """A task's change, as the score moved: below 0 is worse for an accuracy, above 0 for a share of errors."""
    tone = _TASK_TONES.get(pair.verdict or "", Tone.UNSURE)
    word = VERDICT_WORDS.get(pair.verdict or "", "no verdict")
    if pair.drop_pp is not None:
        turn = 1 if pair.higher_is_better is False else -1
        low, high = sorted(turn * end + 0.0 for end in pair.interval_pp or (0.0, 0.0))
        ends = None if pair.interval_pp is None else (low, high)
        return Effect("accuracy", pair.task, turn * pair.drop_pp + 0.0, ends, "pp", tone, word)
    if change := change_words(pair):
        return Effect("accuracy", f"{pair.task} {change}", None, None, "", tone, word)
    return Effect("accuracy", pair.task, note=pair.refused or pair.no_interval or word)


# The word


def _judge(
    variant: Variant, pairs: Sequence[PairedTask], others: Sequence[Effect], lacking: Sequence[str], name: str = ""
) -> VariantVerdict:
    """The verdict on a variant from its paired tasks; `lacking` are tasks that only its baseline has."""
    refused = [pair for pair in pairs if pair.verdict is None]
    judged = [pair for pair in pairs if pair.verdict is not None]
    tasks = tuple(_task_effect(pair) for pair in pairs)
    shares = [pair for pair in judged if pair.drop_pp is not None]
    # The task that decides: by its verdict, then by its loss.
    worst = max(shares, key=lambda p: (p.verdict == DEGRADED, p.verdict == UNDERPOWERED, p.drop_pp), default=None)
    accuracy = Effect("accuracy") if worst is None else _task_effect(worst)
    bad = [pair for pair in judged if pair.verdict == DEGRADED]
    # Scores in their own unit have no margin: nothing could show that they are equivalent.
    unsure = [pair for pair in shares if pair.verdict == UNDERPOWERED]
    needs = _needs(unsure)
    margin = next((f"{pair.margin_pp:g} pp" for pair in shares if pair.margin_pp), "the margin")
    without = [f"{pair.task} is not comparable ({pair.refused or pair.no_interval})" for pair in refused]
    without += [f"{task} was not measured" for task in lacking]
    if bad:
        word, reason = Word.DEGRADED, _listed(_change(pair) for pair in bad)
    elif not pairs:
        word, reason = Word.INCONCLUSIVE, "accuracy was not measured" if not lacking else "; ".join(without)
    elif not judged:
        word, reason = Word.NOT_COMPARABLE, "; ".join(dict.fromkeys(without))
        if all(pair.refused is None for pair in refused):  # comparable, but nothing says how certain the scores are
            word, reason = Word.INCONCLUSIVE, "no interval of any task is known"
    elif unsure:
        word, reason = Word.INCONCLUSIVE, _listed(_change(pair) for pair in unsure)
    elif without or not shares:
        word, reason = Word.INCONCLUSIVE, _listed(without, "; ") or "no task has a margin"
    else:
        word = Word.SAFE
        reason = f"{_count(len(shares), 'task')} as accurate within {margin}"
        if worst is not None:
            reason += f", at worst {_change(worst)}" if len(shares) > 1 else f": {_change(worst)}"
    return VariantVerdict(variant, word, reason, (*others, accuracy), tasks, needs, name)


def _change(pair: PairedTask) -> str:
    if pair.drop_pp is None:
        return f"{pair.task} {change_words(pair)}"
    return _task_effect(pair).shown


def _needs(unsure: Sequence[PairedTask]) -> str:
    """What it would take to decide on tasks, each need once."""
    found: dict[str, list[str]] = {}
    for pair in unsure:
        need = LOG_SAMPLES if pair.unpaired else "more subtasks" if pair.needs_subtasks else "its drop is at the margin"
        if pair.items_needed and not pair.unpaired:
            measured = "" if pair.num_items is None else f" ({pair.num_items:,} measured)"
            need = f"{pair.items_needed:,} items{measured}"
        found.setdefault(need, []).append(pair.task)
    return "; ".join(f"{', '.join(tasks)}: {need}" for need, tasks in found.items())


def judge(study: Study) -> list[VariantVerdict]:
    """The verdict on each variant of a study, before one is chosen."""
    found = []
    for variant in study.variants:
        impact = study.impact(variant)
        if impact is None:
            found.append(VariantVerdict(variant, Word.BASELINE))
            continue
        if impact.baseline is None:
            found.append(VariantVerdict(variant, Word.NOT_COMPARABLE, impact.not_comparable or ""))
            continue
        pairs = [pair for pair in study.paired.get(variant.directory, ()) if pair.task in study.tasks]
        lacking = [t for t in study.tasks if t in impact.baseline.accuracy and t not in variant.accuracy]
        found.append(_judge(variant, pairs, _effects_of(study, impact), lacking))
    return found


# The choice


@dataclass(frozen=True)
class _Choice:
    """What is chosen for one model, and why."""

    pick: VariantVerdict
    others: tuple[VariantVerdict, ...]  # the other variants of the model
    confidence: str = ""
    change: str = ""
    by: str = ""  # what it is best by

    @property
    def keeps_baseline(self) -> bool:
        return self.pick.is_reference


def verdict_of(study: Study) -> Verdict:
    """The verdict on a study: for each model the choice among its baseline and its safe variants."""
    judged = judge(study)
    judged_of = {id(each.variant): each for each in judged}
    choices: list[_Choice] = []
    alone: list[VariantVerdict] = []  # without a baseline
    lone: list[VariantVerdict] = []  # baselines without another variant
    for members in by_model(study.variants).values():
        own = [judged_of[id(member)] for member in members if id(member) in judged_of]
        base = next((each for each in own if each.word is Word.BASELINE), None)
        if len(own) < 2 or base is None:
            alone += own if base is None else []
            lone += [] if base is None else [base]
        else:
            choices.append(_choose(study, base, [each for each in own if each is not base]))
    picks = {id(choice.pick) for choice in choices}
    words = tuple(replace(each, word=Word.DEPLOY) if id(each) in picks else each for each in judged)
    if not choices:
        return _nothing_to_choose(words)
    rivals = [*(choice.pick for choice in choices), *lone]
    between = _between_models(study, rivals) if len(rivals) > 1 else ""
    if alone:
        between += f" Not compared: {_labels(alone)}, without a baseline."
    return Verdict(
        _answer(choices) + between, _gains(choices), _costs(choices), _confidence(choices), _change_of(choices), words
    )


def _choose(study: Study, base: VariantVerdict, others: Sequence[VariantVerdict]) -> _Choice:
    safe = [each for each in others if each.word is Word.SAFE]
    if not safe:
        return _Choice(base, tuple(others))
    found = _recommended(study, [base, *safe])
    if found is None:
        measured = any(e.value is not None for each in safe for e in each.effects if e.of != "accuracy")
        why = "their speed, energy and memory cannot be ranked together" if measured else (
            "no difference in speed, energy or memory is known"
        )  # fmt: skip
        return _Choice(base, tuple(others), why)
    pick = next(each for each in (base, *safe) if each.variant.directory == found.directory)
    rest = tuple(each for each in (base, *others) if each is not pick)
    return _Choice(pick, rest, found.confidence, found.change, found.by)


@dataclass(frozen=True)
class _Recommended:
    directory: Any
    confidence: str
    change: str
    by: str
    has_intervals: bool  # whether the ranking used any


def _recommended(study: Study, eligible: Sequence[VariantVerdict]) -> _Recommended | None:
    """The best of some variants by `recommend`, balanced; by memory alone if their speeds may not be compared."""
    from slim_eval.analysis.recommend.recommendation import recommend
    from slim_eval.analysis.recommend.wording import share_words
    from slim_eval.config import Question

    members = {each.variant.directory for each in eligible}
    small = replace(study, variants=tuple(v for v in study.variants if v.directory in members), served=())
    level = next((variant.level.label for variant in small.variants if variant.level is not None), None)
    for question in (Question(load=level), Question(objective="memory", load=level)):
        found = recommend(small, question)
        ranked = {candidate.variant.directory for candidate in found.ranking.running}
        if found.pick is None or ranked != members:
            continue  # some were measured in another setting, or lack a number
        parts = ", ".join(objective.metric.title for objective in found.ranking.objectives)
        confidence = "the choice between them has no interval" if len(members) > 1 else ""
        if found.pick.wins is not None and found.ranking.resamples is not None:
            wins = share_words(found.pick.wins)
            confidence = f"best by {_balance_of(parts)} in {wins} of {found.ranking.resamples:,} resamples"
        if all(objective.metric.key == "memory_gb" for objective in found.ranking.objectives):
            confidence = "chosen by memory alone, because not all of them have speed and energy in the same setting"
        change = "" if found.next_measurement is None else found.next_measurement.text
        return _Recommended(found.pick.variant.directory, confidence, change, parts, found.pick.wins is not None)
    return None


def _balance_of(parts: str) -> str:
    """Several quantities as what they are ranked by: the best balance may be worse in one of them."""
    return f"the balance of {parts}" if "," in parts else parts


def _between_models(study: Study, picks: Sequence[VariantVerdict]) -> str:
    found = _recommended(study, picks)
    if found is None:
        return ""
    best = next(each for each in picks if each.variant.directory == found.directory)
    points = "" if found.has_intervals else ", by the point values alone"
    return f" Between the models: {best.label}, the best balance of {found.by}{points}."


def _nothing_to_choose(words: tuple[VariantVerdict, ...]) -> Verdict:
    reasons = dict.fromkeys(each.reason for each in words if each.reason)
    if all(each.is_reference and each.word is Word.BASELINE for each in words):
        answer = "Nothing to decide: only baselines were measured."
        change = "Measure another precision: slim-eval run --precision 'fp16 int8 int4'."
    else:
        answer = f"No answer: {_listed(reasons, '; ') or 'no variant can be compared with a baseline'}."
        change = "Measure the baseline of the same model with the same settings."
    return Verdict(answer, "", "", "", change, words)


def _answer(choices: Sequence[_Choice]) -> str:
    if len(choices) == 1:
        (choice,) = choices
        name = choice.pick.label
        if not choice.keeps_baseline:
            by = f" Of these, it is the best by {_balance_of(choice.by)}." if choice.by else ""
            return f"Deploy {name}: as accurate as the baseline.{by}"
        if safe := [each for each in choice.others if each.word is Word.SAFE]:
            but = f"not ranked above it by {_balance_of(choice.by)}" if choice.by else "nothing else may be compared"
            return f"Keep {name}: {_names(safe)} as accurate, but {but}."
        return f"Keep {name}: no other variant is shown to be as accurate."
    new = [choice.pick for choice in choices if not choice.keeps_baseline]
    kept = [choice.pick for choice in choices if choice.keeps_baseline]
    parts = [f"Deploy {_labels(new)}: as accurate as their baselines."] if new else []
    if kept:
        why = "nothing else is shown to be as accurate and better"
        parts.append(f"Keep {_labels(kept)}: {why}.")
    return " ".join(parts)


def _names(found: Sequence[VariantVerdict]) -> str:
    return f"{_labels(found)} {'is' if len(found) == 1 else 'are'}"


def _labels(found: Sequence[VariantVerdict]) -> str:
    return _listed((each.label for each in found), shown=6)


def _per_choice(choices: Sequence[_Choice], texts: Iterable[str]) -> str:
    """Sentences, with the name of the variant if there are several models."""
    found = [(choice, text) for choice, text in zip(choices, texts, strict=True) if text]
    if len(choices) == 1:
        return f"{found[0][1]}." if found else ""
    shown = [f"{choice.pick.label}: {text}" for choice, text in found[:_SHOWN]]
    more = f" ({len(found) - _SHOWN} more below)" if len(found) > _SHOWN else ""
    return f"{'; '.join(shown)}{more}." if shown else ""


def _gains(choices: Sequence[_Choice]) -> str:
    new = [choice for choice in choices if not choice.keeps_baseline]
    if not new:
        return ""
    return _per_choice(new, (_effects_text(choice.pick, Tone.BETTER, untested=True) or _NO_GAIN for choice in new))


def _costs(choices: Sequence[_Choice]) -> str:
    new = [choice for choice in choices if not choice.keeps_baseline]
    if not new:
        return ""

    def text(pick: VariantVerdict) -> str:
        worse = _effects_text(pick, Tone.WORSE, untested=True)
        return "; ".join(filter(None, (worse, f"accuracy: {pick.reason}")))

    return _per_choice(new, (text(choice.pick) for choice in new))


def _effects_text(pick: VariantVerdict, tone: Tone, *, untested: bool = False) -> str:
    """The effects of a tone, apart from accuracy; with those that point the same way but have no interval."""

    def belongs(effect: Effect) -> bool:
        if effect.tone is Tone.UNTESTED and untested:
            return effect.direction is tone
        return effect.tone is tone

    return ", ".join(effect.sentence for effect in pick.effects if effect.of != "accuracy" and belongs(effect))


def _open_effects(picks: Sequence[VariantVerdict]) -> list[str]:
    """What is not known of the effects: of some, a test had no result; of others, there was nothing to test."""
    found = []
    for heading, tone in (("not beyond chance: ", Tone.UNSURE), ("no interval for ", Tone.UNTESTED)):
        having = [(pick, _effects_text(pick, tone)) for pick in picks]
        having = [(pick, text) for pick, text in having if text]
        if not having:
            continue
        text = having[0][1]
        if len(picks) > 1 or tone is Tone.UNTESTED:  # their numbers are among gains and costs, or of several models
            named = {e.of: None for pick, _ in having for e in pick.effects if e.of != "accuracy" and e.tone is tone}
            text = " and ".join(named) + (f" of {_labels([pick for pick, _ in having])}" if len(picks) > 1 else "")
        more = ": repeat the measurement to know whether the change is chance" if tone is Tone.UNTESTED else ""
        found.append(f"{heading}{text}{more}")
    return found


def _confidence(choices: Sequence[_Choice]) -> str:
    words = [each.word for choice in choices for each in choice.others if not each.is_reference]
    parts = []
    if any(not choice.keeps_baseline for choice in choices):
        parts.append("accuracy by the 95 % interval of every task")
    counted = [
        f"{words.count(w)} {w.value}" for w in (Word.DEGRADED, Word.INCONCLUSIVE, Word.NOT_COMPARABLE) if w in words
    ]
    if counted:
        parts.append(f"of the other variants, {', '.join(counted)}")
    own = [choice.confidence for choice in choices if choice.confidence]
    parts += own[:1] if len(choices) == 1 else []
    parts += _open_effects([choice.pick for choice in choices if not choice.keeps_baseline])
    return _sentence("; ".join(parts))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _change_of(choices: Sequence[_Choice]) -> str:
    """The measurements that could turn an inconclusive variant into the choice; else what `recommend` names."""
    others = [each for choice in choices for each in choice.others if not each.is_reference]
    texts = [_measure_more(some) for some in ([each for each in others if each.word is Word.INCONCLUSIVE],) if some]
    if apart := [each for each in others if each.word is Word.NOT_COMPARABLE and each.reason]:
        reasons = _listed(dict.fromkeys(each.reason for each in apart), "; ")
        texts.append(f"A measurement of {_labels(apart)} that can be compared: {reasons}.")
    if texts:
        return " ".join(texts)
    blocked = [c.pick for c in choices if c.pick.effects and c.pick.effect("speed").value is None]
    if blocked and (note := blocked[0].effect("speed").note):
        return f"Speed of {_labels(blocked)} is not comparable ({note}): measure it in the setting of its baseline."
    found = [choice.change for choice in choices if choice.change]
    return found[0] if len(choices) == 1 and found else ""


def _measure_more(open_ones: Sequence[VariantVerdict]) -> str:
    wanted: dict[str, list[str]] = {}
    for each in open_ones:
        wanted.setdefault(each.needs or each.reason, []).append(each.label)
    named = [f"{_listed(names)}: {needs}" for needs, names in list(wanted.items())[:_SHOWN]]
    if len(wanted) > _SHOWN:
        named.append(f"{len(wanted) - _SHOWN} more below")
    return f"A conclusive accuracy of {'; '.join(named)}."


# The verdict of `recommend` and of `compare`


def verdict_on(found: Recommendation, study: Study) -> Verdict:
    """The verdict on a recommendation: its pick is the choice, whatever its accuracy, which the costs contain."""
    from slim_eval.analysis.recommend.wording import answer_of, confidence_of

    places = {candidate.variant.directory: place for place, candidate in enumerate(found.ranking.candidates)}
    ranked = {candidate.variant.directory: candidate.variant for candidate in found.ranking.candidates}
    if any(variant.level is not None for variant in ranked.values()):  # gains at the loads that were compared
        study = replace(study, variants=tuple(ranked.get(each.directory, each) for each in study.variants))
    judged = sorted(judge(study), key=lambda each: places.get(each.variant.directory, len(places)))
    pick = found.pick
    words = tuple(
        replace(each, word=Word.DEPLOY)
        if pick is not None and each.variant.directory == pick.variant.directory
        else each
        for each in judged
    )
    own = next((each for each in judged if pick is not None and each.variant.directory == pick.variant.directory), None)
    gains = costs = confidence = ""
    if own is not None and not own.is_reference:
        gains = f"Against its baseline: {_effects_text(own, Tone.BETTER, untested=True) or _NO_GAIN}."
        accuracy = f"accuracy is {own.word.value}: {own.reason}"
        costs = _sentence("; ".join(filter(None, (_effects_text(own, Tone.WORSE, untested=True), accuracy))))
        confidence = " ".join(_sentence(text) for text in _open_effects([own]))
    change = "" if found.next_measurement is None else found.next_measurement.text
    if not change:
        change = "No single measurement is known to change this answer."
    confidence = " ".join(filter(None, (confidence_of(found), confidence)))
    return Verdict(answer_of(found), gains, costs, confidence, change, words)


def verdict_of_comparison(report: ComparisonReport) -> Verdict:
    """The verdict on the second variant of each pair against the first."""
    judged = []
    pairs = [pair for pair in report.pairs if not pair.is_further_load]
    several = len(pairs) > 1
    for pair in pairs:
        effects = _effects_between(pair)
        shared = [task for task in pair.tasks if task.task in pair.b.accuracy and task.task in pair.a.accuracy]
        lacking = [task for task in pair.a.accuracy if task not in pair.b.accuracy]
        judged.append(_judge(pair.b, shared, effects, lacking, _names_of(pair)[1]))
    asked = tuple(
        f"fail if {outcome.condition.text}{outcome.where}: {outcome.decision.value} — {outcome.reason}"
        for outcome in report.outcomes
    )
    if several:
        counted = [f"{sum(each.word is word for each in judged)} {word.value}" for word in Word]
        answer = f"Of {len(judged)} pairs: {', '.join(text for text in counted if not text.startswith('0 '))}."
        open_ones = [each for each in judged if each.word is Word.INCONCLUSIVE]
        change = _measure_more(open_ones) if open_ones else ""
        return Verdict(answer, "", "", "", change, tuple(judged), asked)
    (only,) = judged
    a, b = _names_of(pairs[0])
    better, worse = (_effects_text(only, tone) for tone in (Tone.BETTER, Tone.WORSE))
    gains, losses = (_effects_text(only, tone, untested=True) for tone in (Tone.BETTER, Tone.WORSE))
    crossed = [each.words(a, b) for each in pairs[0].crossovers if each.crossings]
    if pairs[0].b.level is not None and len(report.pairs) > 1:  # of a sweep, the numbers here are of one load
        gains, losses = (text and f"{text} at {pairs[0].b.level.label}" for text in (gains, losses))
    if only.word is Word.SAFE and crossed:
        answer = f"{b} is safe, as accurate as {a}; which of them is better depends on the load."
    elif only.word is Word.DEGRADED:
        answer = f"Keep {a}: {b} is degraded."
    elif only.word is Word.SAFE and better and not worse:
        answer, only = f"Deploy {b}: as accurate as {a}, and better.", replace(only, word=Word.DEPLOY)
    elif only.word is Word.SAFE and worse and not better:
        answer = f"Keep {a}: {b} is as accurate, but worse."
    elif only.word is Word.SAFE:
        trade = "choose between its gains and costs" if better else "no other difference is shown"
        answer = f"{b} is safe, as accurate as {a}; {trade}."
    elif only.word is Word.INCONCLUSIVE:
        answer = f"Inconclusive: {b} is not shown to be as accurate as {a}."
    else:
        answer = f"Not comparable: {only.reason}."
    accuracy = f"accuracy: {only.reason}" if only.word is not Word.NOT_COMPARABLE else ""
    costs = "; ".join(filter(None, (losses, accuracy)))
    confidence = " ".join(_sentence(text) for text in _open_effects([only]))
    if crossed:
        confidence = f"{confidence} The load decides: {'; '.join(crossed)}.".strip()
    change = _measure_more([only]) if only.word is Word.INCONCLUSIVE else ""
    return Verdict(
        answer, f"{gains}." if gains else "", _sentence(costs), confidence, change,
        (only,), asked,
    )  # fmt: skip


def _names_of(pair: VariantComparison) -> tuple[str, str]:
    """What the two are called; those of one name by their letters, because their folders may be long."""
    a, b = (f"{short_name(variant.model)} {variant.shown_precision}" for variant in (pair.a, pair.b))
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


def _listed(texts: Iterable[str], joint: str = ", ", shown: int = _SHOWN) -> str:
    found = list(texts)
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return joint.join(found[:shown]) + more


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")
