"""Planning: what can be known before anything is started."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import QuantizationConfig, RunConfig
from slim_eval.demo import CALIBRATION_FILE, MODEL_DIR, TASKS
from slim_eval.errors import MissingPackageError, SlimEvalError, UsageError
from slim_eval.execution import messages, plan
from slim_eval.execution.executor import LocalExecutor
from slim_eval.quantization import cache
from tests.unit.models.test_checkpoint_checks import write_weights


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[messages.CheckJob]:
    """The questions put to the measuring interpreter, all of them answered with yes."""
    asked: list[messages.CheckJob] = []

    def submit(self: LocalExecutor, job: Any, **_: Any) -> Iterator[messages.Outcome]:
        asked.append(job)
        yield messages.Outcome()

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    monkeypatch.chdir(tmp_path)
    return asked


def model(folder: Path, **changes: Any) -> str:
    """A folder with a changed configuration of the embedded model."""
    shutil.copytree(MODEL_DIR, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return str(folder)


def variants(**options: Any) -> list[plan.PlannedVariant]:
    config = RunConfig(**options)
    planned, _ = plan.lay_out(config)
    plan.check(config, planned)
    return planned


def test_variants_go_model_by_model_and_16_bit_first(tmp_path: Path) -> None:
    planned = variants(models=["demo", model(tmp_path / "Tiny")], precision="int4 fp16 int8")
    assert [variant.precision for variant in planned] == ["fp16", "int8", "int4"] * 2
    assert [variant.source.name for variant in planned][::3] == ["demo", str(tmp_path / "Tiny")]


def test_stages_are_in_their_order() -> None:
    (variant,) = variants(models="demo", precision="int8", tasks="accuracy energy performance")
    assert variant.stages == ["quantize", "engine", "performance", "energy", *TASKS]


def test_the_context_is_lowered_to_the_models_own() -> None:
    assert variants(models="demo")[0].max_model_len == 1024
    assert variants(models="demo", engine={"max_model_len": 512})[0].max_model_len == 512


def test_a_context_that_was_asked_for_is_refused_where_the_model_is_shorter() -> None:
    with pytest.raises(UsageError, match="8192"):
        variants(models="demo", engine={"max_model_len": 8192})


def test_two_models_with_one_short_name_never_share_a_folder(tmp_path: Path) -> None:
    planned = variants(models=[model(tmp_path / "a" / "Tiny"), model(tmp_path / "b" / "tiny")], precision="fp16 int8")
    folders = [str(variant.directory).casefold() for variant in planned]
    assert len(set(folders)) == 4
    checkpoints = {variant.quantize_request(variant.source).models for variant in planned}
    assert checkpoints == {(str(tmp_path / "a" / "Tiny"), str(tmp_path / "b" / "tiny"))}


def test_the_embedded_model_brings_its_tasks_and_texts() -> None:
    (variant,) = variants(models="demo")
    assert variant.config.accuracy.tasks == TASKS
    assert variant.config.quantization.calibration_dataset == str(CALIBRATION_FILE)


def test_what_was_asked_for_stays(tmp_path: Path) -> None:
    (variant,) = variants(
        models="demo", accuracy={"tasks": "hellaswag"}, quantization={"calibration_dataset": str(tmp_path)}
    )
    assert variant.config.accuracy.tasks == ("hellaswag",)
    assert variant.config.quantization.calibration_dataset == str(tmp_path)


def test_the_measuring_interpreter_is_asked_about_tasks_only_where_they_are_run(
    checks: list[messages.CheckJob],
) -> None:
    variants(models="demo")
    variants(models="demo", tasks="performance")
    assert [job.stages.get("accuracy") for job in checks] == [TASKS, None]


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (messages.Failed(stage="check", cause="unknown task", remedy="another", usage=True), UsageError),
        (messages.Failed(stage="check", cause="no kernel", remedy="another", usage=False), SlimEvalError),
    ],
)
def test_its_answer_stops_the_run(
    event: messages.Failed, error: type[SlimEvalError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(self: LocalExecutor, job: Any, **_: Any) -> Iterator[messages.Event | messages.Outcome]:
        yield event
        yield messages.Outcome()

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    with pytest.raises(error, match=event.cause):
        variants(models="demo")


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    name = model(tmp_path / "Tiny", quantization_config={"quant_method": "awq"})
    assert len(variants(models=[name])) == 1
    with pytest.raises(UsageError, match="already quantized"):
        variants(models=[name], precision="int4")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slim_eval.utils.environment.missing_modules", lambda modules, python: ["lm_eval"])
    with pytest.raises(MissingPackageError, match="lm_eval") as caught:
        variants(models="demo")
    assert "pip install" in caught.value.remedy


@pytest.mark.parametrize("name", ["afile", "afile/below"])
def test_an_output_folder_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    with pytest.raises(UsageError, match="is a file"):
        variants(models="demo", output_dir=Path(name))
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


def test_a_group_size_that_does_not_fit_is_refused_unless_the_checkpoint_is_there(tmp_path: Path) -> None:
    name = model(tmp_path / "Narrow", model_type="llama")
    (tmp_path / "Narrow" / "tokenizer.json").unlink()
    tensors = {"model.embed_tokens.weight": ((4, 80), None), "model.a.weight": ((2, 80), None)}
    write_weights(tmp_path / "Narrow" / "model.safetensors", tensors)
    planned, _ = plan.lay_out(RunConfig(models=name, precision="fp16 int8"))
    assert [variant.precision for variant in planned] == ["fp16", "int8"]
    config = RunConfig(models=name, precision="fp16 int4")
    with pytest.raises(UsageError, match=r"1 of 1 layers do not comply, e\.g\. model\.a \(80\)") as refused:
        plan.lay_out(config)
    assert refused.value.remedy == "leave int4 out of --precision for this model"
    request = planned[0].quantize_request(planned[0].source)
    made = cache.checkpoint_directory(request.model_copy(update={"precision": "int4"}))
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    assert len(plan.lay_out(config)[0]) == 2
    with pytest.raises(UsageError, match=r"\(80\)"):
        plan.lay_out(config.model_copy(update={"quantization": QuantizationConfig(requantize=True)}))


def test_a_group_size_that_fits_is_planned_and_told(tmp_path: Path) -> None:
    name = model(tmp_path / "Narrow", model_type="llama")
    (tmp_path / "Narrow" / "tokenizer.json").unlink()
    tensors = {"model.embed_tokens.weight": ((4, 576), None), "model.a.weight": ((2, 576), None)}
    write_weights(tmp_path / "Narrow" / "model.safetensors", tensors)
    config = RunConfig(models=name, precision="fp16 int4")
    variant = plan.lay_out(config)[0][1]
    assert variant.quantize_request(variant.source).group_size == 64
    assert variant.recorded_as(variant.source) == "GPTQ (W4A16 g64)"
    assert "int4: groups of 64 columns, because 128 does not fit model.a (576)" in variant.notes
    assert next(iter(variant.settings(()).values()))["group_size"] == 64
    asked = config.model_copy(update={"quantization": QuantizationConfig(group_size=32)})
    variant = plan.lay_out(asked)[0][1]
    assert variant.recorded_as(variant.source) == "GPTQ (W4A16 g32)"


def test_warnings_on_a_checkpoint_go_with_its_variants(tmp_path: Path) -> None:
    name = model(tmp_path / "Tiny", vision_config={"depth": 1})
    note = "the model is for vision besides text: only text is measured"
    planned = variants(models=[name, "demo"], precision="fp16 int8")
    assert [variant.notes for variant in planned] == [(note,), (note,), (), ()]


@pytest.mark.parametrize(("requested", "expected"), [("auto", ["transformers"]), ("vllm", ["vllm"])])
def test_the_engines_that_may_serve_are_those_installed(
    monkeypatch: pytest.MonkeyPatch, requested: str, expected: list[str]
) -> None:
    monkeypatch.setattr(
        "slim_eval.utils.environment.missing_modules", lambda modules, python: [m for m in modules if m == "vllm"]
    )
    config = RunConfig(models="demo", engine={"engine": requested})
    use = plan.intended_use(config, plan.models.resolve("demo"), ("fp16",))
    assert [server.name for server in use.servers] == expected  # type: ignore[attr-defined]


def test_patterns_become_the_tasks_that_they_match() -> None:
    (variant,) = variants(models="demo", accuracy={"tasks": "demo_mmlu_* demo_gsm8k"}, tasks="accuracy")
    assert variant.todo == ["demo_mmlu_animals", "demo_mmlu_foods", "demo_mmlu_jobs", "demo_gsm8k"]
    with pytest.raises(UsageError, match="no lm-eval task matches 'demo_none_\\*'"):
        variants(models="demo", accuracy={"tasks": "demo_none_*"})


def test_each_model_is_checked_with_its_own_window_and_stages(checks: list[messages.CheckJob], tmp_path: Path) -> None:
    small = model(tmp_path / "Small", max_position_embeddings=256)
    variants(models=["demo", small], precision="fp16 int8", tasks="accuracy")
    (job,) = checks
    found = {served.source.name: (served.max_model_len, served.stages) for served in job.models["accuracy"]}
    assert found == {"demo": (1024, TASKS), small: (256, ("mmlu", "gsm8k", "hellaswag"))}


CHECKED = messages.Finished(stage=messages.CHECK)


def _previewed(monkeypatch: pytest.MonkeyPatch, *events: Any, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The models whose prompts the worker that checks is asked to read, and the notes on them."""
    jobs: list[Any] = []

    def submit(self: LocalExecutor, job: Any, **_: Any) -> Iterator[Any]:
        jobs.append(job)
        yield CHECKED
        yield from events or [*[messages.Note(text="cut")][: len(job.previews)], messages.Outcome()]

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    config = RunConfig(**{"models": "demo", "tasks": "accuracy", **options})
    with contextlib.closing(plan.check(config, plan.lay_out(config)[0])) as checked:
        notes = list(checked.notes)
    (job,) = jobs  # one worker does both
    return job.previews, notes


def test_prompts_are_previewed_unless_they_are_known_to_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _previewed(monkeypatch) == ({}, [])
    assert _previewed(monkeypatch, tasks="performance", engine={"max_model_len": 512}) == ({}, [])
    models, notes = _previewed(monkeypatch, engine={"max_model_len": 512})
    assert [(served.max_model_len, served.stages) for served in models["accuracy"]] == [(512, TASKS)]
    assert notes == ["cut"]
    assert _previewed(monkeypatch, accuracy={"apply_chat_template": True})[1] == ["cut"]
    assert _previewed(monkeypatch, accuracy={"num_fewshot": 6})[1] == ["cut"]
    assert _previewed(monkeypatch, models=model(tmp_path / "Tiny"))[1] == ["cut"]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (messages.Failed(stage="preview", cause="no package", remedy=""), "no package"),
        (messages.Outcome(1, "preview", "KeyError: 'question'"), "KeyError: 'question' (exit status 1)"),
    ],
)
def test_a_preview_that_fails_is_said_and_stops_nothing(
    event: messages.Failed | messages.Outcome, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, notes = _previewed(monkeypatch, event, engine={"max_model_len": 512})
    assert notes == [f"whether all prompts fit the context window could not be checked: {words}"]


@pytest.mark.parametrize("usage", [True, False])
def test_what_is_refused_before_the_prompts_are_read_ends_the_run(usage: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(self: LocalExecutor, job: Any, **_: Any) -> Iterator[Any]:
        yield messages.Failed(stage=messages.CHECK, cause="no", remedy="", usage=usage)
        pytest.fail("the worker was not stopped")

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    config = RunConfig(models="demo", tasks="accuracy", engine={"max_model_len": 512})
    with pytest.raises(SlimEvalError, match="no") as caught:
        plan.check(config, plan.lay_out(config)[0])
    assert isinstance(caught.value, UsageError) is usage


def test_a_check_is_answered_before_the_prompts_are_read_and_its_worker_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def submit(self: LocalExecutor, job: Any, **_: Any) -> Iterator[Any]:
        try:
            yield messages.Chosen(precision="fp16", engine="transformers")
            yield CHECKED
            done.append("prompts")
            yield messages.Outcome()
        finally:
            done.append("ended")

    monkeypatch.setattr(LocalExecutor, "submit", submit)
    config = RunConfig(models="demo", tasks="accuracy", engine={"max_model_len": 512})
    checked = plan.check(config, plan.lay_out(config)[0])
    assert (checked.engines, done) == ({"fp16": "transformers"}, [])
    checked.close()
    assert done == ["ended"]


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
INT8 = {"num_bits": 8, "type": "int"}
W8A8 = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": INT8, "input_activations": INT8}}}


@pytest.mark.parametrize(
    ("asked", "own", "found"),
    [
        (["fp16"], "w8a8", ["w8a8"]),
        (["as-is"], "w8a8", ["w8a8"]),
        (["as-is", "fp16", "w8a8"], "w8a8", ["w8a8"]),
        (["fp16", "fp8"], "fp8", ["fp8 as-is"]),  # slim-eval has a scheme of that name, which it would make
        (["as-is", "int8"], None, ["fp16", "int8"]),
        (["int8", "fp16"], "w8a8", ["int8", "w8a8"]),  # int8 is refused by the checks of the checkpoint
    ],
)
def test_a_checkpoint_that_came_quantized_is_measured_under_its_own_scheme(
    asked: list[str], own: str | None, found: list[str]
) -> None:
    assert plan.served_schemes(asked, own) == found


def test_a_plain_model_and_a_quantized_one_made_from_it(tmp_path: Path) -> None:
    plain, awq = model(tmp_path / "Tiny"), model(tmp_path / "Tiny-AWQ", quantization_config=AWQ)
    Path(awq, "README.md").write_text("---\nbase_model: org/Tiny\n---\n# card\n")
    first, second = variants(models=[plain, awq])
    assert (first.precision, first.base_model, first.base) == ("fp16", None, plain)
    assert (second.precision, second.directory.name) == ("w4a16-awq g128", "Tiny-AWQ_w4a16-awq_g128")
    assert second.base_model == plain, "the folder of that name in this run"
    assert variants(models=[awq])[0].base_model == "org/Tiny"
    assert variants(models=[awq], base_model="org/Other")[0].base_model == "org/Other"
    assert second.stages == ["engine", "performance", *(stage for stage in second.stages[2:])]


def test_a_base_model_is_only_given_for_a_quantized_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model of this run is quantized already"):
        variants(models=model(tmp_path / "Tiny"), base_model="org/Other")


def test_another_scheme_of_a_quantized_model_is_refused_by_its_name(tmp_path: Path) -> None:
    name = model(tmp_path / "Tiny-W8A8", quantization_config=W8A8)
    with pytest.raises(UsageError, match=r"already quantized \(w8a8\) and cannot be quantized to int8") as failure:
        variants(models=[model(tmp_path / "Tiny"), name], precision="fp16 int8")
    assert "--precision as-is" in failure.value.remedy


@pytest.mark.parametrize("name", ["w8a8", "w4a16-awq", "fp7", "as_is"])
def test_a_scheme_that_the_model_does_not_have_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="unknown precision"):
        variants(models="demo", precision=name)
