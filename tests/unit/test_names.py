"""Names of models and tasks: whatever they are, what is made of them is one name inside the output directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim_eval.cli import main
from slim_eval.config import AccuracyConfig, ImportConfig
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.importers import ForeignFile, ImportedRecord
from slim_eval.results.records import AccuracyMetrics
from slim_eval.results.store import record_path, variant_directory
from slim_eval.utils import MAX_SLUG_BYTES, full_name, short_name, slug

ROOT = Path("/root-of-results")
#: Everything, lone surrogates as in arguments that are no UTF-8 included, and what is dangerous more often.
NAMES = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=20),
        st.sampled_from(["..", "/", "\\", ".", "\0", "~", "C:", "con", "NUL.json", " ", "é" * 90, "x" * 150, "\udc80"]),
    ),
    max_size=6,
).map("".join)


def is_one_name(name: str) -> bool:
    """Whether a name is one component of a path, on any system."""
    return (
        name not in ("", ".", "..")
        and not set(name) & set('/\\\0:*?"<>| \n')
        and not name.startswith(".")
        and not name.endswith(".")
        and len(name.encode()) < 200
    )


@given(NAMES)
def test_a_slug_is_one_name(name: str) -> None:
    assert is_one_name(slug(name))
    assert len(slug(name).encode()) <= MAX_SLUG_BYTES
    assert (ROOT / slug(name)).parent == ROOT
    assert os.path.normpath(ROOT / slug(name)) == str(ROOT / slug(name))


@given(NAMES, st.one_of(st.sampled_from(["fp16", "int8"]), NAMES))
def test_a_variant_is_two_folders_below_the_root(model: str, precision: str) -> None:
    assert is_one_name(short_name(model))
    assert is_one_name(full_name(model))
    folder = variant_directory(ROOT, model, precision, [f"other/{short_name(model)}"])
    assert folder.parent.parent == ROOT
    assert is_one_name(folder.parent.name)
    assert is_one_name(folder.name)


@given(NAMES)
def test_a_record_is_a_file_of_its_variant(task: str) -> None:
    assert record_path(ROOT, task).parent == ROOT


@pytest.mark.parametrize("name", ["CON", "con", "Nul", "aux.txt", "COM1", "lpt9.json", "com¹"])
def test_names_of_devices_are_not_used(name: str) -> None:
    assert slug(name) == f"_{name}"


@pytest.mark.parametrize("name", ["console", "com10", "common", "nullable", "auxiliary", "名前", "Llama-3.2-3B_é"])
def test_other_names_stay(name: str) -> None:
    assert slug(name) == name


@given(st.text("ab", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=8), st.sampled_from("xé名"))
def test_two_long_names_stay_two(one: str, other: str, letter: str) -> None:
    first, second = letter * MAX_SLUG_BYTES + one, letter * MAX_SLUG_BYTES + other
    assert (slug(first) == slug(second)) == (one == other)
    assert slug(first).startswith(letter * 30)


@pytest.mark.parametrize(
    "task", ["performance", "Energy", "paired", "noise", "quantization", "complete_results", "a.error", "a.samples"]
)
def test_a_task_cannot_have_the_name_of_another_file(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="would replace another file") as failure:
        AccuracyConfig(tasks=f"mmlu {task}")
    assert "another name" in failure.value.remedy
    assert main(["run", "--models", "demo", "--accuracy-tasks", f"mmlu {task}"]) == 2
    assert task in capsys.readouterr().err


def test_two_tasks_cannot_share_a_file() -> None:
    with pytest.raises(UsageError, match=r"a/b.*a_b.*a_b\.json"):
        AccuracyConfig(tasks=("a/b", "a_b"))
    assert AccuracyConfig(tasks=("a/b", "a_c")).tasks == ("a/b", "a_c")


def test_an_imported_task_cannot_either(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.touch()
    file = ForeignFile(path, ImportConfig(paths=(path,), model="org/Tiny", precision="fp16"))
    assert ImportedRecord("lm-eval", AccuracyMetrics(task="mmlu", accuracy=0.5)).record(file).name == "mmlu"
    with pytest.raises(ResultFileError, match=r"performance\.json"):
        ImportedRecord("lm-eval", AccuracyMetrics(task="performance", accuracy=0.5)).record(file)
