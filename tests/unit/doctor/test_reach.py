"""The hub is asked once, in seconds, and what it answers decides; W&B is told from what is on the machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slim_eval.config import DoctorConfig
from slim_eval.doctor import network
from slim_eval.doctor.check_results import CheckResult, Status
from slim_eval.doctor.facts import Facts
from tests.standins.hub import LoopbackHub
from tests.unit.doctor.conftest import AnsweringHub, Doctor

TOKEN = "hf_planted"
FACTS = Facts(DoctorConfig(), "was not asked", "was not asked")


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def deaf() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        return f"http://127.0.0.1:{once.getsockname()[1]}"


def at(url: str, **more: str) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", **more}


@pytest.mark.parametrize(
    ("status", "token", "state", "said"),
    [
        (200, None, "ok", "answers"),
        (200, TOKEN, "ok", "answers and accepts the token"),
        (401, None, "problem", "refuses access (401)"),
        (401, TOKEN, "problem", "does not accept your token (401)"),
        (403, None, "problem", "refuses access (403)"),
        (404, TOKEN, "ok", "answers (the token was not checked: 404)"),
        (429, None, "warning", "limits the rate of requests (429)"),
        (500, None, "problem", "answered 500"),
        (503, TOKEN, "problem", "answered 503"),
    ],
)
def test_what_the_hub_answers(
    doctor: Doctor,
    answering_hub: Callable[[int], AnsweringHub],
    status: int,
    token: str | None,
    state: str,
    said: str,
) -> None:
    hub = answering_hub(status)
    examination = doctor(env=at(hub.url, **({"HF_TOKEN": token} if token else {})))
    found = examination.find("Hub", "hub")
    assert (found["state"], found["text"]) == (state, f"{hub.url} {said}")
    assert (found["remedy"] is None) is (state == "ok")
    assert examination.process.returncode == (1 if state == "problem" else 0)
    path = "/api/whoami-v2" if token else "/api/models?limit=1"
    assert hub.asked == [(path, f"Bearer {token}" if token else None)]
    assert examination.find("Hub", "hub token")["text"] == ("present (HF_TOKEN)" if token else "none")


def test_a_mirror_that_knows_no_accounts(doctor: Doctor, tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as mirror:
        examination = doctor(env=at(mirror.url, HF_TOKEN=TOKEN))
    assert examination.find("Hub", "hub")["state"] == "ok"
    assert mirror.requests == ["GET /api/whoami-v2"]


def test_nothing_listens(doctor: Doctor, deaf: str) -> None:
    examination = doctor(env=at(deaf))
    found = examination.find("Hub", "hub")
    assert found["state"] == "problem"
    assert found["text"] == f"{deaf} is unreachable ([Errno 111] Connection refused)"
    assert "HF_HUB_OFFLINE=1" in found["remedy"]
    assert examination.process.returncode == 1


def test_without_need_of_the_hub_its_silence_is_a_warning(doctor: Doctor, silent: str) -> None:
    examination = doctor("--models", "demo", env=at(silent))
    found = examination.find("Hub", "hub")
    assert found["state"] == "warning"
    assert found["text"].startswith(f"{silent} is unreachable (")
    assert examination.process.returncode == 0


@pytest.mark.parametrize("address", ["huggingface.co", "ftp://hub", "http://", "http://hub:port"])
def test_an_address_that_is_none(doctor: Doctor, address: str) -> None:
    examination = doctor(env=at(address))
    assert "is not a URL" in examination.find("Hub", "hub")["text"]
    assert examination.process.returncode == 1
    assert "Traceback" not in examination.process.stderr


@pytest.mark.parametrize(("name", "value"), [("HF_ENDPOINT", "http://[::1"), ("HF_HUB_ETAG_TIMEOUT", "soon")])
def test_variables_that_keep_huggingface_hub_from_being_imported(doctor: Doctor, name: str, value: str) -> None:
    examination = doctor("--models", "demo", env={name: value})
    assert examination.problems == [("Hub", "hub")]
    assert "rejects a variable" in examination.find("Hub", "hub")["text"]
    assert examination.process.returncode == 1
    assert "Traceback" not in examination.process.stderr


@pytest.mark.parametrize("proxy", ["nonsense://127.0.0.1:9", "socks5://127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_proxy_that_does_not_work(doctor: Doctor, proxy: str) -> None:
    variables = {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
    examination = doctor(env=at("http://hub.invalid", **variables))
    assert "is unreachable (" in examination.find("Hub", "hub")["text"]
    assert "Traceback" not in examination.process.stderr
    assert examination.process.returncode == 1


def test_switched_off_it_is_not_asked(doctor: Doctor, answering_hub: Callable[[int], AnsweringHub]) -> None:
    hub = answering_hub(500)
    examination = doctor(env={"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1", "HF_HOME": "/somewhere"})
    found = examination.find("Hub", "hub")
    assert (found["state"], found["remedy"]) == ("warning", "unset HF_HUB_OFFLINE")
    assert "only files in /somewhere/hub" in found["text"]
    assert hub.asked == []
    assert examination.process.returncode == 0


def test_a_token_that_was_stored(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    found = doctor(env={"HF_HOME": str(tmp_path)}).find("Hub", "hub token")
    assert (found["state"], found["text"]) == ("ok", "present (stored by `hf auth login`)")


def test_a_token_that_is_not_to_be_sent_is_not(doctor: Doctor, answering_hub: Callable[[int], AnsweringHub]) -> None:
    hub = answering_hub(200)
    doctor(env=at(hub.url, HF_TOKEN=TOKEN, HF_HUB_DISABLE_IMPLICIT_TOKEN="1"))
    assert hub.asked == [("/api/models?limit=1", None)]


def test_what_does_not_return_is_left_behind() -> None:
    forever = threading.Event()
    assert network._within(0.05, lambda: int(forever.wait())) == "no answer within 0 s"
    assert network._within(60, lambda: 204) == 204
    forever.set()


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, True),
        ({"models": "demo"}, False),
        ({"models": "demo org/model"}, True),
        ({"models": "./folder"}, True),  # its tasks and calibration texts are on the hub
        ({"models": "./folder", "precision": "fp16"}, True),
        ({"models": "./folder", "precision": "fp16", "tasks": "performance energy"}, False),
        ({"models": "./folder", "precision": "int8", "tasks": "performance"}, True),
        ({"models": "./folder org/model", "precision": "fp16", "tasks": "performance"}, True),
    ],
)
def test_who_needs_the_hub(options: dict[str, str], needed: bool) -> None:
    assert network.needs_hub(DoctorConfig(**options)) is needed  # type: ignore[arg-type]


def logging_finding() -> CheckResult:
    return {finding.name: finding for finding in network.check_wandb(FACTS)}["logging"]


def test_wandb_without_a_key(plain: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = logging_finding()
    assert (found.state, found.text) == (Status.WARNING, "off: no key")
    assert "wandb login" in str(found.remedy)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert logging_finding() == CheckResult("logging", Status.OK, "on, WANDB_MODE=offline")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    found = logging_finding()
    assert (found.state, found.text) == (Status.WARNING, "off: WANDB_MODE=disabled")
    assert str(found.remedy).startswith("unset WANDB_MODE")


def test_a_login_of_wandb_is_a_key(plain: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine api.wandb.ai\n  login user\n  password {'k' * 40}\n")
    monkeypatch.setenv("NETRC", str(file))
    assert logging_finding() == CheckResult("logging", Status.OK, "on, key present")
