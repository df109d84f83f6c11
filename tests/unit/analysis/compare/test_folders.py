"""The command's three writings, matching of folders, caveats of the published files."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim_eval import cli
from slim_eval.analysis.caveats import find_caveats
from slim_eval.results.store import find_results
from slim_eval.results.variants import Variant, labelled
from tests.planted import items, outcomes, performance, requests
from tests.unit.variants import variant_maker

MakeCell = Callable[..., Variant]


def write_two_folders(folder: Path, second: dict[str, Any]) -> None:
    before, after = outcomes(2000, right=1400, lost=150, gained=40)
    for name, tpot_s, scores in (("old", 0.01, before), ("new", 0.011, after)):
        for seed, precision in enumerate(("fp16", "int8")):
            rows = requests(tpot_s, iterations=40, seed=seed + 10 * (name == "new"))
            task = {"accuracy": sum(scores) / 2000, **(second if name == "new" else {})}
            variant_maker(folder)(
                precision=precision, performance=performance(rows), tasks={"quiz": task},
                samples={"performance": rows, "quiz": items(scores)},
                directory=folder / name / "Tiny" / f"Tiny_{precision}",
            )  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_two_folders(folder, {})
    return folder


@pytest.fixture
def two_folders(written: Path, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Two folders of two variants each; the second is slower by 10 % and lost 5.5 points at int8."""

    def make(**second: Any) -> tuple[Path, Path]:
        if second:
            write_two_folders(tmp_path, second)
        else:
            shutil.copytree(written, tmp_path, dirs_exist_ok=True)
        return tmp_path / "old", tmp_path / "new"

    return make


def run(*args: str | Path) -> int:
    return cli.main(["compare", *map(str, args)])


def test_folders_are_matched_by_model_and_precision(
    two_folders: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = two_folders()
    assert run(old, new, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [(pair["a"]["precision"], pair["b"]["precision"]) for pair in content["pairs"]] == [
        ("fp16", "fp16"),
        ("int8", "int8"),
    ]
    first = content["pairs"][0]
    assert first["metrics"]["tpot_s"]["verdict"] == "worse"
    assert first["metrics"]["tpot_s"]["ratio"] == pytest.approx(1.1, rel=0.02)
    assert first["tasks"]["quiz"]["verdict"] == "degraded"
    assert first["tasks"]["quiz"]["drop_pp"] == pytest.approx(5.5)


@pytest.mark.parametrize(
    ("conditions", "code", "said"),
    [
        (["quiz_drop>1pp"], 3, "quiz_drop>1pp holds"),
        (["tpot_s>10%"], 4, "tpot_s>10% cannot be decided"),
        (["tpot_s>50%", "quiz_drop>20pp"], 0, ""),
        (["tpot_s>10%", "quiz_drop>1pp"], 3, "quiz_drop>1pp holds"),
        (["tpto_s>10%"], 2, "tpot_s"),
        (["tpot_s>10apples"], 2, "unknown unit"),
    ],
)
def test_exit_codes(
    two_folders: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str], conditions: list[str], code: int,
    said: str,
) -> None:  # fmt: skip
    old, new = two_folders()
    assert run(old, new, *(word for text in conditions for word in ("--fail-if", text))) == code
    assert said in capsys.readouterr().err


def test_options_may_stand_before_the_folders(two_folders: Callable[..., tuple[Path, Path]]) -> None:
    old, new = two_folders()
    assert run("--fail-if", "quiz_drop>1pp", old, new) == 3


def test_a_table_for_people_and_one_for_pull_requests(
    two_folders: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    old, new = two_folders()
    assert run(old / "Tiny" / "Tiny_fp16", new / "Tiny" / "Tiny_int8") == 0
    text = capsys.readouterr().out
    for words in ("TPOT, ms", "worse", "degraded", "quiz", "0.91x ["):
        assert words in text
    assert run(old, new, "--markdown", "--fail-if", "tpot_s>50%") == 0
    text = capsys.readouterr().out
    assert "| TPOT, ms | 10." in text
    assert "- fail if tpot_s>50% (" in text
    assert "does not hold" in text


def test_other_items_are_refused_and_the_rest_is_compared(
    two_folders: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = two_folders(limit=100)
    assert run(old, new) == 0
    assert "limit 100 against all items" in " ".join(capsys.readouterr().out.split())
    assert run(old, new, "--fail-if", "quiz_drop>1pp") == 4


def test_where_nothing_may_be_compared_the_command_fails(
    make_variant: MakeCell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, limit in (("a", None), ("b", 100)):
        make_variant(
            performance=None, energy=None, tasks={"quiz": {"accuracy": 0.5, "limit": limit}},
            samples={"quiz": items([1.0, 0.0])}, directory=tmp_path / name,
            head={"model_size_gb": None},
        )  # fmt: skip
    assert run(tmp_path / "a", tmp_path / "b") == 2
    assert "limit 100 against all items" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["a", "b"])
def test_a_folder_that_is_not_there(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ("b" if missing == "a" else "a")).mkdir()
    assert run(tmp_path / "a", tmp_path / "b") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_variants_without_a_partner_are_named(make_variant: MakeCell, tmp_path: Path, capsys: Any) -> None:
    for folder in ("x/Tiny_fp16", "x/Tiny_int8", "y/Tiny_fp16", "y/Tiny_int4"):
        make_variant(precision=folder[-4:], directory=tmp_path / folder, write=True)
    assert run(tmp_path / "x", tmp_path / "y", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["pairs"]) == 1
    assert len(content["notes"]) == 2


def test_the_published_llama_is_confounded_and_faster_a_token(published: Path, capsys: Any) -> None:
    variants = {path.parent.name: path.parent for path in published.rglob("performance.json")}
    assert run(variants["Llama-3.2-3B-Instruct_fp16"], variants["Llama-3.2-3B-Instruct_int8"], "--json") == 0
    content = json.loads(capsys.readouterr().out)
    metrics = content["pairs"][0]["metrics"]
    assert (metrics["mean_latency_s"]["verdict"], f"{metrics['mean_latency_s']['gain']:.2f}") == ("confounded", "2.18")
    assert (metrics["tokens_per_second"]["verdict"], f"{metrics['tokens_per_second']['gain']:.2f}") == (
        "no interval",
        "1.28",
    )
    mmlu = content["pairs"][0]["tasks"]["mmlu"]
    assert (mmlu["refused"], mmlu["unpaired"], mmlu["assumed"], mmlu["num_items"]) == (None, True, True, 14042)
    assert {caveat["kind"] for caveat in content["caveats"]} == {
        "length", "amortised", "reserved memory", "energy", "metric", "parameters", "no intervals", "assumed",
    }  # fmt: skip


def test_the_seven_facts_about_the_published_files(published: Path) -> None:
    found = find_caveats(labelled(find_results(published).variants))
    texts = {kind: [c.text for c in found if c.kind.name == kind] for kind in {c.kind.name for c in found}}
    (llama,) = [text for text in texts["length"] if "2.18x" in text]
    assert llama.startswith("150.0 output tokens per request against 256.0")
    assert "per token it is 1.28x" in llama
    assert [text[-5:] for text in texts["length"]] == ["1.28x", "1.38x", "1.99x", "0.68x", "1.33x"]
    assert "batch wall time / batch size" in texts["amortised"][0]
    assert len(texts["reserved memory"]) == 4  # every model that has more than one precision
    assert "200 requests of unknown length" in texts["energy"][0]
    assert "mean power x time" in texts["energy"][0]
    assert "acc_norm" in texts["metric"][0]
    assert any("3.96 B parameters" in text and "3.21 B" in text for text in texts["parameters"])
    assert any("2.43 B parameters" in text and "3.09 B" in text for text in texts["parameters"])
    assert "no per-item outcomes" in texts["no intervals"][0]


def test_own_records_have_no_caveats(make_variant: MakeCell) -> None:
    rows = labelled(
        [
            make_variant(
                performance={"e2e_latency_s": 0.2, "intervals": {"mean_latency_s": (0.19, 0.21)}},
                tasks={"hellaswag": {"accuracy": 0.5, "metric": "acc_norm,none"}},
            )
        ]
    )
    assert find_caveats(rows) == []


def test_models_that_share_a_short_name_are_not_mixed_up(make_variant: MakeCell, tmp_path: Path, capsys: Any) -> None:
    for folder, model in (("x/a", "orgA/Tiny"), ("x/b", "orgB/Tiny"), ("y/a", "orgA/Tiny"), ("y/c", "orgC/Other")):
        make_variant(model, directory=tmp_path / folder, write=True)
    assert run(tmp_path / "x", tmp_path / "y", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [(pair["a"]["model"], pair["b"]["model"]) for pair in content["pairs"]] == [("orgA/Tiny", "orgA/Tiny")]
    assert len(content["notes"]) == 2


def test_several_runs_of_one_variant_in_a_folder_are_refused(
    make_variant: MakeCell, tmp_path: Path, capsys: Any
) -> None:
    for folder in ("x/1", "x/2", "y/1", "y/2"):
        make_variant(directory=tmp_path / folder, write=True)
    assert run(tmp_path / "x", tmp_path / "y") == 2
    assert "several variants are Tiny fp16" in capsys.readouterr().err


def test_p_values_of_all_pairs_shown_are_corrected_together(
    make_variant: MakeCell, tmp_path: Path, capsys: Any
) -> None:
    before, after = outcomes(1000, right=700, lost=60, gained=38)
    for folder, scores in (("x", before), ("y", after)):
        for precision in ("fp16", "int8", "int4"):
            make_variant(
                precision=precision, tasks={"quiz": 0.7}, samples={"quiz": items(scores)},
                directory=tmp_path / folder / precision,
            )  # fmt: skip
    assert run(tmp_path / "x", tmp_path / "y", "--json") == 0
    tasks = [pair["tasks"]["quiz"] for pair in json.loads(capsys.readouterr().out)["pairs"]]
    assert all(task["p_value_holm"] == pytest.approx(3 * task["p_value"]) for task in tasks)


@pytest.mark.parametrize("line", ["[1]\n", '"text"\n', "{\n"])
def test_damaged_samples_are_named(make_variant: MakeCell, tmp_path: Path, capsys: Any, line: str) -> None:
    for name in ("a", "b"):
        variant = make_variant(directory=tmp_path / name, samples={"performance": requests(0.01, iterations=2)})
        with gzip.open(variant.directory / "performance.samples.jsonl.gz", "wt", encoding="utf-8") as lines:
            lines.write(line)
    assert run(tmp_path / "a", tmp_path / "b") == 1
    error = capsys.readouterr().err
    assert "performance.samples.jsonl.gz" in error
    assert len(error.strip().splitlines()) == 2
