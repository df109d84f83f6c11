"""What commands print on terminals of 80 and 120 columns: no word is broken, and files are one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from slim_eval.analysis.tables.terminal import noise_table
from slim_eval.cli import main
from slim_eval.execution.progress import Display, Failure, RunReport
from slim_eval.results.records import FloorEntry, NoiseRecord
from slim_eval.results.store import find_results
from tests.unit.analysis.planted_study import write_study
from tests.unit.variants import variant_maker

NAMES = ("meta-organisation/Mistral-Large-Instruct-v0.3", "org/gemma-3-4b-it")
_FRAME = re.compile(r"[^\s│┃━─┏┓┗┛┡┩┳┻╇┴┬┼├┤└┘╞╡╪╭╮╰╯┢┪╈┠┨]+")
_WIDE = 500


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(variant_maker(tmp_path_factory.mktemp("study")), *NAMES)


def run(words: Sequence[str], codes: Sequence[int] = (0,)) -> Callable[[], None]:
    def call() -> None:
        assert main(list(words)) in codes

    return call


def close(study: Path) -> None:
    """The closing of a run, with a failure."""
    variants = tuple(variant for variant in find_results(study).variants if variant.records)
    failure = Failure(
        "Mistral-Large-Instruct-v0.3 int4", "accuracy", "the engine is out of memory " * 5, "see it", study
    )
    report = RunReport(study, variants, failures=[failure], reused={variants[0].directory: ("energy",)})
    Display().close(report)


def noise() -> None:
    entry = FloorEntry(
        values=(0.004, 0.0041, 0.0042), floor=0.03, floor_interval=(0.02, 0.07), within=0.01, mean=0.0041
    )
    tasks = {"a_task_with_a_long_name": FloorEntry(values=(0.75, 0.751, 0.752), floor=0.3)}
    record = NoiseRecord(
        model=NAMES[0], precision="fp16", timestamp="t", metrics={"tpot_s": entry, "tokens_per_second": entry},
        tasks=tasks, flips={"a_task_with_a_long_name": 0.004},
    )  # fmt: skip
    Console().print(noise_table(record))


def commands(study: Path) -> dict[str, Callable[[], None]]:
    pair = [str(study / NAMES[1].split("/")[1] / f"gemma-3-4b-it_{precision}") for precision in ("fp16", "int4")]
    gates = ["--fail-if", "quiz_drop>1pp", "--fail-if", "tpot_s>5%"]
    return {
        "analyze": run(["analyze", "--input-dir", str(study), "--output-dir", str(study.parent / "out"), "--no-plots",
                        "--accuracy-tasks", "quiz a_task_with_a_long_name"]),
        "compare": run(["compare", *pair, *gates], (3,)),
        "compare folders": run(["compare", str(study), str(study)]),
        "recommend": run(["recommend", "--input-dir", str(study), "--min-recovery", "0.9"]),
        "latency": run(["recommend", "--input-dir", str(study), "--preset", "latency-critical"]),
        "schemes": run(["schemes"]),
        "closing": lambda: close(study),
        "noise": noise,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["analyze", "compare", "compare folders", "recommend", "latency", "schemes", "closing", "noise"]
)
def test_no_word_is_broken(
    name: str, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for width in (_WIDE, 120, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        commands(study)[name]()
        out, err = capsys.readouterr()
        found[width] = out if name != "closing" else out + err
    whole = set(_FRAME.findall(found[_WIDE]))
    for width in (120, 80):
        broken = {word for word in _FRAME.findall(found[width]) if "/" not in word} - whole
        assert not broken, (width, sorted(broken))
        framed = [line for line in found[width].splitlines() if line[:1] in "│┃╭╰┏└"]
        assert all(len(line) <= width for line in framed)


def test_files_are_one_line_and_the_answer_comes_first(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands(study)["analyze"]()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("╭─ Verdict")
    assert [line for line in lines if line.startswith("written: ")] == [lines[-1]]
    assert str(study.parent / "out") in lines[-1]
    kinds = [line.split(": ")[1] for line in err.splitlines() if line.startswith("warning: ")]
    assert len(kinds) == len(set(kinds))


def test_a_run_ends_with_the_verdict(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    close(study)
    out = capsys.readouterr().out
    assert out.count(f"results: {study}") == 1
    assert out.index("results: ") < out.index("Verdict") < out.index("│ gemma-3-4b-it int8")
    assert "int8: as accurate as their baselines" in " ".join(out.replace("│", " ").split())
