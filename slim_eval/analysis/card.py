"""`slim-eval card`: what was measured of a quantized checkpoint, as a section and the metadata of its model card.

The section is what publishers of quantized checkpoints show: a table of recoveries, here with the interval of every
change and its verdict, then speed, energy and memory. The metadata is the hub's ``model-index``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slim_eval._version import __version__
from slim_eval.analysis.comparability import baseline_of
from slim_eval.analysis.compare.items import VERDICT_WORDS
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.verdict_table import markdown_table
from slim_eval.analysis.verdict import VariantVerdict, judge
from slim_eval.errors import UsageError
from slim_eval.models import hub
from slim_eval.results.archive import unpacked
from slim_eval.results.records import PairedTask
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant, labelled
from slim_eval.schemes import is_quantized
from slim_eval.utils import number, short_name, write_text
from slim_eval.utils.redaction import redact

if TYPE_CHECKING:
    from slim_eval.config import CardConfig

#: The section is replaced, and everything around it kept, when a card is made again.
BEGIN, END = "<!-- slim-eval: begin -->", "<!-- slim-eval: end -->"
_ABSENT = "-"
_CARD = "README.md"


@dataclass(frozen=True)
class ModelCard:
    """A model card made from records."""

    text: str  # the whole file, with its metadata
    variant: Variant
    path: Path | None = None  # where it was written; None if it was not
    url: str | None = None  # of the pushed commit; None if it was not pushed


def make_card(config: CardConfig) -> ModelCard:
    """Make the card of one quantized variant, write it beside the checkpoint or to a file, and push both if asked to.

    Raises:
        UsageError: The folder has not exactly one quantized variant, its baseline is missing, or the checkpoint has no
            weights.
        HubError: The hub refuses the push.
    """
    variant, study = _find(config)
    verdict = next(each for each in judge(study) if each.variant.directory == variant.directory)
    checkpoint = config.checkpoint
    if checkpoint is not None and not any(checkpoint.glob("*.safetensors")):
        raise UsageError(
            f"{checkpoint}: contains no safetensors weights", "name the folder of the quantized checkpoint"
        )
    if config.push is not None and checkpoint is None:
        raise UsageError("--push needs the checkpoint", "add --checkpoint with its folder in --quantized-models-dir")
    name = config.push or f"{short_name(variant.model)}-{variant.precision}"
    before = None if checkpoint is None else checkpoint / _CARD
    text = redact(_card(study, verdict, name, before.read_text("utf-8") if before and before.is_file() else ""))
    path = config.output or before
    if path is not None:
        write_text(path, text)
    url = None
    if config.push is not None and checkpoint is not None:
        from slim_eval.models.publish import push_checkpoint

        url = push_checkpoint(checkpoint, config.push, text, private=config.private)
    return ModelCard(text, variant, path, url)


def _find(config: CardConfig) -> tuple[Variant, Study]:
    """The variant, and the study of it with its baseline, which is in a neighbouring folder."""
    folder = unpacked(config.path)
    if not folder.is_dir():
        raise UsageError(f"{config.path}: no such folder", "name the folder of a quantized variant")
    found = [variant for variant in find_results(folder).variants if variant.records and not variant.is_baseline]
    if config.precision is not None:
        found = [variant for variant in found if variant.precision == config.precision]
    if len(found) != 1:
        names = ", ".join(str(variant.directory) for variant in found) or "none"
        raise UsageError(f"{config.path}: a card is of one quantized variant; found: {names}", "name its own folder")
    (variant,) = found
    places = [folder, variant.directory.parent, variant.directory.parent.parent]
    for place in places:
        known = [other for other in find_results(place).variants if other.records]
        if (base := baseline_of(variant, known)) is not None:
            study = Study.read(labelled([base, variant]), margin_pp=config.margin_pp)
            return variant, study
    cause = f"{variant.directory}: no {variant.baseline} measurement of {variant.base_model} beside it"
    raise UsageError(cause, "measure the baseline into the same --output-dir")


def _card(study: Study, verdict: VariantVerdict, name: str, before: str) -> str:
    """The whole card: the metadata and text that were there, with this section and its results."""
    hub.settings()
    from huggingface_hub import ModelCard, ModelCardData

    card = ModelCard(before) if before else ModelCard("---\n{}\n---\n")
    variant, model_name = verdict.variant, name.rpartition("/")[2]
    values: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    values.setdefault("base_model", variant.base_model)
    values.setdefault("base_model_relation", "quantized" if is_quantized(variant.precision) else "finetune")
    values["tags"] = list(dict.fromkeys([*(values.get("tags") or []), "slim-eval", variant.precision]))
    values.pop("model-index", None)  # replaced by these results
    results = _eval_results(study, verdict)
    card.data = ModelCardData(**values | {"model_name": model_name, "eval_results": results})
    section = "\n".join([BEGIN, *section_of(study, verdict), END])
    text = card.text.strip()
    if BEGIN in text and END in text:
        text = text[: text.index(BEGIN)] + section + text[text.index(END) + len(END) :]
    else:
        text = "\n\n".join(filter(None, (text or f"# {model_name}", section)))
    card.text = text
    return f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n"


def _paired(study: Study, verdict: VariantVerdict) -> list[PairedTask]:
    return [pair for pair in study.paired.get(verdict.variant.directory, ()) if pair.task in study.tasks]


def recovery(pair: PairedTask) -> tuple[float, tuple[float, float] | None] | None:
    """Share of the baseline's accuracy in percent, with its 95 % interval; None for a score in another unit.

    The interval is that of the paired drop, over the baseline's accuracy.
    """
    if pair.drop_pp is None or not pair.baseline_accuracy:
        return None
    scale = 1 / pair.baseline_accuracy
    ends = pair.interval_pp
    return 100 - pair.drop_pp * scale, None if ends is None else (100 - ends[1] * scale, 100 - ends[0] * scale)


def _eval_results(study: Study, verdict: VariantVerdict) -> list[Any]:
    from huggingface_hub import EvalResult

    variant, made = verdict.variant, []
    pairs = {pair.task: pair for pair in _paired(study, verdict)}
    for task, record in variant.accuracy.items():
        if (value := variant.number(task)) is None:
            continue
        pair, interval = pairs.get(task), variant.interval(task)
        share = None if pair is None else recovery(pair)
        facts = {
            "interval_95": None if interval is None else [round(end, 6) for end in interval],
            "stderr": record.stderr,
            "num_fewshot": record.num_fewshot,
            "num_items": record.num_items,
            "recovery_percent": None if share is None else round(share[0], 2),
            "verdict": None if pair is None else _verdict_words(pair),
        }
        metric = (record.metric or "accuracy").removesuffix(",none")
        made.append(
            EvalResult(
                task_type="text-generation",
                task_name="Text Generation",
                dataset_type=task,
                dataset_name=task,
                metric_type=metric.split(",")[0],
                metric_name=metric,
                metric_value=round(value, 6),
                metric_args={key: fact for key, fact in facts.items() if fact is not None},
            )
        )
    return made


def _verdict_words(pair: PairedTask) -> str:
    return VERDICT_WORDS.get(pair.verdict or "", "not comparable")


def section_of(study: Study, verdict: VariantVerdict) -> list[str]:
    """The section in Markdown: the verdict, the table of recoveries, what else changed, and how it was measured."""
    variant = verdict.variant
    base = study.baseline(variant)
    lines = ["## Evaluation", "", f"**Verdict: {verdict.word.value}**: {_sentence(verdict)}", ""]
    rows: list[Sequence[str]] = []
    shares = []
    for pair in _paired(study, verdict):
        metric = study.metric(pair.task)
        before, after = (None if v is None else v.number(metric) for v in (base, variant))
        share = recovery(pair)
        change = next((e for e in verdict.tasks if e.measure.split(" ")[0] == pair.task), None)
        shown = _ABSENT if change is None or change.value is None else change.shown.removeprefix(f"{pair.task} ")
        texts = [_ABSENT if value is None else _score(value, metric.is_share) for value in (before, after)]
        rows.append((pair.task, *texts, _recovery_text(share), shown.replace(" pp", ""), _verdict_words(pair)))
        shares += [share[0]] if share is not None else []
    if rows:
        headers = ("Task", variant.baseline, variant.precision, "Recovery, %", "Change, pp", "Verdict")
        if len(shares) > 1:
            rows.append(("**mean**", "", "", f"**{sum(shares) / len(shares):.1f}**", "", ""))
        lines += [*markdown_table(headers, rows), ""]
        margin = next((p.margin_pp for p in _paired(study, verdict) if p.margin_pp is not None), None)
        if margin is not None:
            lines += [f"In brackets: 95 % intervals. *Equivalent*: the whole interval is above -{margin:g} pp.", ""]
    effects = [(e.of, e.shown, e.measure or e.note or "not measured") for e in verdict.effects if e.of != "accuracy"]
    if effects:
        lines += [*markdown_table((f"Against {variant.baseline}", "Change", "Measured as"), effects), ""]
    facts = {
        "Base model": variant.base_model, "Scheme": variant.fact("quantization_scheme") or variant.precision,
        "Engine": " ".join(map(str, filter(None, (variant.engine, variant.fact("engine_version"))))),
        "Hardware": variant.hardware, "Kernels": variant.kernels,
    }  # fmt: skip
    lines += [f"- {key}: {value}" for key, value in facts.items() if value]
    return [*lines, "", f"Measured with slim-eval {__version__}."]


def _sentence(verdict: VariantVerdict) -> str:
    needs = f" To decide: {verdict.needs}." if verdict.needs else ""
    return f"{verdict.reason}.{needs}" if verdict.reason else needs.strip()


def _score(value: float, is_share: bool) -> str:
    return f"{value * 100:.1f} %" if is_share else number(value)


def _recovery_text(share: tuple[float, tuple[float, float] | None] | None) -> str:
    if share is None:
        return _ABSENT
    value, ends = share
    return f"{value:.1f}" + ("" if ends is None else f" [{ends[0]:.1f}, {ends[1]:.1f}]")
