"""Every setting with every command: records that differ in it alone are never ranked, averaged or drawn together.

A setting that is added to `comparability.SETTINGS` fails here until `CHANGES` says how a record differs in it, and then
goes through every command by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from slim_eval.analysis.caveats import EMULATED, SETTING
from slim_eval.analysis.comparability import SETTINGS, Setting, comparable_groups, obstacles
from slim_eval.analysis.compare.comparison import MetricVerdict, compare
from slim_eval.analysis.compare.gate import Decision, decide, parse
from slim_eval.analysis.compare.noise_floor import noise_floor
from slim_eval.analysis.findings import find
from slim_eval.analysis.pareto.frontier import Objective, find_frontiers, frontier
from slim_eval.analysis.recommend.question import Question
from slim_eval.analysis.recommend.recommendation import recommend
from slim_eval.analysis.study import Study
from slim_eval.analysis.tables.csv_tables import summary_statistics
from slim_eval.metrics import ENERGY, J_PER_TOKEN, METRICS, TPOT, WEIGHTS, Basis, Metric, task_metric
from slim_eval.results.records import RECORD_CLASSES, NoiseRecord, Record
from slim_eval.results.store import write_noise
from slim_eval.results.variants import Variant
from tests.planted import items, outcomes

MakeVariant = Callable[..., Variant]
TASK = {
    "accuracy": 0.7,
    "apply_chat_template": False,
    "max_model_len": 512,
    "truncated_requests": 0,
    "prompts_without_turns": 0,
    "task_versions": {"quiz": 1},
    "task_hashes": {"quiz": "a"},
}


class ToyRecord(Record):
    """What a plugin's benchmark wrote."""

    toy_s: float | None = None

    @property
    def name(self) -> str:
        return "toy"


TOY = Metric("toy_s", "toy", "toy", "s", benchmark="toy", basis=Basis.OWN, compared=True)

#: Setting -> how a workload differs in it.
WORKLOADS: Mapping[str, dict[str, Any]] = {
    "load": {"load": "8 requests/s"},
    "max_new_tokens": {"max_new_tokens": 50},
    "dataset": {"dataset": "sharegpt"},
    "speculative": {"speculative": "used"},
    "metadata": {"metadata": {"deployment": "b", "quantization": "fp8"}},
}
#: (basis, setting) -> what makes a record differ in it: changes of the head, of performance, of energy, of the task.
CHANGES: Mapping[tuple[Basis, str], dict[str, Any]] = {
    **{
        (basis, name): {"head": head}
        for basis in (Basis.SPEED, Basis.ENERGY, Basis.OWN)
        for name, head in {
            "engine": {"engine": "transformers"},
            "hardware": {"environment": {"gpus": [{"name": "Other GPU"}]}},
            "kernels": {"kernels": "emulated"},
            "dtype": {"dtype": "float32"},
            "shared_node": {"beside": ["org/other int8: accuracy"]},
        }.items()
    },
    **{(basis, "dtype"): {"head": {"dtype": "float32"}} for basis in (Basis.TASK, Basis.LOADED)},
    **{
        (basis, name): {"head": {"config": {part: {"max_new_tokens": 100} | config}}}
        for basis, part in ((Basis.SPEED, "performance"), (Basis.ENERGY, "energy"))
        for name, config in WORKLOADS.items()
    },
    **{
        (basis, "served_tokens"): {
            "head": {"config": {part: {"max_new_tokens": 100, "load": "8 requests/s"}}},
            part: {"output_tokens": 300.0},
        }
        for basis, part in ((Basis.SPEED, "performance"), (Basis.ENERGY, "energy"))
    },
    (Basis.SPEED, "batch_size"): {"performance": {"batch_size": 4}},
    (Basis.SPEED, "prompt_tokens"): {"performance": {"prompt_tokens": 512.0}},
    (Basis.ENERGY, "batch_size"): {"energy": {"batch_size": 4}},
    (Basis.ENERGY, "prompt_tokens"): {"energy": {"prompt_tokens": 512.0}},
    (Basis.ENERGY, "energy_source"): {"energy": {"energy_source": "codecarbon (cpu load)"}},
    (Basis.ENERGY, "num_runs"): {"energy": {"num_runs": 10}},
    (Basis.TASK, "metric"): {"task": {"metric": "acc_norm,none"}},
    (Basis.TASK, "unit"): {"task": {"accuracy": 70.0}},  # in percent: not a share
    (Basis.TASK, "num_fewshot"): {"task": {"num_fewshot": 0}},
    (Basis.TASK, "limit"): {"task": {"limit": 100}},
    (Basis.TASK, "num_items"): {"task": {"num_items": 100}},
    (Basis.TASK, "apply_chat_template"): {"task": {"apply_chat_template": True}},
    (Basis.TASK, "thinking"): {"task": {"thinking": "off"}},
    (Basis.TASK, "max_model_len"): {"task": {"max_model_len": 72}},
    (Basis.TASK, "truncated_requests"): {"task": {"truncated_requests": 9}},
    (Basis.TASK, "prompts_without_turns"): {"task": {"prompts_without_turns": 9}},
    (Basis.TASK, "version"): {"task": {"task_versions": {"quiz": 2}}},
    (Basis.TASK, "items_hash"): {"task": {"task_hashes": {"quiz": "b"}}},
    (Basis.LOADED, "kernels"): {"head": {"kernels": "emulated"}},
}
#: What the other record has, if the setting only counts where both have it.
OTHER_WORKLOADS: Mapping[str, dict[str, Any]] = {
    "metadata": {"metadata": {"deployment": "a", "quantization": "int4"}},
    "served_tokens": {"load": "8 requests/s"},
}
OTHERS: Mapping[str, dict[str, Any]] = {
    name: {
        "head": {"config": {part: {"max_new_tokens": 100} | config for part in ("performance", "energy")}},
        "energy": {"output_tokens": 100.0},
    }
    for name, config in OTHER_WORKLOADS.items()
}
METRIC_OF: Mapping[Basis, Metric] = {
    Basis.SPEED: TPOT, Basis.ENERGY: J_PER_TOKEN, Basis.TASK: task_metric("quiz"),
    Basis.LOADED: WEIGHTS, Basis.OWN: TOY,
}  # fmt: skip
EACH = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.basis.value}-{setting.name}")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(RECORD_CLASSES, "toy", ToyRecord)
    METRICS.register(TOY)
    yield
    METRICS.unregister(TOY.key)


def metric_of(setting: Setting) -> Metric:
    return ENERGY if setting.per_run else METRIC_OF[setting.basis]


def made(make_variant: MakeVariant, model: str, precision: str, change: dict[str, Any], **better: Any) -> Variant:
    """A variant with every record; `change` is what it differs in."""
    right = outcomes(20, right=14)[0]
    variant = make_variant(
        model,
        precision,
        head={
            "kernels": "native",
            "dtype": "bfloat16",
            "beside": [],
            "config": {"performance": {"max_new_tokens": 100}, "energy": {"max_new_tokens": 100}},
        }
        | change.get("head", {}),
        performance={"prompt_tokens": 12.0, **better} | change.get("performance", {}),
        energy={"prompt_tokens": 12.0} | change.get("energy", {}),
        tasks={"quiz": TASK | change.get("task", {})},
        samples={"quiz": items(right)},
    )
    head = variant.records[0].model_dump(include=set(Record.model_fields))
    toy = ToyRecord(**head, toy_s=1.0)
    return replace(variant, measured={**variant.measured, "toy": toy})


def pair(
    make_variant: MakeVariant, setting: Setting, models: tuple[str, str], precisions: tuple[str, str]
) -> list[Variant]:
    """Two variants that differ in the setting alone."""
    change = CHANGES[setting.basis, setting.name]
    return [
        made(make_variant, models[0], precisions[0], OTHERS.get(setting.name, {})),
        made(make_variant, models[1], precisions[1], change, tpot_s=0.0039),
    ]


def one_model(make_variant: MakeVariant, setting: Setting) -> list[Variant]:
    return pair(make_variant, setting, ("org/Tiny", "org/Tiny"), ("fp16", "int8"))


def two_models(make_variant: MakeVariant, setting: Setting) -> list[Variant]:
    return pair(make_variant, setting, ("org/A", "org/B"), ("fp16", "fp16"))


ACROSS = pytest.mark.parametrize(
    "setting",
    [setting for setting in SETTINGS if setting.across_models],
    ids=lambda setting: f"{setting.basis.value}-{setting.name}",
)


@EACH
def test_it_is_an_obstacle(setting: Setting, make_variant: MakeVariant) -> None:
    base, this = one_model(make_variant, setting)
    (reason,) = obstacles(metric_of(setting), this, base)
    assert setting.words in reason


@EACH
def test_compare_and_its_gate_decide_nothing(setting: Setting, make_variant: MakeVariant) -> None:
    base, this = one_model(make_variant, setting)
    found = compare(base, this, 1.0)
    metric = metric_of(setting)
    if setting.basis is Basis.TASK:
        (task,) = found.tasks
        assert setting.words in str(task.refused)
        condition = "quiz_drop>1pp"
    else:
        (row,) = (each for each in found.metrics if each.metric.key == metric.key)
        assert row.verdict is MetricVerdict.NOT_COMPARABLE
        condition = f"{metric.key}>5%"
    (parsed,) = parse([condition], ["quiz"])
    assert decide(parsed, found).decision is Decision.UNDECIDED


@EACH
def test_analyze_reports_no_change(setting: Setting, make_variant: MakeVariant) -> None:
    study = Study.of(one_model(make_variant, setting))
    (impact,) = study.impacts
    if setting.basis is Basis.SPEED:
        assert impact.speedups == {}
    elif setting.per_run:
        assert impact.energy_basis != "whole run; output lengths not known"
    elif setting.basis is Basis.ENERGY:
        assert impact.energy_reduction is None
    elif setting.basis is Basis.TASK:
        assert impact.drops == {}
    elif setting.basis is Basis.LOADED:
        assert impact.weights_ratio is None


@ACROSS
def test_groups_statistics_and_best_keep_them_apart(setting: Setting, make_variant: MakeVariant) -> None:
    study, metric = Study.of(two_models(make_variant, setting)), metric_of(setting)
    assert len(comparable_groups(study.variants, [metric]).names) == 2
    table = summary_statistics(study)
    assert set(table[table["metric"] == metric.key]["n"]) <= {1}
    for section in find(study, find_frontiers(study)):
        if section.heading == "Best by each measure":
            texts = [text for text in section.sentences if metric.title in text]
            assert not any("of 2 variants" in text for text in texts)


@ACROSS
def test_they_are_on_no_common_frontier(setting: Setting, make_variant: MakeVariant) -> None:
    study, metric = Study.of(two_models(make_variant, setting)), metric_of(setting)
    found = frontier(study, [Objective(metric, metric.maximise)])
    assert [standing.rivals for standing in found.standings] == [0, 0]
    assert len({standing.group for standing in found.standings}) == 2


@ACROSS
def test_recommend_ranks_them_in_two_settings(setting: Setting, make_variant: MakeVariant) -> None:
    study, metric = Study.of(two_models(make_variant, setting)), metric_of(setting)
    found = recommend(study, Question(objective=metric.key))
    assert [len(ranking.candidates) for ranking in (found.ranking, *found.others)] == [1, 1]


@EACH
def test_figures_and_tables_mark_the_number(setting: Setting, make_variant: MakeVariant) -> None:
    study = Study.of(one_model(make_variant, setting))
    marks = study.marks(study.variants[1], metric_of(setting))
    if setting.basis in (Basis.SPEED, Basis.ENERGY) and not setting.per_run:
        assert EMULATED in marks if setting.name == "kernels" else SETTING in marks
    elif setting.basis is Basis.LOADED:
        assert (EMULATED if setting.name == "kernels" else SETTING) in marks


@pytest.mark.parametrize(
    "setting",
    # A floor is of slim-eval's own batches: those of `OTHERS` belong to a load, which is a setting itself.
    [s for s in SETTINGS if s.basis is Basis.SPEED and s.name != "kernels" and s.name not in OTHERS],
    ids=lambda setting: setting.name,
)
def test_a_noise_floor_of_another_setting_is_not_used(setting: Setting, make_variant: MakeVariant) -> None:
    base, this = one_model(make_variant, setting)
    write_noise(
        base.directory.parent,
        NoiseRecord(
            model="org/Tiny", precision="fp16", timestamp="", engine="vllm", hardware="Test GPU, Test CPU",
            dtype="bfloat16", shared_node="no", batch_size=8, max_new_tokens=100, prompt_tokens=12.0,
        ),
    )  # fmt: skip
    assert noise_floor(base) is not None
    assert noise_floor(this) is None
