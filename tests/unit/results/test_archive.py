"""A study as one archive: what goes in, what comes out on another machine, and what is left out of a hostile one."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from slim_eval import analyze, compare, load_results
from slim_eval.config import ExportConfig
from slim_eval.errors import ResultFileError, UsageError
from slim_eval.results.archive import unpacked, write_archive
from slim_eval.results.exchange import export_results


def names_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_another_machine_reads_the_same_study(planted_study: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(planted_study, tmp_path / planted_study.name))
    (study / "Tiny" / "Tiny_int8" / "run.log").write_text("a log", encoding="utf-8")
    archive = tmp_path / "study.tar.gz"
    report = export_results(ExportConfig(paths=(study,), archive=archive))
    assert report.paths == (archive,)
    first = archive.read_bytes()
    write_archive([study], archive)
    assert archive.read_bytes() == first
    names = names_in(archive)
    assert "outputs/Tiny/Tiny_int8/quiz.samples.jsonl.gz" in names
    assert not any(name.endswith(".log") for name in names)

    here = analyze(input_dir=study, output_dir=tmp_path / "here", plots=False)
    shutil.rmtree(study)
    there = analyze(input_dir=archive, output_dir=tmp_path / "there", plots=False)
    assert here.verdict is not None
    assert there.verdict is not None
    assert there.verdict.to_json() == here.verdict.to_json()
    for name in ("results_table.csv", "findings.md"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text(), name
    assert len(load_results(archive)) == 3
    assert len(compare(archive, archive).pairs) == 3


def test_one_variant_keeps_the_folder_above_it(planted_study: Path, tmp_path: Path) -> None:
    archive = tmp_path / "one.tgz"
    write_archive([planted_study / "Tiny" / "Tiny_int8"], archive)
    assert all(name.startswith("Tiny/Tiny_int8/") for name in names_in(archive))


def test_only_files_of_a_study_are_unpacked_and_only_inside(tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("../outside.json", "/absolute.json", "a/program.sh", "a/performance.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("a/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    folder = unpacked(archive)
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["performance.json"]
    assert unpacked(archive) == folder
    assert not (folder.parent / "outside.json").exists()


def test_what_is_refused(tmp_path: Path, planted_study: Path) -> None:
    with pytest.raises(UsageError, match="contains no results"):
        write_archive([tmp_path], tmp_path / "a.tar.gz")
    with pytest.raises(UsageError, match="not the name of an archive"):
        write_archive([planted_study], tmp_path / "a.zip")
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ResultFileError, match="not a readable archive"):
        unpacked(tmp_path / "broken.tar.gz")
    assert unpacked(tmp_path / "missing.tar.gz") == tmp_path / "missing.tar.gz"
