"""Names, patterns and needs of lm-eval's tasks, from their files alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slim_eval.benchmarks import accuracy, lm_eval_tasks
from slim_eval.config import AccuracyConfig, RunConfig
from slim_eval.demo import TASKS
from slim_eval.errors import BenchmarkError, UsageError

pytest.importorskip("lm_eval")

TASK = "dataset_path: json\ntest_split: test\ndoc_to_text: a\ndoc_to_target: b\n"
GENERATE = TASK + "output_type: generate_until\n"
FILES = {
    "own_choice.yaml": f"task: own_choice\ntag: own_tag\noutput_type: multiple_choice\n{TASK}",
    "own_quoted.yaml": f'"task": "own_quoted"  # a comment\n"tag": ["own_tag", own_flow]\n{TASK}',
    "own_listed.yaml": f"tag:\n  - own_tag\n  # not a tag\n  - own_block\ntask: own_listed\n{TASK}",
    "own_windows.yaml": f"task: own_windows\r\ntag:\r\n- own_crlf\r\n{TASK}",
    "own_heir.yaml": "include: parts/_first\ntask: own_heir\n",
    "own_plain_heir.yaml": "include: [parts/_second.yml]\n",
    "own_orphan.yaml": "include: parts/_missing\ntask: own_orphan\n",
    "own_endless.yaml": "include: own_endless.yaml\ntask: own_endless\n",
    "own_twice.yaml": f"task: own_choice\ntag: own_second\n{TASK}",  # after own_choice.yaml
    "parts/_first": "include: _second.yml\ntask: overridden\ntag: own_first\n",
    "parts/_second.yml": f"task: own_second_file\ntag: own_inherited\n{TASK}",
    "own_group.yaml": "group: own_group\ntag: own_tag_of_groups\ntask:\n  - own_choice\n  - own_inner\n"
    "  - task: own_long\n    generation_kwargs: {max_gen_toks: 8}\n",
    "own_mixed.yaml": "group: own_mixed\ntask:\n  - gsm8k\n  - {task: arc_easy, num_fewshot: 1}\n"
    "  - group: own_inline\n    task: [ai2_arc, own_choice]\n",
    "own_inner.yaml": "group: own_inner\ntask: [own_unsafe]\n",
    "own_unsafe.yaml": f"task: own_unsafe\nunsafe_code: true\n{GENERATE}",
    "own_image.yaml": f"task: own_image\ndoc_to_image: !function utils.image\n{TASK}",
    "own_long.yaml": f"task: own_long\ngeneration_kwargs:\n  max_gen_toks: 2048\n{GENERATE}",
    "own_alias.yaml": f"task: own_alias\ngeneration_kwargs:\n  max_new_tokens: 300\n{GENERATE}",
    "own_silent.yaml": f"task: own_silent\n{GENERATE}",
    "own_nothing.yaml": "dataset_path: json\n",
    "__pycache__/own_cached.yaml": f"task: own_cached\n{TASK}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


@pytest.mark.large
def test_the_names_are_those_of_lm_evals_own_index(folder: Path) -> None:
    """lm-eval reads every YAML file, which takes ten times as long."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[lm_eval_tasks.TASKS_DIR, folder])
    known = lm_eval_tasks.index(folder)
    assert known.names == set(manager.all_tasks)
    assert {"own_tag", "own_flow", "own_block", "own_crlf", "own_first", "own_heir", "own_second_file"} <= known.names
    assert known.names.isdisjoint({"own_orphan", "own_endless", "own_second", "own_cached", "overridden"})
    for pattern in ("mmlu_*", "own_*", "hellaswag", "*gsm8k*", "arc_[ce]*", "demo_mmlu_?oods"):
        assert known.match(pattern) == manager.match_tasks([pattern])
        assert known.match(pattern)
    for group in ("mmlu", "own_tag", "demo_mmlu", "mmlu_stem_tasks"):
        loaded = {name for name, _ in known.leaves(group)}
        assert loaded == {name for name, entry in _below(manager, group).items() if entry.kind.name == "TASK"}
    # What a worker has lm-eval read in place of all its folders.
    root = lm_eval_tasks.folder()
    assert known.folder_of("openllm", root) == known.folder_of("own_mixed", root) == root
    assert known.folder_of("own_tag", root) is None
    for name in ("gsm8k", "mmlu", "mmlu_stem_tasks", "leaderboard", "ai2_arc", "bbh", "own_tag"):
        inside = known.folder_of(name, root)
        assert inside != root
        folders = [path for path in (inside, lm_eval_tasks.TASKS_DIR, folder) if path is not None]
        few = TaskManager(include_path=folders, include_defaults=False)
        assert _below(few, name) == _below(manager, name), name


def _below(manager: object, name: str) -> dict[str, object]:
    """The names that a name stands for in lm-eval's index, with their entries."""
    index = manager.task_index  # type: ignore[attr-defined]
    entry, found = index[name], {name: index[name]}
    members = entry.cfg.get("task") if entry.kind.name == "GROUP" else entry.tags if entry.kind.name == "TAG" else ()
    left = list(members)
    while left:
        member = left.pop()
        if isinstance(member, dict):
            left += member["task"] if isinstance(member["task"], list) else [member["task"]]
        else:
            found |= _below(manager, member)
    return found


def test_lm_eval_reads_only_the_folder_of_what_a_task_stands_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All folders take ten seconds in each worker."""
    from lm_eval.tasks import TaskManager

    read: list[object] = []
    monkeypatch.setattr(TaskManager, "load", lambda manager, tasks: read.append(manager.include_path) or {"tasks": {}})
    config = AccuracyConfig(include_path=folder)
    for task in ("hellaswag", "mmlu", "own_group", "own_choice"):
        with pytest.raises(BenchmarkError, match="has no task in that group"):
            accuracy._load(task, config, seed=0)
    root, own = lm_eval_tasks.folder(), [lm_eval_tasks.TASKS_DIR, folder]
    assert read == [[root / "hellaswag", *own], [root / "mmlu" / "default", *own], own, own]


@pytest.mark.parametrize("tasks", [("mmlu", "gsm8k", "hellaswag"), TASKS])
def test_tasks_are_checked_without_importing_lm_eval(tasks: tuple[str, ...]) -> None:
    code = (
        "import sys; from slim_eval.benchmarks.lm_eval_tasks import check_tasks; "
        f"check_tasks({tasks!r}, None); sys.exit('lm_eval' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("task", ["own_choice", "own_tag", "own_inherited"])
def test_tasks_of_an_included_folder_are_known(folder: Path, task: str) -> None:
    lm_eval_tasks.check_tasks([task, "gsm8k", "mmlu_anatomy"], folder)


@pytest.mark.parametrize(
    ("task", "cause", "remedy"),
    [
        ("mmlu_anatommy", "unknown lm-eval task: mmlu_anatommy", "mmlu_anatomy"),
        ("gsm8K_cott", "unknown lm-eval task: gsm8K_cott", "gsm8k_cot"),
        ("own_unsafe", "own_unsafe executes code that the model generates", "--accuracy-tasks"),
        ("own_group", "own_group (own_unsafe) executes code", "--accuracy-tasks"),
        ("own_image", "own_image needs images or sound", "--accuracy-tasks"),
        ("humaneval", "humaneval executes code", "--accuracy-tasks"),
        ("mmmu_val", "mmmu_val (mmmu_val_", "--accuracy-tasks"),
    ],
)
def test_what_cannot_be_run_is_refused(folder: Path, task: str, cause: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        lm_eval_tasks.check_tasks(["gsm8k", task], folder)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_an_included_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        lm_eval_tasks.check_tasks(["gsm8k"], tmp_path / "none")


@pytest.mark.parametrize(
    ("task", "longest"),
    # What it generates at most; a group's member may override its own.
    [("own_long", 2048), ("own_alias", 300), ("own_silent", 256), ("own_choice", 0), ("own_group", 256)],
)
def test_an_answer_needs_less_than_the_window(folder: Path, task: str, longest: int) -> None:
    known = lm_eval_tasks.index(folder)
    lm_eval_tasks.check_answers(known, [task], "org/Tiny", longest + 1)
    if longest:
        with pytest.raises(UsageError) as caught:
            lm_eval_tasks.check_answers(known, [task], "org/Tiny", longest)
        assert caught.value.cause.startswith(f"org/Tiny: {task}")
        assert f"{longest} tokens (max_gen_toks)" in caught.value.cause
        assert "--max-model-len" in caught.value.remedy


def test_patterns_are_replaced_and_other_names_stay(folder: Path) -> None:
    expanded = lm_eval_tasks.expand(["own_choice", "demo_*", "own_s?lent", "own_choice", "not_yet"], folder)
    demo = ("demo_gsm8k", "demo_hellaswag", "demo_mmlu", "demo_mmlu_animals", "demo_mmlu_foods", "demo_mmlu_jobs")
    assert expanded == ("own_choice", *demo, "own_silent", "not_yet")


def test_an_unmatched_pattern_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError) as caught:
        lm_eval_tasks.expand(["mmluu_*"], None)
    assert caught.value.cause == "no lm-eval task matches 'mmluu_*'"
    assert "mmlu" in caught.value.remedy


def test_without_a_pattern_no_task_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_tasks, "index", lambda *_: pytest.fail("read"))
    assert lm_eval_tasks.expand(["gsm8k", "none"], None) == ("gsm8k", "none")
    config = RunConfig(models="demo", accuracy=AccuracyConfig(tasks="gsm8k"))
    assert accuracy.Accuracy().resolved(config) is config


def test_patterns_are_those_of_the_measuring_interpreter(tmp_path: Path) -> None:
    """The interpreter that plans may lack lm-eval."""
    tasks = tmp_path / "lib" / "lm_eval" / "tasks"
    tasks.mkdir(parents=True)
    (tasks.parent / "__init__.py").write_text("raise AssertionError('imported')")
    (tasks / "elsewhere.yaml").write_text(f"task: elsewhere_only\n{TASK}")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "lib"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    config = RunConfig(models="demo", serve_python=python, accuracy=AccuracyConfig(tasks="elsewhere_*"))
    assert accuracy.Accuracy().resolved(config).accuracy.tasks == ("elsewhere_only",)


@pytest.mark.parametrize("make", [lambda p: p / "absent", lambda p: p])
def test_without_lm_eval_a_pattern_is_an_error(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    from slim_eval.errors import MissingPackageError

    with pytest.raises(MissingPackageError):
        lm_eval_tasks.expand(["mmlu_*"], None, make(tmp_path))


def test_a_template_is_compiled_once_and_filled_in_for_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import utils

    for _ in range(2):
        accuracy._keep_templates()
    compiled: list[object] = []
    compiles = utils.env.compile
    monkeypatch.setattr(
        utils.env, "compile", lambda *given, **named: compiled.append(given) or compiles(*given, **named)
    )
    template = "{% set seen = (seen or 0) + a %}{{ seen }} {{ b | default('none') }} of a test"
    filled = [utils.apply_template(template, {"seen": None, **doc}) for doc in ({"a": 1}, {"a": 2, "b": "x"}, {"a": 1})]
    assert filled == ["1 none of a test", "2 x of a test", "1 none of a test"]
    assert len(compiled) == 1
