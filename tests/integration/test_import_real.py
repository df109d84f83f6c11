"""Results of lm-eval's and vLLM's own commands, imported, against slim-eval's own for the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import slim_eval
from slim_eval.config import ImportConfig
from slim_eval.demo import MODEL_DIR, TASKS, TASKS_DIR
from slim_eval.results.importers import ImportReport
from slim_eval.results.importers import import_results as import_config
from slim_eval.results.records import AccuracyRecord, PerformanceRecord
from slim_eval.results.store import find_results, read_record, read_samples
from tests.commands import Run, run_command

DATA = Path(__file__).resolve().parents[1] / "data" / "importers"

# The command ``vllm``, for its CPU build, whose distribution has a name that the command does not find.
_VLLM = """
import sys
if __name__ == "__main__":
    import vllm
    from slim_eval.engines.vllm import distribution_named_vllm
    with distribution_named_vllm(vllm.__version__):
        from vllm.entrypoints.cli.main import main
        main()
"""
_ROOT = Path(slim_eval.__file__).parent.parent

FEWSHOT, LIMIT, BATCH_SIZE = 2, 10, 5


def import_results(paths: list[Path], output_dir: Path, **options: Any) -> ImportReport:
    return import_config(ImportConfig(paths=tuple(paths), output_dir=output_dir, **options))


def command(words: list[str], **variables: str) -> None:
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_ROOT), "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1", **variables,
    }  # fmt: skip
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """slim-eval's own accuracies of the baseline."""
    folder = tmp_path_factory.mktemp("own")
    process = run_command(
        "run", "--models", "demo", "--precision", "fp16", "--engine", "transformers", "--tasks", "accuracy",
        "--num-fewshot", str(FEWSHOT), "--accuracy-limit", str(LIMIT), "--accuracy-batch-size", str(BATCH_SIZE),
        "--dtype", "bfloat16", "--no-wandb-enabled", cwd=folder,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return Run(folder, process)


@pytest.fixture(scope="session")
def lm_eval_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``lm_eval --log_samples`` wrote, with the same settings; bfloat16 says that the scheme is fp16."""
    folder = tmp_path_factory.mktemp("lm_eval")
    command(
        ["-m", "lm_eval", "--model", "hf", "--model_args",
         f"pretrained={MODEL_DIR},dtype=bfloat16,softmax_dtype=float32",
         "--tasks", ",".join(TASKS), "--include_path", str(TASKS_DIR), "--num_fewshot", str(FEWSHOT),
         "--limit", str(LIMIT), "--batch_size", str(BATCH_SIZE), "--device", "cpu", "--log_samples",
         "--output_path", str(folder)]
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def lm_eval_variants(lm_eval_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImportReport:
    return import_results([lm_eval_folder], tmp_path_factory.mktemp("imported"), model="demo")


@pytest.fixture(scope="session")
def latency_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``vllm bench latency`` wrote. It draws token ids up to 10,000, so the vocabulary is enlarged."""
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "vllm_command.py").write_text(_VLLM, encoding="utf-8")
    command(
        [str(folder / "vllm_command.py"), "bench", "latency", "--model", str(MODEL_DIR), "--load-format", "dummy",
         "--hf-overrides", '{"vocab_size": 10240}', "--enforce-eager", "--max-model-len", "256", "--input-len", "16",
         "--output-len", "8", "--batch-size", "2", "--num-iters-warmup", "1", "--num-iters", "4",
         "--output-json", str(folder / "latency.json")],
        SAVE_TO_PYTORCH_BENCHMARK_FORMAT="1", VLLM_ENABLE_V1_MULTIPROCESSING="0",  # only its file matters
    )  # fmt: skip
    return folder / "latency.json"


def test_lm_evals_files_import_without_a_problem(lm_eval_variants: ImportReport) -> None:
    assert lm_eval_variants.problems == ()
    assert {path.stem for path in lm_eval_variants.paths} == set(TASKS)
    (variant,) = lm_eval_variants.variants
    assert variant.name == "demo_fp16"
    assert not any("cannot be paired" in note for note in lm_eval_variants.notes)


@pytest.mark.parametrize("task", TASKS)
def test_an_imported_score_is_slim_evals_own_to_the_digit(
    lm_eval_variants: ImportReport, own_run: Run, task: str
) -> None:
    imported, own = (
        read_record(variant / f"{task}.json") for variant in (lm_eval_variants.variants[0], own_run.variant("fp16"))
    )
    assert isinstance(imported, AccuracyRecord)
    assert isinstance(own, AccuracyRecord)
    for key in ("accuracy", "metric", "stderr", "metrics", "subtasks", "num_items", "num_fewshot", "limit"):
        assert getattr(imported, key) == getattr(own, key), key
    for key in ("task_versions", "task_hashes", "apply_chat_template", "batch_size", "dtype", "num_parameters"):
        assert getattr(imported, key) == getattr(own, key), key
    assert (imported.engine, own.engine) == ("transformers", "transformers")


@pytest.mark.parametrize("task", TASKS)
def test_every_imported_item_is_slim_evals_own(lm_eval_variants: ImportReport, own_run: Run, task: str) -> None:
    imported, own = (read_samples(variant, task) for variant in (lm_eval_variants.variants[0], own_run.variant("fp16")))
    assert len(imported) == len(own) > 0
    for theirs, ours in zip(imported, own, strict=True):
        # lm-eval's command batches all its tasks together, and sums of bfloat16 differ with what is in a batch.
        values = [pytest.approx(value, rel=0.01) for value in ours.get("loglikelihoods", ())]
        expected = ours | {"target": str(ours["target"])} | ({"loglikelihoods": values} if values else {})
        assert theirs | {"target": str(theirs["target"])} == expected


def test_imported_accuracies_are_compared_with_slim_evals_own(
    lm_eval_folder: Path, own_run: Run, tmp_path: Path
) -> None:
    """A checkpoint measured elsewhere, imported as int8, against the baseline measured here."""
    import_results([lm_eval_folder], tmp_path / "outputs", model="demo", precision="int8")
    for path in own_run.variant("fp16").iterdir():
        target = tmp_path / "outputs" / "demo" / "demo_fp16" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    report = slim_eval.analyze(input_dir=tmp_path / "outputs", output_dir=tmp_path / "analysis")
    assert (report.num_variants, report.problems) == (2, ())
    impact = json.loads((tmp_path / "analysis" / "complete_results.json").read_text(encoding="utf-8"))
    (row,) = [row for row in _rows(impact) if row.get("precision") == "int8" and "demo_mmlu_drop_pp" in row]
    assert [row[f"{task}_drop_pp"] for task in TASKS] == [0.0, 0.0, 0.0]


def _rows(value: Any) -> list[dict[str, Any]]:
    """Every object at any depth."""
    if isinstance(value, list):
        return [row for item in value for row in _rows(item)]
    return [value, *(row for item in value.values() for row in _rows(item))] if isinstance(value, dict) else []


def test_vllms_latency_imports_with_the_arguments_beside_it(latency_file: Path, tmp_path: Path) -> None:
    content = json.loads(latency_file.read_text(encoding="utf-8"))
    report = import_results([latency_file.parent], tmp_path, model="demo", precision="fp16")
    assert report.problems == ()
    record = read_record(report.paths[0])
    assert isinstance(record, PerformanceRecord)
    assert record.mean_latency_s == pytest.approx(content["avg_latency"] / 2)
    assert record.tokens_per_second == pytest.approx(2 * 8 / content["avg_latency"])
    assert (record.batch_size, record.num_iterations, record.num_runs, record.num_warmup) == (2, 4, 8, 2)
    assert (record.engine, record.output_tokens, record.prompt_tokens) == ("vllm", 8, 16)
    assert [row["wall_s"] for row in read_samples(report.variants[0], "performance")] == content["latencies"]


def test_all_tools_stand_in_one_table(latency_file: Path, lm_eval_folder: Path, tmp_path: Path) -> None:
    report = import_results([latency_file.parent, lm_eval_folder, DATA], tmp_path, model="demo", precision="fp16")
    assert {Path(problem.split(":")[0]).name for problem in report.problems} <= {
        "vllm_latency.json",  # measured as the one above
        "results_2026-11-24T14-46-58.266836.json",  # the same tasks
    }
    frame = slim_eval.load_results(tmp_path)
    assert len(frame) == len(find_results(tmp_path).variants) == len(report.variants)
    # What servers did under load is one variant, of vLLM's and guidellm's clients; each load is a level of it.
    assert frame["tpot_s"].notna().sum() == 1
    (served,) = [variant for variant in find_results(tmp_path).variants if "serving" in variant.measured]
    levels = served.measured["serving"].levels
    assert len({level.load for level in levels}) == len(levels) > 3
    assert all(level.tpot_s is not None for level in levels)
    # Two runs of lm-eval on other items: each is kept, in a folder of its own.
    assert frame["demo_mmlu"].notna().sum() == 2
