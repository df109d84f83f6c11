"""What holds for every format: the documentation, the order of keys and files, values that are no numbers."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim_eval.config import ImportConfig
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.importers import IMPORTERS, import_results, importer_of
from slim_eval.results.importers.unread import UNREAD, refusal
from slim_eval.results.store import read_record
from tests.generated import examples
from tests.unit.results.importers import conftest
from tests.unit.results.importers import test_aiperf as aiperf
from tests.unit.results.importers import test_llama_bench as llama_bench
from tests.unit.results.importers import test_lm_eval_versions as lm_eval
from tests.unit.results.importers import test_optimum_benchmark as optimum_benchmark
from tests.unit.results.importers import test_sglang as sglang

DOCUMENTATION = Path(__file__).resolve().parents[4] / "docs" / "importing.md"


def of_tool(name: str) -> Any:
    return json.loads((conftest.DATA / name).read_text(encoding="utf-8"))


#: A file of each layout -> its content and the fields without which it cannot be read.
FILES: dict[str, Any] = {
    "lm_eval_03.json": lm_eval.V03,
    "lm_eval_042.json": lm_eval.GROUPED,
    "sglang.jsonl": sglang.SUMMARY,
    "sglang_details.jsonl": sglang.SUMMARY | sglang.DETAILS,
    "llama_bench.json": llama_bench.TESTS,
    "profile_export_aiperf.json": aiperf.AIPERF,
    "profile_export_genai_perf.json": aiperf.GENAI,
    "benchmark.json": {"config": optimum_benchmark.CONFIG, "report": optimum_benchmark.REPORT},
    "guidellm_v1.json": of_tool("guidellm_v1.json"),
    "guidellm_v2.json": of_tool("guidellm_v2.json"),
    "vllm_serve.json": of_tool("vllm_serve.json"),
}
EACH = pytest.mark.parametrize("name", FILES)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def imported(paths: list[Path], output_dir: Path) -> dict[str, Any]:
    """The records that an import writes, without what names files."""
    import_results(ImportConfig(paths=tuple(paths), output_dir=output_dir, model="m", precision="int4"))
    found = {}
    for path in sorted(output_dir.rglob("*.json")):
        record = read_record(path).model_dump(exclude={"config": {"import": {"sha256"}}})
        for level in record.get("levels", ()):
            level["sha256"] = None
        found[str(path.relative_to(output_dir))] = record
    return found


@EACH
@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=examples(5))
def test_the_order_of_keys_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, name: str, chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    expected = imported([write(folder / name, FILES[name])], folder / "expected")
    assert expected
    found = imported([write(folder / name, lm_eval.shuffled(FILES[name], chance))], folder / "found")
    # The first metric that a task lists stays its headline; what a file lists last must not become it.
    assert found == expected


@given(order=st.permutations(sorted(FILES)))
@settings(max_examples=examples(5))
def test_the_order_of_files_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order: list[str]) -> None:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        write(folder / name, content)
    expected = imported([folder / name for name in sorted(FILES)], folder / "expected")
    found = imported([folder / name for name in order], folder / "found")
    assert found.keys() == expected.keys()


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field and element of a document."""
    if isinstance(content, dict):
        items: Any = content.items()
    elif isinstance(content, list):
        items = enumerate(content[:3])
    else:
        return []
    return [found for key, part in items for found in [(*path, key), *places(part, (*path, key))]]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    result = copy.deepcopy(content)
    part = result
    for step in path[:-1]:
        part = part[step]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return result


VALUES: list[Any] = [
    ...,
    None,
    float("nan"),
    float("inf"),
    -1,
    0,
    10**400,
    1e300,
    "N/A",
    "",
    True,
    [],
    {},
    [[]],
    {"": None},
    "x" * 9999,
]


@EACH
@given(pick=st.data())
@settings(max_examples=examples(40))
def test_no_value_anywhere_is_more_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, pick: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("values")
    path = pick.draw(st.sampled_from(places(FILES[name])))
    content = changed(FILES[name], path, pick.draw(st.sampled_from(VALUES)))
    with contextlib.suppress(ResultFileError, UsageError):
        for record in imported([write(folder / name, content)], folder / "out").values():
            json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".yaml", ".csv"])
@pytest.mark.parametrize(
    "content",
    ["", " \n", "null", "[]", "{}", "[[]]", "[1, 2]", "\ufeff{}", "{" * 5000, "[" * 300_000, "NaN", "a: &a [*a]",
     "a,b\n1,2,3", '"', "\x00", "a: !!python/object/apply:os.system ['true']", "---\n---\n"],
)  # fmt: skip
def test_any_text_is_refused_in_one_line(tmp_path: Path, ending: str, content: str) -> None:
    path = tmp_path / f"file{ending}"
    path.write_text(content, encoding="utf-8")
    report = import_results(ImportConfig(paths=(path,), output_dir=tmp_path / "out"))
    assert report.paths == ()
    (problem,) = report.problems
    assert problem.startswith(f"{path}: ")
    assert "\n" not in problem
    with pytest.raises(ResultFileError) as failure:
        report.raise_for_problems()
    assert "nothing was imported" in failure.value.remedy


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for ending in (".json", ".jsonl", ".yaml", ".csv"):
        path = tmp_path / f"file{ending}"
        path.write_bytes(b"\xfe{\xff")
        (problem,) = import_results(ImportConfig(paths=(path,), output_dir=tmp_path / "out")).problems
        assert "cannot be read" in problem


def test_other_files_of_a_folder_are_skipped_with_a_note(tmp_path: Path) -> None:
    (folder := tmp_path / "in").mkdir()
    write(folder / "run.jsonl", sglang.SUMMARY)
    (folder / "notes.yaml").write_text("a: 1")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "log.jsonl").write_text('{"step": 1}\n')
    (folder / "broken.jsonl").write_text("{")
    report = import_results(ImportConfig(paths=(folder,), output_dir=tmp_path / "out", precision="fp16"))
    assert report.problems == ()
    assert len(report.paths) == 1
    for name in ("notes.yaml", "table.csv", "log.jsonl", "broken.jsonl"):
        assert sum(name in note for note in report.notes) == 1
    named = import_results(ImportConfig(paths=(folder / "log.jsonl",), output_dir=tmp_path / "out"))
    assert len(named.problems) == 1, "a file that is named is not skipped"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["json", "csv"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str, ending: str) -> None:
    plain = llama_bench.write(tmp_path / f"bench.{ending}", llama_bench.TESTS[:1])
    marked = tmp_path / f"marked.{ending}"
    marked.write_text(plain.read_text(encoding="utf-8"), encoding=encoding)
    (expected,), (found,) = conftest.read(plain), conftest.read(marked)
    assert found == expected


TEXTS = {
    "bench.md": ("| model | size | params | backend | ngl | test | t/s |\n| --- | ---: |", "`-o json`"),
    "bench.txt": ("| model          |       size |     params | backend    |", "`-o json`"),
    "bench.sql": ("CREATE TABLE IF NOT EXISTS llama_bench (\n  build_commit TEXT,\n", "`-o json`"),
    "rows.sql": ("INSERT INTO test (build_commit, build_number) VALUES ('a', '1');", "`-o json`"),
    "g.csv": ("Benchmark,Benchmark,Timings\nType,Rate,Start\nconstant,1,2\n", "its JSON"),
    "g_index.csv": (",Benchmark,Benchmark\n,Type,Id\n", "its JSON"),
    "g_02.csv": ("Type,Run Id,Id,Name\ngenerative,1,2,3\n", "its JSON"),
    "lm_eval.txt": ("hf (pretrained=a)\n|  Tasks |Version|Filter|\n|------|", "`--output_path`"),
    "serve.log": ("INFO\n============ Serving Benchmark Result ============\nSuccessful", "`--save-result`"),
    "bench.json.gz": (gzip.compress(b"{}").decode("latin-1"), "gunzip"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_tools_print_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    text, remedy = TEXTS[name]
    (path := tmp_path / name).write_bytes(text.encode("latin-1"))
    (problem,) = import_results(ImportConfig(paths=(path,), output_dir=tmp_path / "out")).problems
    assert remedy in problem


@pytest.mark.parametrize("kind", [kind for kind in UNREAD if kind.fields], ids=lambda kind: kind.what)
def test_a_known_file_is_refused_with_what_it_is_and_what_to_do(tmp_path: Path, kind: Any) -> None:
    fields = dict.fromkeys(kind.fields[0], 1)
    text = refusal(fields, fields, "")
    assert text == f"{kind.what}: {kind.remedy}"
    assert importer_of(conftest.foreign(write(tmp_path / "any.json", fields))) is None


def test_the_documentation_has_every_format() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    rows = [
        f"| {name} | {each.versions} | `{each.files}` | {each.taken} |"
        for name, importer in sorted(IMPORTERS.items())
        for each in importer.formats
    ]
    assert all(importer.formats for importer in IMPORTERS.values())
    _, _, table = text.partition("|---|---|---|---|\n")
    assert table.partition("\n\n")[0].splitlines() == rows
    _, _, refused = text.rpartition("|---|---|\n")
    assert refused.partition("\n\n")[0].splitlines() == [f"| {kind.what} | {kind.remedy} |" for kind in UNREAD]
