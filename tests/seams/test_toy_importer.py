"""The importer seam: one file outside the package adds a tool, whose results reach the report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import run_command

TOY = Path(__file__).parent / "toys" / "importer.py"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def write_results(path: Path) -> None:
    """Two variants, 30 requests each; the quantized one is twice as fast and 4 points less accurate."""
    runs = [
        {
            "scheme": scheme,
            "quiz": quiz,
            "requests": [
                {"first_s": 0.1 * tpot_s / 0.01, "end_s": 0.1 * tpot_s / 0.01 + 10 * tpot_s, "tokens": 11}
                for tpot_s in (base_s * (1 + index / 1000) for index in range(30))
            ],
        }
        for scheme, quiz, base_s in (("fp16", 0.8, 0.02), ("int4", 0.76, 0.01))
    ]
    path.write_text(json.dumps({"toy_version": "1.5", "model": "org/Tiny", "runs": runs}))


def test_a_plugins_importer_takes_a_file_to_the_report(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_results(tmp_path / "in" / "all.toy")
    env = {"SLIM_EVAL_PLUGINS": str(TOY), "PYTHONPATH": str(PACKAGE_ROOT)}

    done = run_command("import", "in", "--output-dir", "out", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    records = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.json")}
    assert sorted(records) == [
        f"Tiny/Tiny_{scheme}/{name}.json" for scheme in ("fp16", "int4") for name in ("performance", "quiz")
    ]
    record = json.loads(records["Tiny/Tiny_int4/performance.json"].read_text())
    assert record["config"]["import"]["tool"] == "toy"
    assert 0.01 < record["tpot_s"] < 0.0105
    assert records["Tiny/Tiny_int4/performance.json"].with_name("performance.samples.jsonl.gz").is_file()

    done = run_command("analyze", "--input-dir", "out", "--output-dir", "analysis", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "analysis" / "report.html").read_text()
    assert "Tiny" in report
    assert "quiz" in report
    impact = (tmp_path / "analysis" / "quantization_impact.csv").read_text()
    assert "int4" in impact


def test_without_the_plugin_the_file_is_refused_with_the_tools_that_are_known(tmp_path: Path) -> None:
    write_results(tmp_path / "all.toy")
    env = {"PYTHONPATH": str(PACKAGE_ROOT)}
    done = run_command("import", "all.toy", "--output-dir", "out", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "first fields: 'toy_version', 'model', 'runs'" in done.stderr
    assert all(tool in done.stderr for tool in ("lm-eval", "vllm bench", "guidellm"))
    assert not (tmp_path / "out").exists()
