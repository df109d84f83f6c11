"""From foreign files to variants: recognised, placed, never overwritten, never half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slim_eval
from slim_eval.analysis.comparability import baseline_of
from slim_eval.analysis.impact import impact_columns, impact_of
from slim_eval.cli import main
from slim_eval.config import ImportConfig
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.importers import IMPORTERS, ImportReport, importer_of
from slim_eval.results.importers import import_results as import_config
from slim_eval.results.records import AccuracyRecord, PerformanceRecord, ServingRecord
from slim_eval.results.store import find_results, read_record, read_samples, write_record
from slim_eval.results.variants import Variant
from tests.generated import examples
from tests.unit.results.importers.conftest import DATA, foreign, read

LM_EVAL = "lm_eval/results_2026-11-24T14-46-58.266836.json"
FILES = {
    LM_EVAL: "lm-eval",
    "vllm_latency.json": "vllm bench",
    "vllm_throughput.json": "vllm bench",
    "vllm_serve.json": "vllm bench",
    "vllm_serve_detailed.json": "vllm bench",
    "guidellm_v1.json": "guidellm",
    "guidellm_v2.json": "guidellm",
}


def import_results(paths: list[Path], output_dir: Path, **options: Any) -> ImportReport:
    return import_config(ImportConfig(paths=tuple(paths), output_dir=output_dir, **options))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "tool"), FILES.items())
def test_every_format_is_recognised_by_its_fields(data: Path, tmp_path: Path, name: str, tool: str) -> None:
    path = Path(shutil.copy(data / name, tmp_path / "any.json"))
    importer = importer_of(foreign(path))
    assert importer is not None
    assert importer.name == tool


@pytest.mark.parametrize(
    "content", [None, [], 3, "text", {}, {"results": {}}, {"latencies": [1]}, {"schema_version": 1}]
)
def test_anything_else_is_not(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(content))
    assert importer_of(foreign(path)) is None


def test_everything_at_once_becomes_variants(data: Path, tmp_path: Path) -> None:
    report = import_results([data], tmp_path / "out", model="demo", precision="fp16")
    report.raise_for_problems()
    assert files_below(tmp_path / "out") == sorted(
        [
            *(f"demo/demo_fp16/{task}{end}" for task in ("demo_gsm8k", "demo_hellaswag", "demo_mmlu")
              for end in (".json", ".samples.jsonl.gz")),
            *(f"{setting}/demo/demo_fp16/performance{end}" for setting in ("batch-2-output-8", "throughput-6")
              for end in (".json", ".samples.jsonl.gz")),
            *(f"demo/demo_fp16/serving{end}" for end in (".json", ".samples.jsonl.gz")),
        ]
    )  # fmt: skip
    assert len(report.paths) == 6
    assert len(report.variants) == 3
    (record,) = (read_record(path) for path in report.paths if path.name == "serving.json")
    assert isinstance(record, ServingRecord)
    labels = [level.label for level in record.levels]
    assert labels == ["constant-4", "rate-4.0", "concurrent-1", "concurrent-2", "concurrency-2"]
    results = find_results(tmp_path / "out")
    assert results.problems == ()
    assert {variant.model for variant in results.variants} == {"demo"}


def test_a_single_measurement_stands_beside_the_accuracies(data: Path, tmp_path: Path) -> None:
    import_results([data / "vllm_serve.json", data / LM_EVAL], tmp_path, precision="fp16")
    (variant,) = find_results(tmp_path).variants
    assert variant.directory == tmp_path / "demo" / "demo_fp16"
    assert variant.model == "models/demo"
    assert variant.performance is not None
    assert len(variant.accuracy) == 3


def test_a_record_says_where_it_comes_from(data: Path, tmp_path: Path) -> None:
    report = import_results([data / "guidellm_v2.json"], tmp_path, precision="int8")
    record = read_record(report.paths[0])
    assert isinstance(record, PerformanceRecord)
    assert record.config is not None
    origin = record.config["import"]
    assert (origin["tool"], origin["version"], origin["file"]) == ("guidellm", "0.7.2", "guidellm_v2.json")
    assert len(origin["sha256"]) == 64
    assert record.notes[0] == "imported from guidellm_v2.json, written by guidellm 0.7.2"
    assert (record.schema_version, record.precision, record.model) == (1, "int8", "demo")
    assert (record.engine, record.environment, record.kernels) == (None, None, None)
    assert any(note.startswith("guidellm_v2.json: measured by a client") for note in report.notes)


def test_the_precision_is_asked_for_where_no_file_says_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vllm_serve\.json.*precision at which it was measured") as failure:
        import_results([data / LM_EVAL, data / "vllm_serve.json"], tmp_path / "out")
    assert "--precision" in failure.value.remedy
    assert not (tmp_path / "out").exists(), "nothing is written before everything is known"


def test_the_precision_of_a_16_bit_dtype_is_taken_and_said(data: Path, tmp_path: Path) -> None:
    report = import_results([data / LM_EVAL], tmp_path)
    assert {path.parent.name for path in report.paths} == {"demo_fp16"}
    assert any("precision fp16 is taken from the file" in note for note in report.notes)
    assert read_record(report.paths[0]).notes[-1] == "precision fp16 is taken from the file; --precision overrides it"


def test_the_users_word_replaces_the_files(data: Path, tmp_path: Path) -> None:
    report = import_results([data / LM_EVAL], tmp_path, model="org/Tiny", precision="fp8")
    assert {path.parent.name for path in report.paths} == {"Tiny_fp8"}
    assert not any("taken from the file" in note for note in report.notes)


def test_the_model_is_asked_for_where_no_file_says_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name of the model") as failure:
        import_results([data / "guidellm_v1.json"], tmp_path, precision="fp16")
    assert "--model" in failure.value.remedy


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "../x"}, "--precision"),
        ({"precision": ""}, "--precision"),
        ({"model": " "}, "--model"),
    ],
)
def test_options_that_cannot_be_are_refused(data: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        import_results([data / "vllm_serve.json"], tmp_path, **{"model": "m", "precision": "fp16", **options})


@pytest.mark.parametrize("option", ["--batch-size", "--max-new-tokens"])
def test_sizes_below_one_are_refused(data: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(data / "vllm_serve.json"), option, "0"]) == 2
    assert f"{option}: 0" in capsys.readouterr().err


def test_paths_that_cannot_be_read_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        import_results([tmp_path / "none.json"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="contains no result file"):
        import_results([tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        import_results([data], tmp_path / "file", model="m", precision="fp16")


def test_one_bad_file_does_not_stop_the_others(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(data / "vllm_serve.json", folder / "good.json")
    (folder / "truncated.json").write_text((data / "vllm_serve.json").read_text(encoding="utf-8")[:300])
    (folder / "other.json").write_text('{"first": 1, "second": 2}')
    (folder / "newer.json").write_text('{"avg_latency": 1.0, "samples": [1.0]}')
    (folder / "list.json").write_text("[1]")
    (folder / "own.json").write_text('{"schema_version": 1, "model": "m", "precision": "fp16"}')
    report = import_results([folder], tmp_path / "out", precision="fp16")
    assert files_below(tmp_path / "out") == ["demo/demo_fp16/performance.json"]
    problems = "\n".join(report.problems)
    assert len(report.problems) == 5
    tools = ", ".join(IMPORTERS)
    assert (
        f"other.json: unknown format, first fields: 'first', 'second'; slim-eval imports results of {tools}" in problems
    )
    assert "newer.json: field 'latencies' is missing (read as a result of vllm bench)" in problems
    assert "truncated.json: not readable as JSON" in problems
    assert "list.json: contains a JSON list without objects" in problems
    assert "own.json: slim-eval's own record: use `slim-eval analyze`" in problems
    with pytest.raises(ResultFileError, match=r"and 4 more") as failure:
        report.raise_for_problems()
    assert failure.value.exit_code == 1
    assert failure.value.remedy == "the other results were imported: 1 records"


def test_a_file_whose_second_half_is_bad_leaves_nothing(data: Path, tmp_path: Path) -> None:
    good = json.dumps(json.loads((data / "vllm_serve.json").read_text(encoding="utf-8")))
    path = tmp_path / "appended.json"
    path.write_text(f"{good}\n{good[:-40]}")
    report = import_results([path], tmp_path / "out", precision="fp16")
    assert len(report.problems) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ResultFileError) as failure:
        report.raise_for_problems()
    assert failure.value.remedy.startswith("nothing was imported")


def test_appended_results_are_levels_of_one_record(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "vllm_serve.json").read_text(encoding="utf-8"))
    path = tmp_path / "appended.json"
    path.write_text("\n".join(json.dumps(content | {"request_rate": rate}) for rate in (2.0, 1.0)))
    report = import_results([path], tmp_path / "out", precision="fp16")
    (record,) = map(read_record, report.paths)
    assert isinstance(record, ServingRecord)
    assert [level.request_rate for level in record.levels] == [1.0, 2.0]


@pytest.mark.parametrize("name", ["vllm_serve.json", LM_EVAL])
def test_a_copy_is_skipped_with_a_note(data: Path, tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(data / name, tmp_path / folder / "r.json")
    once = import_results([tmp_path / "a"], tmp_path / "once", precision="fp16")
    report = import_results([tmp_path / "b", tmp_path / "a"], tmp_path / "out", precision="fp16")
    assert (len(report.paths), report.problems) == (len(once.paths), ())
    copies = [note for note in report.notes if "has the same content" in note]
    assert len(copies) == len(once.paths)
    assert all(note.startswith(str(tmp_path / "b")) and str(tmp_path / "a") in note for note in copies)


def test_a_file_named_twice_is_read_once(data: Path, tmp_path: Path) -> None:
    report = import_results([data / "vllm_serve.json", data / "vllm_serve.json"], tmp_path, precision="fp16")
    assert (len(report.paths), report.problems) == (1, ())


def test_importing_again_changes_nothing(data: Path, tmp_path: Path) -> None:
    first = import_results([data], tmp_path, model="demo", precision="fp16")
    before = {path: path.read_bytes() for path in first.paths}
    second = import_results([data], tmp_path, model="demo", precision="fp16")
    assert second == first
    assert {path: path.read_bytes() for path in second.paths} == before


def test_a_measurement_of_another_origin_is_never_replaced(
    data: Path, tmp_path: Path, make_variant: Callable[..., Variant], changed: Callable[..., Path]
) -> None:
    variant = make_variant("models/demo", "fp16", tasks={"demo_mmlu": 0.5}, write=True)
    out = variant.directory.parent.parent
    before = {path: path.read_bytes() for path in variant.directory.iterdir()}
    report = import_results([data / "vllm_serve.json", data / LM_EVAL], out, precision="fp16")
    assert {path.name for path in report.paths} == {"demo_gsm8k.json", "demo_hellaswag.json"}
    assert len(report.problems) == 2
    assert all("contains another measurement" in problem for problem in report.problems)
    assert {path: path.read_bytes() for path in before} == before

    fresh = tmp_path / "fresh"
    import_results([data / "vllm_serve.json"], fresh, precision="fp16")
    other = changed("vllm_serve.json", lambda content: content.update(request_rate=8.0))
    report = import_results([other], fresh, precision="fp16")
    assert (report.paths, len(report.problems)) == ((), 1)


def test_models_that_share_a_short_name_get_a_folder_each(tmp_path: Path, changed: Callable[..., Path]) -> None:
    first = changed("vllm_serve.json", lambda content: content.update(model_id="a/Tiny"))
    second = changed("guidellm_v2.json", lambda c: c["benchmarks"][0]["config"]["backend"].update(model="b/Tiny"))
    import_results([first, second], tmp_path / "out", precision="fp16")
    assert [variant.model for variant in find_results(tmp_path / "out").variants] == ["a/Tiny", "b/Tiny"]


def import_both(data: Path, out: Path) -> None:
    for precision in ("fp16", "int8"):
        import_results([data / "vllm_serve_detailed.json", data / LM_EVAL], out, precision=precision)


def test_imported_variants_are_loaded(data: Path, tmp_path: Path) -> None:
    import_both(data, tmp_path)
    frame = slim_eval.load_results(tmp_path).set_index("precision")
    assert frame.loc["fp16", "demo_mmlu"] == 0.8333333333333334
    assert frame.loc["int8", "batch_size"] == 2


@pytest.mark.large
def test_analysis_reads_imported_variants(data: Path, tmp_path: Path) -> None:
    import_both(data, tmp_path / "out")
    report = slim_eval.analyze(input_dir=tmp_path / "out", output_dir=tmp_path / "analysis")
    assert report.num_variants == 2
    assert report.problems == ()
    assert set(report.tasks) == {"demo_gsm8k", "demo_hellaswag", "demo_mmlu"}
    assert (tmp_path / "analysis" / "quantization_impact.csv").stat().st_size > 0


def compared(folder: Path) -> dict[str, Any]:
    base, this = find_results(folder).variants
    return impact_columns(impact_of(this, base, ["demo_mmlu"]), ["demo_mmlu"])


def test_equal_settings_are_compared(data: Path, tmp_path: Path) -> None:
    import_both(data, tmp_path)
    result = compared(tmp_path)
    assert (result["not_comparable"], result["tpot_speedup"], result["demo_mmlu_drop_pp"]) == (None, 1.0, 0.0)


def other_length(content: dict[str, Any]) -> None:
    content.update(output_lens=[6] * 8, total_output_tokens=48)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(max_concurrency=4), "batch size 4 against 2"),
        (
            lambda c: c.update(request_rate=4.0),
            "load vllm bench serve, rate-4.0-concurrency-2 against vllm bench serve, rate-inf-concurrency-2",
        ),
        (lambda c: c.update(total_input_tokens=400), "prompt tokens 50 against 24.125"),
        (other_length, "output length setting 6 against 12"),
    ],
)
def test_other_settings_are_not_compared(
    data: Path, tmp_path: Path, changed: Callable[..., Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    import_results([data / "vllm_serve_detailed.json"], tmp_path / "out", precision="fp16")
    import_results([changed("vllm_serve_detailed.json", change)], tmp_path / "out", precision="int8")
    result = compared(tmp_path / "out")
    assert result["tpot_speedup"] is None
    assert words in result["not_comparable"]


def test_load_from_a_client_is_not_compared_with_slim_evals_own_batches(
    data: Path, tmp_path: Path, make_variant: Callable[..., Variant]
) -> None:
    own = {"prompt_tokens": 24.125, "output_tokens": 12.0, "batch_size": 2}
    variant = make_variant(
        "models/demo", performance=own, energy=None, head={"config": {"performance": {"max_new_tokens": 12}}}
    )
    assert variant.performance is not None
    write_record(tmp_path / "out" / "demo" / "demo_fp16", variant.performance)
    import_results([data / "vllm_serve_detailed.json"], tmp_path / "out", precision="int8")
    result = compared(tmp_path / "out")
    assert result["tpot_speedup"] is None
    assert "engine not known against vllm" in result["not_comparable"]


def test_items_of_two_imports_pair(data: Path, tmp_path: Path) -> None:
    rows = []
    for precision in ("fp16", "int8"):
        report = import_results([data / LM_EVAL], tmp_path, precision=precision)
        rows.append({(r["task"], r["doc_hash"]): r for r in read_samples(report.variants[0], "demo_mmlu")})
    assert rows[0] == rows[1]
    assert len(rows[0]) == 12


def walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in walk(item, (*path, key)))]


DOCUMENTS = {name: json.loads((DATA / name).read_text(encoding="utf-8")) for name in FILES}
JUNK = (None, float("nan"), float("inf"), -1, 0, 1e300, 10**400, "", "text", True, [], {}, [{}], {"a": None}, "remove")


def damage(pick: st.DataObject, document: Any) -> str:
    """A document with one value replaced by junk, or without it, as JSON."""
    content = json.loads(json.dumps(document))
    place = pick.draw(st.sampled_from(walk(content)[1:]))
    junk = pick.draw(st.sampled_from(JUNK))
    target = content
    for key in place[:-1]:
        target = target[key]
    if junk == "remove":
        del target[place[-1]]
    else:
        target[place[-1]] = junk
    return json.dumps(content)


def import_damaged(folder: Path, damaged: Path) -> None:
    """A problem that names the file, or records that can be read again; never anything else."""
    result = damaged if damaged.suffix == ".json" else folder / Path(LM_EVAL).name
    report = import_results([result], folder / "out", model="m", precision="fp16", batch_size=2)
    assert all(damaged.name in problem for problem in report.problems)
    assert report.paths or report.problems
    for path in report.paths:
        assert isinstance(read_record(path), PerformanceRecord | AccuracyRecord | ServingRecord)
        read_samples(path.parent, path.stem)


@pytest.fixture
def lm_eval_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "lm_eval", tmp_path / "damaged"))


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pick=st.data())
def test_no_damage_does_more_than_name_the_file(pick: st.DataObject, lm_eval_folder: Path) -> None:
    name = pick.draw(st.sampled_from(sorted(FILES)))
    shutil.rmtree(lm_eval_folder / "out", ignore_errors=True)
    path = lm_eval_folder / Path(name).name
    path.write_text(damage(pick, DOCUMENTS[name]), encoding="utf-8")
    import_damaged(lm_eval_folder, path)


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pick=st.data())
def test_no_damage_to_samples_does_more_than_name_their_file(pick: st.DataObject, lm_eval_folder: Path) -> None:
    source = pick.draw(st.sampled_from(sorted((DATA / "lm_eval").glob("samples_*"))))
    shutil.rmtree(lm_eval_folder, ignore_errors=True)
    shutil.copytree(DATA / "lm_eval", lm_eval_folder)
    first, *others = source.read_text(encoding="utf-8").splitlines()
    path = lm_eval_folder / source.name
    path.write_text("\n".join([damage(pick, json.loads(first)), *others]), encoding="utf-8")
    import_damaged(lm_eval_folder, path)


MARKED = [
    ({"quantization": "fp8"}, "fp8"),
    ({"quantization": "awq"}, "w4a16-awq"),
    ({"quantization": "gptq_marlin", "revision": "gptq-4bit-128g-actorder_True"}, "w4a16-gptq g128"),
    ({"quantization": "bitsandbytes"}, "bnb-4bit"),
    ({"autogptq": "True"}, "gptq"),
    ({"gptqmodel": "True"}, "gptq"),
    ({"gguf_file": "tiny-Q4_K_M.gguf"}, "q4_k_m"),
    ({"load_in_4bit": "True"}, "bnb-4bit"),
    ({"quantization_config": {"quant_method": "hqq", "nbits": 4}}, "hqq-4bit"),
    ({"revision": "4bit-32g"}, "4bit g32"),
    ({"pretrained": "org/Tiny-quantized.w8a8"}, "w8a8"),
    ({"kv_cache_dtype": "fp8"}, "fp16+kv8"),
    ({"peft": "org/tiny-lora"}, "fp16+lora"),
]


def lm_eval_file(path: Path, options: dict[str, Any], dtype: str | None = "torch.bfloat16") -> Path:
    """A result file of lm-eval with one task and the given ``model_args``."""
    content = {
        "results": {"quiz": {"alias": "quiz", "acc,none": 0.5, "acc_stderr,none": 0.01}},
        "configs": {"quiz": {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}]}},
        "versions": {"quiz": 1}, "n-shot": {"quiz": 0}, "n-samples": {"quiz": {"original": 9, "effective": 9}},
        "config": {"model": "hf", "model_args": {"pretrained": "org/Tiny"} | options, "model_dtype": dtype},
        "lm_eval_version": "0.4.12",
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("options", "precision"), MARKED)
def test_a_quantized_run_is_labelled_and_is_no_baseline(
    options: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    plain = lm_eval_file(tmp_path / "plain.json", {})
    import_results([lm_eval_file(tmp_path / "a.json", options), plain], tmp_path / "out")
    variants = find_results(tmp_path / "out").variants
    assert {variant.precision: variant.is_baseline for variant in variants} == {precision: False, "fp16": True}
    (labelled,) = (variant for variant in variants if not variant.is_baseline)
    assert labelled.accuracy["quiz"].num_parameters is None


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(MARKED),
    st.permutations(["pretrained", "dtype", "trust_remote_code", "batch_size", "tensor_parallel_size"]),
    st.sampled_from(["float16", "bfloat16", "auto", "float32"]),
    st.sampled_from(["torch.float16", "torch.bfloat16", "torch.float32", None]),
    st.booleans(),
    st.booleans(),
)
def test_no_record_with_a_mark_is_ever_called_fp16(
    tmp_path: Path, marked: tuple[dict[str, Any], str], order: list[str], dtype: str, own: str | None, first: bool,
    as_text: bool,
) -> None:  # fmt: skip
    """Whatever else the file says, in whatever order, as an object or as lm-eval's text."""
    options, precision = marked
    others = {key: {"pretrained": "org/Tiny", "dtype": dtype}.get(key, 1) for key in order}
    arguments = {**options, **others, **options} if first else {**others, **options}
    path = lm_eval_file(tmp_path / "any.json", {}, own)
    content = json.loads(path.read_text())
    is_text = as_text and not any(isinstance(value, dict) for value in options.values())
    text = ",".join(f"{key}={value}" for key, value in arguments.items())
    content["config"]["model_args"] = text if is_text else arguments
    path.write_text(json.dumps(content))
    (imported,) = read(path)
    assert imported.precision != "fp16"
    if precision.startswith("fp16"):  # of weights that are not quantized, it is the stated type
        assert imported.precision in (precision, precision.replace("fp16", "fp32"), None)
    else:
        assert imported.precision == precision
    for stated in ("fp16", "fp32"):
        if precision.startswith("fp16"):
            assert imported.record(foreign(path, precision=stated)).precision == precision.replace("fp16", stated)
        else:
            with pytest.raises(ResultFileError, match="--precision"):
                imported.record(foreign(path, precision=stated))


def test_an_adapter_is_a_model_of_its_own_beside_its_base(tmp_path: Path) -> None:
    adapter = lm_eval_file(tmp_path / "adapter.json", {"peft": "org/tiny-lora"})
    import_results([adapter, lm_eval_file(tmp_path / "plain.json", {})], tmp_path / "out")
    base, lora = find_results(tmp_path / "out").variants
    assert (lora.model, lora.base_model, lora.precision) == ("org/tiny-lora", "org/Tiny", "fp16+lora")
    assert baseline_of(lora, [base, lora]) is base


def test_the_base_model_of_a_quantized_one_can_be_given(tmp_path: Path) -> None:
    awq = lm_eval_file(tmp_path / "awq.json", {"pretrained": "org/Tiny-AWQ"})
    import_results([awq], tmp_path / "out", base_model="org/Tiny")
    import_results([lm_eval_file(tmp_path / "plain.json", {})], tmp_path / "out", base_model="org/Tiny")
    base, made = find_results(tmp_path / "out").variants
    assert (base.base_model, base.is_baseline, made.base_model) == ("org/Tiny", True, "org/Tiny")
    assert baseline_of(made, [base, made]) is base


def test_a_stated_16_bit_scheme_does_not_hide_a_quantized_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fp8, plain = (lm_eval_file(tmp_path / f"{n}.json", {"quantization": n}) for n in ("fp8", "None"))
    out = str(tmp_path / "out")
    assert main(["import", str(fp8), str(plain), "--precision", "fp16", "--output-dir", out]) == 1
    assert "contains 'quantization=fp8', so it was not measured at fp16" in capsys.readouterr().err
    assert [variant.precision for variant in find_results(tmp_path / "out").variants] == ["fp16"]
    import_results([fp8], tmp_path / "own", precision="my-fp8 static")
    assert find_results(tmp_path / "own").variants[0].precision == "my-fp8 static"


def test_a_name_that_only_says_quantized_is_asked_about(tmp_path: Path) -> None:
    path = lm_eval_file(tmp_path / "a.json", {"pretrained": "org/Tiny-quantized"})
    with pytest.raises(UsageError, match="does not contain the precision"):
        import_results([path], tmp_path / "out")


def test_other_tools_say_it_by_the_name_of_the_model(changed: Callable[..., Path], tmp_path: Path) -> None:
    path = changed("vllm_serve.json", lambda content: content.update(model_id="org/Tiny-GPTQ-Int4"))
    import_results([path], tmp_path / "out")
    assert find_results(tmp_path / "out").variants[0].precision == "w4a16-gptq"


def test_vllm_says_it_in_the_file_beside_its_result(changed: Callable[..., Path], tmp_path: Path) -> None:
    path = changed("vllm_latency.json", lambda content: None)
    beside = path.with_name("vllm_latency.pytorch.json")
    content = json.loads(beside.read_text())
    content[0]["benchmark"]["extra_info"]["args"] |= {"quantization": "fp8", "kv_cache_dtype": "fp8"}
    beside.write_text(json.dumps(content))
    import_results([path], tmp_path / "out", model="org/Tiny")
    assert find_results(tmp_path / "out").variants[0].precision == "fp8+kv8"


def test_everything_that_no_file_says_is_asked_for_once(changed: Callable[..., Path], tmp_path: Path) -> None:
    def remove(content: dict[str, Any]) -> None:
        content.pop("model_id", None)

    latency = changed("vllm_latency.json", remove)
    (latency.parent / "vllm_latency.pytorch.json").unlink(missing_ok=True)
    serve, plain = changed("vllm_serve.json", remove), lm_eval_file(tmp_path / "a.json", {}, None)
    with pytest.raises(UsageError) as failure:
        import_results([latency, serve, plain], tmp_path / "out")
    assert all(flag in failure.value.remedy for flag in ("--model", "--precision", "--batch-size"))
    cause = failure.value.cause
    assert f"{latency}: does not contain the name of the model, the precision" in cause
    assert "and the batch size" in cause
    assert f"{serve}: does not contain the name of the model and the precision" in cause
    assert f"{plain}: does not contain the precision" in cause
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError) as failure:
        import_results([latency, serve, plain], tmp_path / "out", precision="fp16", model="m")
    assert failure.value.remedy.startswith("give --batch-size;")
