"""``slim-eval doctor`` as it is called: what it says, its exit code, and that no secret is in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slim_eval.demo import MODEL_DIR
from slim_eval.utils import environment
from tests.commands import run_command
from tests.unit.doctor.conftest import EVERYTHING, AnsweringHub, Doctor

pytestmark = pytest.mark.large  # each test starts the command
TOKEN = "hf_" + "PlantedTokenOfTheHub"
KEY = "planted0key0of0wandb0" * 2


def test_versions_are_those_of_the_environment(doctor: Doctor) -> None:
    examination = doctor()
    installed = environment.versions(["torch", "llmcompressor", "transformers", "scipy"])
    assert set(installed) == {"torch", "llmcompressor", "transformers", "scipy"}
    for section, packages in (
        ("Quantization", ("torch", "llmcompressor")),
        ("Measurement", ("torch", "transformers", "scipy")),
    ):
        for package in packages:
            found = examination.find(section, package)
            assert (found["state"], found["text"], found["remedy"]) == ("ok", installed[package], None)
    assert examination.process.returncode == 0
    assert examination.answer["works"] is True
    assert examination.problems == []


def test_both_stages_without_packages(doctor: Doctor, empty_python: Path) -> None:
    python = str(empty_python)
    examination = doctor("--quantize-python", python, "--serve-python", python)
    assert examination.process.returncode == 1
    assert examination.answer["works"] is False
    assert {("Quantization", "llmcompressor"), ("Measurement", "lm_eval"), ("Measurement", "torch")} <= set(
        examination.problems
    )
    assert examination.find("Measurement", "python")["state"] == "ok"
    found = examination.find("Quantization", "llmcompressor")
    assert (found["text"], found["remedy"]) == ("not installed", f'{python} -m pip install "slim-eval[all]"')
    assert "slim-eval run would not work here: torch, " in examination.process.stderr
    assert "Traceback" not in examination.process.stderr


def test_what_is_not_run_is_not_asked_for(doctor: Doctor, empty_python: Path, furnish: Callable[..., Path]) -> None:
    """Neither llm-compressor for 16 bit alone, nor lm-eval without accuracy."""
    serving = furnish({name: version for name, version in EVERYTHING.items() if name not in ("lm_eval", "vllm")})
    args = ("--quantize-python", str(empty_python), "--serve-python", str(serving))
    assert doctor(*args).process.returncode == 1
    assert doctor(*args, "--precision", "fp16").problems == [("Measurement", "lm_eval")]
    examination = doctor(*args, "--precision", "fp16", "--tasks", "performance")
    assert (examination.process.returncode, examination.problems) == (0, [])
    assert examination.find("Measurement", "vllm")["state"] == "warning"
    # The engine is asked for by its name: now it is needed.
    wanted = doctor(*args, "--precision", "fp16", "--tasks", "performance", "--engine", "vllm")
    assert (wanted.process.returncode, wanted.problems) == (1, [("Measurement", "vllm")])


def test_the_interpreters_of_the_environment_variables(doctor: Doctor, empty_python: Path) -> None:
    examination = doctor(env={"SLIM_EVAL_QUANTIZE_PYTHON": str(empty_python)})
    assert {section for section, _ in examination.problems} == {"Quantization"}
    assert examination.process.returncode == 1


def test_nothing_heavy_is_imported(plain: None, tmp_path: Path) -> None:
    script = (
        "import sys; from slim_eval.cli import main; code = main(['doctor', '--json']);"
        "heavy = ('torch', 'vllm', 'transformers', 'llmcompressor', 'lm_eval', 'datasets', 'wandb', 'codecarbon');"
        "sys.exit(f'imported {[m for m in heavy if m in sys.modules]}' if set(heavy) & set(sys.modules) else code)"
    )
    environ = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["works"] is True


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_secrets_are_never_shown(
    plain: None,
    tmp_path: Path,
    answering_hub: Callable[[int], AnsweringHub],
    status: int,
    as_json: bool,
) -> None:
    hub = answering_hub(status)
    variables = {
        "HF_TOKEN": TOKEN,
        "WANDB_API_KEY": KEY,
        "WANDB_MODE": "online",
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
    }
    ran = run_command("doctor", *(["--json"] if as_json else []), cwd=tmp_path, env=variables)
    # The hub saw the token and sent it back in its answer.
    assert hub.asked == [("/api/whoami-v2", f"Bearer {TOKEN}")]
    written = ran.stdout + ran.stderr
    assert "present (HF_TOKEN)" in written
    assert "on, key present" in written
    assert TOKEN not in written
    assert KEY not in written
    assert ran.returncode == (0 if status == 200 else 1)


@pytest.mark.parametrize("status", [200, 401])
def test_the_password_of_an_address_is_not_shown(
    doctor: Doctor, answering_hub: Callable[[int], AnsweringHub], status: int
) -> None:
    hub = answering_hub(status)
    address = hub.url.replace("http://", "http://someone:planted-password@")
    examination = doctor(env={"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address})
    ((path, authorization),) = hub.asked
    assert (path, str(authorization).split()[0]) == ("/api/models?limit=1", "Basic")
    assert "planted-password" not in examination.process.stdout + examination.process.stderr
    assert examination.find("Hub", "hub")["text"].startswith(hub.url)
    assert examination.process.returncode == (0 if status == 200 else 1)


@pytest.mark.parametrize("character", ["\x01", "é", "\u2028", " "], ids=["control", "accent", "separator", "space"])
def test_a_token_that_cannot_be_sent_is_not_shown_either(doctor: Doctor, character: str) -> None:
    half = "hf_PlantedFirstHalf"
    variables = {
        "HF_TOKEN": f"{half}{character}PlantedOther",
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    examination = doctor(env=variables)
    assert examination.problems == [("Hub", "hub token")]
    assert examination.process.returncode == 1
    assert "Planted" not in examination.process.stdout + examination.process.stderr


def test_the_text_has_each_gap_with_its_remedy_and_the_verdict(plain: None, tmp_path: Path, empty_python: Path) -> None:
    ran = run_command("doctor", "--serve-python", str(empty_python), cwd=tmp_path, env={"COLUMNS": "40"})
    lines = ran.stdout.splitlines()
    (missing,) = [number for number, line in enumerate(lines) if line.split()[:2] == ["✗", "lm_eval"]]
    # Commands are not broken where the terminal is narrow.
    assert lines[missing + 1].strip() == f'fix: {empty_python} -m pip install "slim-eval[all]"'
    assert "Quantization" in lines
    assert lines[-1].endswith("slim-eval run would not work here")
    assert ran.returncode == 1


def test_the_text_of_a_machine_that_works(plain: None, tmp_path: Path) -> None:
    ran = run_command("doctor", "--models", "demo", cwd=tmp_path)
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[-1].startswith("slim-eval run works here")
    assert ran.stderr == ""


def test_a_typing_error_is_a_usage_error(doctor: Doctor) -> None:
    assert doctor("--precision", "int5").process.returncode == 2


def test_the_checkpoints_of_given_models_are_checked(doctor: Doctor, tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL_DIR, tmp_path / "shards"))
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    found = doctor("./shards", "demo", "--models", "acme/unknown", "--precision", "fp16", "--engine", "transformers")
    assert found.find("Models", "demo")["state"] == "ok"
    refused = found.find("Models", "./shards: weight files")
    assert refused["state"] == "problem"
    assert "but no model.safetensors.index.json" in refused["text"]
    assert refused["remedy"]
    unknown = found.find("Models", "acme/unknown")  # the hub is switched off
    assert (unknown["state"], unknown["remedy"]) == ("problem", "unset HF_HUB_OFFLINE, or download it first")
    assert found.process.returncode == 1
    assert not any(finding["section"] == "Models" for finding in doctor().answer["findings"])
