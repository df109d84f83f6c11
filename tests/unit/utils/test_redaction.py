"""Secrets: what is one, what is none, and that no writer and no message lets one through."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from slim_eval import cli
from slim_eval.analysis import analyze
from slim_eval.analysis.report import page as page_of_report
from slim_eval.config import AnalysisConfig, DisplayConfig, QuantizationConfig, RunConfig, TrackingConfig
from slim_eval.doctor.check_results import CheckResult, Report, Status, to_json, to_lines
from slim_eval.errors import EngineError, SlimEvalError
from slim_eval.execution import fingerprints, messages, progress, tracking
from slim_eval.models.source import ModelSource
from slim_eval.quantization.cache import QuantizeRequest, settings
from slim_eval.results.records import SCHEMA_VERSION, ErrorRecord
from slim_eval.results.store import model_directory, write_error
from slim_eval.results.variants import Variant
from slim_eval.utils import full_name, redaction, slug, write_text
from slim_eval.utils.redaction import REDACTED, Redacted, redact, redact_all, remember
from tests.secrets_planted import ALL, PLANTED, TEXT, VALUES, found_in

COMMIT = "0123456789abcdef0123456789abcdef01234568"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("form", PLANTED)
def test_every_form_is_found_and_what_stands_around_it_stays(form: str) -> None:
    text, secret = PLANTED[form]
    assert redact(text) == text.replace(secret, REDACTED).replace(f"me:{REDACTED}@", f"{REDACTED}@").replace(
        f":{REDACTED}@127", f"{REDACTED}@127"
    )


@pytest.mark.parametrize("form", PLANTED)
def test_every_form_is_found_in_json_and_json_stays_json(form: str) -> None:
    text, _ = PLANTED[form]
    shown = redact(json.dumps({"a": [text], text: 1}))
    assert found_in(shown) == []
    assert json.loads(shown)["a"] == [redact(text)]


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("name", VALUES)
def test_values_of_the_environment_are_secret_in_every_spelling(name: str) -> None:
    value = VALUES[name]
    assert redact(f"a{value}b") == f"a{REDACTED}b"
    assert json.loads(redact(json.dumps([value], ensure_ascii=False))) == [REDACTED]
    assert redact_all({"a": (value, [value, 1, None])}) == {"a": (REDACTED, [REDACTED, 1, None])}


@pytest.mark.parametrize(
    "text",
    [
        COMMIT,
        "a" * 64,
        "sha256:" + "0f" * 32,
        "task-0123456789abcdef0123456789abcdef",
        "hf_transfer",
        "hf_hub_download and hf_home",
        "meta-llama/Llama-3.2-3B",
        "sk-learn-style-model-name-of-a-certain-length-7b",
        "https://huggingface.co:443/org/name@main",
        "git+ssh://git@github.com/org/name",
        "the bearer of this",
        "Bearer [redacted]",
        "AKIAabcdefghijklmnop",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_short_values_and_ordinary_words_of_redaction_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("WANDB_API_KEY", "redacted")
    remember("vllm")
    assert redact("short, redacted, vllm") == "short, redacted, vllm"


def test_a_remembered_secret_is_one_and_a_config_remembers_its_key() -> None:
    key = "remembered-key-of-a-config"
    assert redact(key) == key
    TrackingConfig(api_key=key)
    assert redact(f"key {key}") == f"key {REDACTED}"
    handed_on = TrackingConfig.model_validate_json(TrackingConfig(api_key=key).model_dump_json())
    assert handed_on.api_key is not None
    assert redact(handed_on.api_key.get_secret_value()) == "*" * 10


PIECES = st.one_of(st.sampled_from([text for text, _ in PLANTED.values()]), st.text())
VALUE = st.recursive(
    st.lists(PIECES, max_size=4).map("".join), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(VALUE)
def test_redacting_twice_changes_nothing_and_json_stays_json(value: Any) -> None:
    text = redact(json.dumps(value, ensure_ascii=False))
    assert redact(text) == text
    json.loads(text)
    once = redact_all(value)
    assert redact_all(once) == once


def test_a_text_that_is_redacted_already_stays() -> None:
    text = Redacted(PLANTED["hub"][0])
    assert redact(text) is text


@pytest.mark.usefixtures("secrets")
def test_no_file_of_a_variant_or_an_analysis_holds_a_secret(
    tmp_path: Path, make_variant: Callable[..., Variant]
) -> None:
    head = {"notes": (TEXT,), "config": {"engine": {TEXT: TEXT}, "performance": {"max_new_tokens": 100}},
            "engine_reason": TEXT, "environment": {"cpu": TEXT, "gpus": []}}  # fmt: skip
    rows = {"quiz": [{"task": "quiz", "doc_id": 0, "text": TEXT, TEXT: [TEXT]}]}
    variant = make_variant(head=head, tasks={"quiz": 0.5}, samples=rows)
    make_variant(precision="int8", head=head, tasks={"quiz": 0.5}, samples=rows)
    error = ErrorRecord(
        schema_version=SCHEMA_VERSION, model="m", precision="fp16", stage="energy", cause=TEXT, remedy=TEXT
    )
    write_error(variant.directory, "energy", error)
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) >= 8
    for path, content in written.items():
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        assert found_in(plain) == [], path
        assert path.suffix == ".gz" or REDACTED.encode() in plain, path

    # Records of another program, or an earlier version, may hold what this one would not have written.
    for path in written:
        if path.suffix == ".json":
            planted = json.loads(path.read_text(encoding="utf-8"))
            planted |= {"notes": [TEXT], "model": f"org/{PLANTED['hub'][1]}", "cause": TEXT, "hardware": TEXT}
            planted["environment"] = {"cpu": TEXT, "gpus": []}
            path.write_text(json.dumps(planted), encoding="utf-8")
    report = analyze(AnalysisConfig(input_dir=tmp_path / "outputs", output_dir=tmp_path / "analysis", plots=False))
    assert len(report.paths) >= 9
    for path in (tmp_path / "analysis").rglob("*"):
        assert not path.is_file() or found_in(path.read_bytes()) == [], path


def test_scripts_of_a_report_are_the_packages_whatever_the_token(
    tmp_path: Path, make_variant: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Path(page_of_report.__file__).parent / "vendor"
    monkeypatch.setenv("HF_TOKEN", "undefined")  # as in a CI whose secret is not set to anything
    variant = make_variant(head={"notes": ("a note, undefined",)}, write=True)
    analyze(AnalysisConfig(input_dir=variant.directory, output_dir=tmp_path / "analysis", plots=False))
    page = (tmp_path / "analysis" / "report.html").read_bytes()
    for name in ("plotly-basic.min.js", "dataTables.min.js"):
        assert b"<script>%b</script>" % (vendor / name).read_bytes() in page
    assert b"a note, undefined" not in page
    assert f"a note, {REDACTED}".encode() in page
    assert b"<script>@" not in page


@pytest.mark.usefixtures("secrets")
def test_errors_the_command_line_and_tracebacks_hold_none(capsys: pytest.CaptureFixture[str]) -> None:
    error = EngineError(TEXT, TEXT)
    assert found_in(f"{error} {error.cause} {error.remedy} {error.args!r}") == []
    hub = PLANTED["hub"][1]
    assert cli.main(["run", "--models", "demo", "--precision", hub]) == 2
    assert cli.main(["run", f"--{hub}"]) == 2
    assert cli.main([hub]) == 2
    shown = capsys.readouterr()
    assert found_in(shown.out + shown.err) == []
    assert shown.err.count(REDACTED) >= 2


def test_an_unexpected_error_is_redacted_too() -> None:
    script = (
        "import sys; from slim_eval import cli, analysis\n"
        "def fail(config): raise ZeroDivisionError(sys.argv[1])\n"
        "analysis.analyze = fail\n"
        "cli.main(['analyze'])"
    )
    answer = subprocess.run([sys.executable, "-c", script, TEXT], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "ZeroDivisionError" in answer.stderr
    assert REDACTED in answer.stderr
    assert [secret for _, secret in PLANTED.values() if secret in answer.stderr] == []


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("kind", [progress.PlainDisplay, progress.LiveDisplay, progress.JsonDisplay])
def test_what_is_shown_of_a_run_holds_none(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown_on = Console(stderr=True, highlight=False, width=60, force_terminal=kind is progress.LiveDisplay)
    loud = DisplayConfig(verbose=True)
    display = progress.JsonDisplay(shown_on.file, loud) if kind is progress.JsonDisplay else kind(shown_on)
    with display:
        display.begin(TEXT, 1, 1, [TEXT])
        display.handle(TEXT, messages.Started(stage=TEXT))
        display.handle(TEXT, messages.Advanced(stage=TEXT, done=1, total=2, unit="items"))
        display.handle(TEXT, messages.Note(text=TEXT))
        display.handle(TEXT, messages.Failed(stage="mmlu", cause=TEXT, remedy=TEXT))
        display.note(TEXT)
        failure = progress.Failure(TEXT, "mmlu", TEXT, TEXT, Path("run.log"))
        display.close(progress.RunReport(Path("outputs"), failures=[failure]))
    shown = capsys.readouterr()
    joined = "".join(shown.out.split() + shown.err.split())  # a table breaks long words
    assert REDACTED in joined
    assert [secret for secret in ALL if "".join(secret.split())[:20] in joined] == []


@pytest.mark.usefixtures("secrets")
def test_what_the_doctor_shows_holds_none() -> None:
    report = Report({"hub": [CheckResult("hub", Status.PROBLEM, TEXT, TEXT)]})
    assert found_in(to_json(report)) == []
    assert found_in("\n".join(line.plain for line in to_lines(report))) == []


@pytest.mark.usefixtures("secrets")
def test_what_is_logged_of_a_variant_holds_none(make_variant: Callable[..., Variant]) -> None:
    variant = make_variant(
        head={"engine_reason": TEXT, "environment": {"cpu": TEXT}}, tasks={"quiz": {"metrics": {TEXT: 1.0}}}
    )
    config = RunConfig(
        models="org/Tiny", performance={"prompt": TEXT}, tracking={"run_name": TEXT, "api_key": "k" * 40}
    )
    logged = json.dumps([tracking.payload(variant, config), tracking.run_name(config, variant)], default=str)
    assert REDACTED in logged
    assert found_in(logged) == []
    assert "k" * 40 not in logged


@pytest.mark.usefixtures("secrets")
def test_settings_that_were_redacted_when_written_are_those_asked_for_again(tmp_path: Path) -> None:
    asked = {"engine_args": {"path": TEXT}, "seed": 0}
    written = json.loads(redact(json.dumps(asked)))
    assert fingerprints.differences(written, asked) == []
    assert fingerprints.fingerprint(written) == fingerprints.fingerprint(asked)
    dataset = f"org/{PLANTED['hub'][1]}"
    source = ModelSource(name="org/Tiny", kind="hub", config_dir=tmp_path, revision=COMMIT)
    request = QuantizeRequest(
        source=source, precision="int8", directory=tmp_path, seed=0,
        config=QuantizationConfig(calibration_dataset=dataset),
    )  # fmt: skip
    assert settings(request)["calibration_dataset"] == f"org/{REDACTED}"
    assert settings(request)["revision"] == COMMIT


def test_a_model_whose_name_holds_a_secret_keeps_its_folder(
    tmp_path: Path, make_variant: Callable[..., Variant]
) -> None:
    model = f"/models/{PLANTED['hub'][1]}"
    assert found_in(slug(PLANTED["hub"][1]) + full_name("https://me:planted-pass@hub/x/y")) == []
    assert slug(PLANTED["hub"][1]) != slug(PLANTED["hub"][1] + "1")
    folder = model_directory(tmp_path, model)
    make_variant(model, directory=folder / "cell", write=True)
    assert model_directory(tmp_path, model) == folder
    assert found_in(str(folder)) == []


@pytest.mark.usefixtures("secrets")
def test_every_text_file_is_redacted(tmp_path: Path) -> None:
    write_text(tmp_path / "f", TEXT)
    assert found_in((tmp_path / "f").read_bytes()) == []


def test_errors_are_what_they_were_without_a_secret() -> None:
    error = SlimEvalError(f"commit {COMMIT}", "do it")
    assert str(error) == f"commit {COMMIT}\ndo it"
    assert error.args == (f"commit {COMMIT}",)


def test_the_variables_are_those_that_the_hub_wandb_and_endpoints_read() -> None:
    assert set(VALUES) == set(redaction.VARIABLES)
