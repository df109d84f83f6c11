"""lm-eval's real tasks and a model id from a loopback hub: slim-eval's scores against lm-eval's own command.

The items are generated; where the real ones are at hand (../shared/real, not part of the project), those of gsm8k,
hellaswag and two subjects of mmlu are real: the same tests then hold for them, at no cost.

Both sides run in child processes, because the hub's address is read once when its libraries are imported. This file is
also the script of slim-eval's side: ``python test_accuracy_real_tasks.py JOB``.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from slim_eval.metrics import HEADLINE_METRICS  # noqa: E402
from slim_eval.results.records import AccuracyRecord  # noqa: E402
from slim_eval.results.store import read_record, read_samples  # noqa: E402
from tests.commands import DTYPE  # noqa: E402
from tests.standins.hub import Fault, FaultKind, LoopbackHub  # noqa: E402
from tests.standins.real_tasks import build_real_task_repos, mmlu_subjects, put_real_items, write_dataset  # noqa: E402

#: Lays out the real items: ``python fill.py ROOT --no-model``.
FILL = ROOT.parent / "shared" / "real" / "fill.py"
REAL_SUBJECTS = ("anatomy", "virology")
MODEL = "acme/tiny-llama"
TASKS = ("mmlu", "gsm8k", "hellaswag")
BATCH_SIZE = 1  # sums in other batches differ in their last digits, and the command batches all its tasks together
CONTEXT = 8192  # a token per byte, and five examples per prompt
GSM8K_ITEMS, HELLASWAG_ITEMS = 2, 6
TIMEOUT_S = 400


def _child(arguments: list[str], environment: dict[str, str]) -> str:
    """Run Python in a child process with the hub's environment; return its standard output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _load(model: str, engine: str = "transformers") -> Any:
    """An engine over a model id, as the worker loads it."""
    from slim_eval import engines, models
    from slim_eval.config import EngineConfig
    from slim_eval.models import fetch

    source = fetch(models.resolve(model))
    assert source.path is not None
    decision = engines.choose(engine, "fp16")
    config = EngineConfig(enforce_eager=engine == "vllm")
    return engines.ENGINES[decision.name].load(engines.LoadRequest(source.path, config, max_model_len=CONTEXT))


class _Calls:
    """A `Progress` that records its calls."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int, unit: str = "requests") -> None:
        self.seen.append((done, total))


def _measure(job: dict[str, Any]) -> None:
    """slim-eval's side: load the model once, run every task, write records; failures are printed as JSON."""
    from slim_eval.benchmarks import accuracy
    from slim_eval.config import AccuracyConfig
    from slim_eval.errors import SlimEvalError
    from slim_eval.results.store import write_record

    engine: Any = (
        _load(job["model"], job.get("engine", "transformers")) if job["model"] else None
    )  # tasks that fail to load never ask for it
    config = AccuracyConfig(tasks=tuple(job["tasks"]), batch_size=BATCH_SIZE, include_path=job.get("include_path"))
    outcome: dict[str, Any] = {}
    for task in job["tasks"]:
        calls = _Calls()
        try:
            measured = accuracy.run(engine, task, config, 0, calls)
        except SlimEvalError as error:
            outcome[task] = {"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy}
            continue
        record = AccuracyRecord(schema_version=1, model=MODEL, precision="fp16", **measured.metrics.model_dump())
        write_record(Path(job["directory"]), record, measured.samples)
        outcome[task] = {"progress": [calls.seen[0], calls.seen[-1]], "notes": measured.notes}
    if engine is not None:
        engine.close()
    sys.stdout.write(json.dumps(outcome))


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.standins.tiny_models import make_checkpoint

    root = tmp_path_factory.mktemp("hub")
    build_real_task_repos(root, gsm8k_items=GSM8K_ITEMS, hellaswag_items=HELLASWAG_ITEMS)
    if FILL.is_file():
        real = tmp_path_factory.mktemp("real")
        subprocess.run([sys.executable, str(FILL), str(real), "--no-model"], check=True, capture_output=True)
        put_real_items(real, root, REAL_SUBJECTS)
    make_checkpoint(root / "models" / MODEL, max_position_embeddings=CONTEXT, num_hidden_layers=1)
    return root


@pytest.fixture(scope="module")
def hub(hub_root: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(hub_root) as running:
        yield running


@pytest.fixture(scope="module")
def environment(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return hub.environment(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def ours(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder of slim-eval's records, and what its script printed."""
    folder = tmp_path_factory.mktemp("ours")
    job = {"model": MODEL, "tasks": TASKS, "directory": str(folder)}
    outcome = json.loads(_child([__file__, json.dumps(job)], environment))
    return folder, outcome


@pytest.fixture(scope="module")
def theirs(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What lm-eval's own command wrote: its results, and the folder with its samples."""
    folder = tmp_path_factory.mktemp("theirs")
    command = ["-m", "lm_eval", "--model", "hf", "--tasks", ",".join(TASKS)]
    command += ["--model_args", f"pretrained={MODEL},dtype={DTYPE},softmax_dtype=float32"]
    command += ["--num_fewshot", "5", "--batch_size", str(BATCH_SIZE), "--device", "cpu"]
    command += ["--log_samples", "--output_path", str(folder)]
    _child(command, environment)
    (results,) = folder.rglob("results_*.json")
    return json.loads(results.read_text(encoding="utf-8")), results.parent


def _record(ours: tuple[Path, dict[str, Any]], task: str) -> AccuracyRecord:
    record = read_record(ours[0] / f"{task}.json")
    assert isinstance(record, AccuracyRecord)
    return record


def _their_rows(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """lm-eval's samples by (subtask, document hash, filter)."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in folder.glob("samples_*.jsonl"):
        task = path.name.removeprefix("samples_").rsplit("_", 1)[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[task, row["doc_hash"], row["filter"]] = row
    return rows


@pytest.mark.parametrize("task", TASKS)
def test_scores_equal_those_of_lm_evals_own_command(
    ours: tuple[Path, dict[str, Any]], theirs: tuple[dict[str, Any], Path], task: str
) -> None:
    record, reported = _record(ours, task), theirs[0]
    expected = {key: value for key, value in reported["results"][task].items() if "," in key}
    assert record.metrics == pytest.approx(expected)
    assert record.metric == HEADLINE_METRICS[task]
    assert record.accuracy == pytest.approx(expected[HEADLINE_METRICS[task]])
    assert record.stderr == pytest.approx(expected[HEADLINE_METRICS[task].replace(",", "_stderr,")])
    assert record.task_versions[task] == reported["versions"][task]
    leaves = mmlu_subtasks() if task == "mmlu" else {task}
    assert {reported["n-shot"][leaf] for leaf in leaves} == {record.num_fewshot} == {5}
    assert record.task_hashes == {leaf: reported["task_hashes"][leaf] for leaf in leaves}


def mmlu_subtasks() -> set[str]:
    return {f"mmlu_{subject}" for subject in mmlu_subjects()}


def test_mmlu_keeps_each_of_its_57_subjects(
    ours: tuple[Path, dict[str, Any]], theirs: tuple[dict[str, Any], Path]
) -> None:
    record = _record(ours, "mmlu")
    subjects = {name: entry for name, entry in record.subtasks.items() if "subtasks" not in entry}
    groups = {name: entry for name, entry in record.subtasks.items() if "subtasks" in entry}
    assert set(subjects) == mmlu_subtasks()
    assert len(subjects) == 57
    assert record.num_items == sum(entry["num_items"] for entry in subjects.values()) == 57 * 2
    assert set(groups) == {"mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"}
    assert sum(entry["num_items"] for entry in groups.values()) == record.num_items
    for name, entry in record.subtasks.items():
        assert entry["acc,none"] == pytest.approx(theirs[0]["results"][name]["acc,none"])


@pytest.mark.parametrize("task", TASKS)
def test_every_item_equals_that_of_lm_evals_own_command(
    ours: tuple[Path, dict[str, Any]], theirs: tuple[dict[str, Any], Path], task: str
) -> None:
    samples, rows = read_samples(ours[0], task), _their_rows(theirs[1])
    items = {"mmlu": 57 * 2, "gsm8k": GSM8K_ITEMS, "hellaswag": HELLASWAG_ITEMS}
    assert len(samples) == _record(ours, task).num_items == items[task]
    assert len({(sample["task"], sample["doc_hash"]) for sample in samples}) == len(samples)
    for sample in samples:
        for key in (key for key in sample if "," in key):
            metric, _, filter_name = key.partition(",")
            row = rows[sample["task"], sample["doc_hash"], filter_name]
            assert sample[key] == row[metric]
            assert [sample[name] for name in ("doc_id", "prompt_hash", "target_hash")] == [
                row[name] for name in ("doc_id", "prompt_hash", "target_hash")
            ]
            assert str(sample["target"]) == str(row["target"])
            if task == "gsm8k":
                assert sample["response"] == row["resps"][0][0]
                assert sample["extracted"][filter_name] == row["filtered_resps"][0]
            else:
                expected = [float(choice[0][0]) for choice in row["resps"]]
                assert sample["loglikelihoods"] == expected
                assert len(expected) == 4


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.skipif(not FILL.is_file(), reason="the real items (../shared/real) are not here")
def test_both_engines_give_the_real_items_the_same_likelihoods(
    environment: dict[str, str], ours: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Every choice of every real item of hellaswag, and the same answers of gsm8k, on vLLM as on Transformers."""
    job = {"model": MODEL, "engine": "vllm", "tasks": ("hellaswag", "gsm8k"), "directory": str(tmp_path)}
    # The same kernels in one process: two fewer to start.
    quick = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }  # fmt: skip
    lines = _child([__file__, json.dumps(job)], environment | quick).splitlines()  # vLLM logs to stdout too
    (printed,) = (json.loads(line) for line in lines if line.startswith('{"'))
    assert {task: outcome["progress"][1] for task, outcome in printed.items()} == {
        "hellaswag": [4 * HELLASWAG_ITEMS] * 2, "gsm8k": [GSM8K_ITEMS] * 2,
    }  # fmt: skip
    for task in ("hellaswag", "gsm8k"):
        here, there = ({row["doc_id"]: row for row in read_samples(folder, task)} for folder in (tmp_path, ours[0]))
        assert here.keys() == there.keys()
        for doc, row in here.items():
            assert row["prompt_hash"] == there[doc]["prompt_hash"]
            if task == "hellaswag":
                within = 1e-3 if DTYPE == "float32" else 0.05
                assert row["loglikelihoods"] == pytest.approx(there[doc]["loglikelihoods"], rel=within)
    if DTYPE == "float32":
        assert _record((tmp_path, {}), "hellaswag").metrics == pytest.approx(_record(ours, "hellaswag").metrics)


@pytest.mark.skipif(not FILL.is_file(), reason="the real items (../shared/real) are not here")
def test_the_items_are_the_real_ones(ours: tuple[Path, dict[str, Any]]) -> None:
    """The answers that were expected are those of the data set as it is published, in its order."""
    import lzma

    with lzma.open(FILL.parent / "gsm8k_test.jsonl.xz", "rt", encoding="utf-8") as lines:
        published = [json.loads(next(lines))["answer"] for _ in range(GSM8K_ITEMS)]
    assert [sample["target"] for sample in read_samples(ours[0], "gsm8k")] == published
    with lzma.open(FILL.parent / "mmlu_test.jsonl.xz", "rt", encoding="utf-8") as lines:
        answers = [row["answer"] for line in lines if (row := json.loads(line))["subject"] == REAL_SUBJECTS[0]][:2]
    samples = [sample for sample in read_samples(ours[0], "mmlu") if sample["task"] == f"mmlu_{REAL_SUBJECTS[0]}"]
    assert [int(sample["target"]) for sample in samples] == answers


def test_items_tell_choices_apart(ours: tuple[Path, dict[str, Any]]) -> None:
    """Scores would also equal lm-eval's if nothing were measured."""
    for task in ("mmlu", "hellaswag"):
        samples = read_samples(ours[0], task)
        assert all(len(set(sample["loglikelihoods"])) > 1 for sample in samples)  # bfloat16 makes some letters equal
        assert all(math.isfinite(value) and value < 0 for sample in samples for value in sample["loglikelihoods"])
        assert {sample["acc,none"] for sample in samples} == {0.0, 1.0}
    assert all(sample["response"] for sample in read_samples(ours[0], "gsm8k"))


@pytest.mark.parametrize(
    ("task", "requests"), [("mmlu", 57 * 2 * 4), ("gsm8k", GSM8K_ITEMS), ("hellaswag", HELLASWAG_ITEMS * 4)]
)
def test_progress_counts_every_request(ours: tuple[Path, dict[str, Any]], task: str, requests: int) -> None:
    assert ours[1][task]["progress"] == [[1, requests], [requests, requests]]
    assert [note for note in ours[1][task]["notes"] if "equally the most likely" not in note] == []


_FAULTY = {
    "gated_task": ("acme/gated", FaultKind.GATED, "gated", "ask for access"),
    "missing_task": ("acme/missing", None, "doesn't exist", "dataset_path"),
    "refused_task": ("acme/hidden", FaultKind.MISSING, "doesn't exist", "HF_TOKEN"),
}

_YAML = """task: {task}
dataset_path: {repo}
test_split: {split}
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def _write_faulty_tasks(hub: LoopbackHub, folder: Path) -> None:
    rows = [{"question": "one?", "answer": "1"}, {"question": "two?", "answer": "2"}]
    for repo in ("acme/gated", "acme/hidden", "acme/whole"):
        write_dataset(hub.root, repo, {"default": {"test": rows}})
    hub.fail("acme/gated", Fault(FaultKind.GATED))
    hub.fail("acme/hidden", Fault(FaultKind.MISSING))
    for task, (repo, *_) in _FAULTY.items():
        (folder / f"{task}.yaml").write_text(_YAML.format(task=task, repo=repo, split="test"))
    (folder / "split_task.yaml").write_text(_YAML.format(task="split_task", repo="acme/whole", split="no_such_split"))


def test_data_that_the_hub_refuses_is_an_error_with_a_remedy(
    hub: LoopbackHub, environment: dict[str, str], tmp_path: Path
) -> None:
    _write_faulty_tasks(hub, tmp_path)
    tasks = ["gated_task", "missing_task", "refused_task", "split_task"]
    job = {"model": None, "tasks": tasks, "directory": str(tmp_path), "include_path": str(tmp_path)}
    outcome = json.loads(_child([__file__, json.dumps(job)], environment))
    assert {task: entry["error"] for task, entry in outcome.items()} == dict.fromkeys(tasks, "BenchmarkError")
    for task in tasks[:3]:
        _, _, cause, remedy = _FAULTY[task]
        assert cause in outcome[task]["cause"]
        assert remedy in outcome[task]["remedy"]
    assert "no_such_split" in outcome["split_task"]["cause"]
    assert not list(tmp_path.glob("*.json*")), "a failed task leaves no record"


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_remedy(hub_root: Path, tmp_path: Path) -> None:
    with LoopbackHub(hub_root) as gone:
        environment = gone.environment(tmp_path / "cache")
    (tmp_path / "lost_task.yaml").write_text(_YAML.format(task="lost_task", repo="acme/whole", split="test"))
    job = {"model": None, "tasks": ["lost_task"], "directory": str(tmp_path), "include_path": str(tmp_path)}
    outcome = json.loads(_child([__file__, json.dumps(job)], environment))
    assert outcome["lost_task"]["error"] == "BenchmarkError"
    assert "acme/whole" in outcome["lost_task"]["cause"]
    assert "HF_ENDPOINT" in outcome["lost_task"]["remedy"]


if __name__ == "__main__":
    _measure(json.loads(sys.argv[1]))
