"""The outcome of a gate for continuous integration, read back by a parser."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree as XML

import pytest

from slim_eval.analysis.compare.ci import SUMMARY_VARIABLE, write_junit
from slim_eval.cli import main
from slim_eval.errors import UsageError
from tests.planted import items, outcomes
from tests.unit.variants import variant_maker

MET, NOT_MET, INCONCLUSIVE = "quiz_drop>1pp", "quiz_drop>10pp", "quiz_drop>5.5pp"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of two variants; the second is 5.5 points down on `quiz`."""
    found, make_variant = [], variant_maker(tmp_path_factory.mktemp("sides"))
    for precision, scores in zip(("fp16", "int8"), outcomes(2000, right=1400, lost=150, gained=40), strict=True):
        tasks, samples = {"quiz": sum(scores) / 2000}, {"quiz": items(scores)}
        variant = make_variant(
            "org/Tiny", precision, performance=None, energy=None, tasks=tasks, samples=samples, write=True
        )
        found.append(str(variant.directory))
    return found[0], found[1]


@pytest.mark.parametrize(
    "conditions",
    [found for size in (1, 2, 3) for found in itertools.combinations((MET, NOT_MET, INCONCLUSIVE), size)],
)
def test_each_condition_is_a_test_case(conditions: tuple[str, ...], sides: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "gate.xml"
    code = main(["compare", *sides, *(f"--fail-if={each}" for each in conditions), f"--junit={path}"])
    assert code == (3 if MET in conditions else 4 if INCONCLUSIVE in conditions else 0)
    (suite,) = XML.parse(path).getroot()
    assert suite.get("tests") == str(len(conditions))
    assert suite.get("failures") == str(int(MET in conditions))
    assert suite.get("skipped") == str(int(INCONCLUSIVE in conditions))
    assert suite.get("errors") == "0"
    element = {MET: "failure", NOT_MET: "system-out", INCONCLUSIVE: "skipped"}
    assert [(case.get("name"), case[0].tag) for case in suite] == [(each, element[each]) for each in conditions]
    assert all("pp (95 %)" in str(case[0].text) for case in suite)


def test_a_comparison_that_fails_is_an_error_in_every_condition(tmp_path: Path) -> None:
    path = tmp_path / "gate.xml"
    path.write_text("of an earlier run", encoding="utf-8")
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-if", MET, "--fail-if", NOT_MET]
    assert main([*command, "--junit", str(path)]) == 2
    (suite,) = XML.parse(path).getroot()
    assert [(case.get("name"), case[0].tag) for case in suite] == [(MET, "error"), (NOT_MET, "error")]
    assert suite.get("errors") == "2"
    assert "no such folder" in str(suite[0][0].get("message"))


@pytest.mark.parametrize("words", ["a < b & c > \"d\" 'e'", "bell \x07, escape \x1b[31m, nul \0", "é ]]> 漢 \ud800"])
def test_any_text_is_valid_xml(words: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.xml"
    write_junit(path, [words], UsageError(words, words))
    (case,) = XML.parse(path).getroot()[0]
    assert len(str(case.get("name"))) == len(words)


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b", "--fail-if", MET, "--junit", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --junit")
    assert main(["compare", "a", "b", "--junit", str(tmp_path / "x.xml")]) == 2
    assert "--junit needs a condition" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "answer"),
    [(MET, "**Failed**: quiz_drop>1pp holds"), (NOT_MET, "**Passed**"), (INCONCLUSIVE, "**Inconclusive**: quiz")],
)
def test_the_summary_is_appended_with_the_answer_first(
    condition: str, answer: str, sides: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.md"
    path.write_text("of an earlier step\n", encoding="utf-8")
    monkeypatch.setenv(SUMMARY_VARIABLE, str(path))
    main(["compare", *sides, "--fail-if", condition, "--github-summary"])
    earlier, _, title, _, first, *others = path.read_text(encoding="utf-8").splitlines()
    assert (earlier, title) == ("of an earlier step", "# slim-eval compare")
    assert first.startswith(answer)
    assert any(line.startswith("| quiz |") for line in others)


def test_a_summary_outside_of_a_job_is_refused(
    sides: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(SUMMARY_VARIABLE, raising=False)
    assert main(["compare", *sides, "--github-summary"]) == 2
    assert f"{SUMMARY_VARIABLE} is not set" in capsys.readouterr().err
