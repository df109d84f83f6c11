"""Servers that slim-eval starts, and the checks of endpoints: cause and remedy of everything that goes wrong."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from slim_eval.engines.server import Endpoint, Server, endpoint, free_port, normal_url
from slim_eval.errors import EngineError, UsageError
from tests.standins.endpoint import KEY, StandIn, running

ROOT = Path(__file__).parents[3]
STAND_IN = f"{sys.executable} -m tests.standins.endpoint --model {{model}} --port {{port}}"


@pytest.fixture(autouse=True)
def _finds_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_server_is_started_watched_and_ended_with_its_children() -> None:
    with Server(f"{STAND_IN} --child", model="a/tiny") as server:
        assert server.endpoint == Endpoint(server.base_url, "a/tiny")
        assert server.alive()
        assert server.load_time_s > 0
        pids = {process.pid for process in server.processes()}
        assert server.pid in pids
        assert len(pids) == 2  # with the child, which is in a session of its own
        used = server.memory()
        assert used is not None
        assert used.peak_mb >= used.used_mb > 10
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("slim_eval.engines.server._GRACE_S", 0.5)
            server.close()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
    with pytest.raises(EngineError, match="not running"):
        _ = server.endpoint


@pytest.mark.parametrize(
    ("fault", "cause", "remedy"),
    [
        ("exit", r"the server exited with status 3: ValueError: unsupported architecture 'Gizmo'", "run.log"),
        ("never-ready", r"not ready after 1.5 s: .*status 503: Loading model", "--server-timeout"),
        ("silent", r"not ready after 1.5 s: nothing listens on its port", "--server-timeout"),
        ("other-port", r"listens on port \d+ instead of \d+", "{port}"),
        ("gated", r"HTTP status 401: Incorrect API key provided", "OPENAI_API_KEY"),
        ("no-models", r"not ready after 1.5 s: .*does not answer like an OpenAI-compatible API", "--server-timeout"),
    ],
)
def test_what_goes_wrong_has_a_cause_and_a_remedy(fault: str, cause: str, remedy: str) -> None:
    server = Server(f"{STAND_IN} --fault {fault}", model="tiny", ready_s=1.5 if fault != "exit" else 20)
    with pytest.raises(EngineError, match=cause) as caught, server:
        pytest.fail("it is not ready")
    assert remedy in caught.value.remedy
    assert "\n" not in caught.value.cause
    assert not server.alive()


def test_commands_that_cannot_work_are_refused_before_they_start() -> None:
    with pytest.raises(UsageError, match=r"has no \{port\}"):
        Server("serve {model}", model="tiny")
    with pytest.raises(UsageError, match=r"has no \{model\}"):
        Server("serve --port {port}", model="tiny")
    with pytest.raises(UsageError, match="No closing quotation"):
        Server("serve '{model} {port}", model="tiny")
    with (
        pytest.raises(EngineError, match="no-such-command: No such file"),
        Server("no-such-command {model} {port}", model=""),
    ):
        pytest.fail("it is not started")


def test_no_shell_reads_a_models_name(tmp_path: Path) -> None:
    name = f"a; touch {tmp_path}/made"
    with Server(STAND_IN, model=name) as server:
        assert server.endpoint.served_model == name
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("fault", "cause", "remedy"),
    [
        ("gated", "HTTP status 401: Incorrect API key", "OPENAI_API_KEY"),
        ("html", "does not answer like an OpenAI-compatible API", "/v1"),
        ("no-models", "does not answer like an OpenAI-compatible API", "/v1"),
        ("slow", "did not answer within 0.3 s", "idle"),
    ],
)
def test_endpoints_that_cannot_be_measured(fault: str, cause: str, remedy: str) -> None:
    with running(StandIn(fault=fault)) as url, pytest.raises(EngineError, match=cause) as caught:
        endpoint(url, None, timeout_s=0.3)
    assert remedy in caught.value.remedy


def test_an_endpoint_that_is_down_wrong_or_serves_another_model() -> None:
    with pytest.raises(EngineError, match=r"nothing that speaks HTTP answers at .*Connection refused"):
        endpoint(f"http://127.0.0.1:{free_port()}/v1", None)
    with running(StandIn("tiny-instruct")) as url:
        assert endpoint(url, None).served_model == "tiny-instruct"
        with pytest.raises(EngineError, match="does not serve 'tiny-instrct'; it serves tiny-instruct") as caught:
            endpoint(url, "tiny-instrct")
        assert "did you mean tiny-instruct?" in caught.value.remedy
        with pytest.raises(EngineError, match="HTTP status 404") as caught:
            endpoint(url.removesuffix("/v1") + "/api", None)
        assert "below /v1" in caught.value.remedy


def test_a_key_is_sent_and_never_shown() -> None:
    with running(StandIn(fault="gated")) as url:
        found = endpoint(url, None, api_key=KEY)
    assert KEY not in repr(found)
    assert found.headers == {"Authorization": f"Bearer {KEY}"}


def test_addresses_as_people_write_them() -> None:
    for written in ("http://host:8000", "http://host:8000/", "http://host:8000/v1/", "http://host:8000/v1/completions",
                    "http://host:8000/v1/chat/completions"):  # fmt: skip
        assert normal_url(written) == "http://host:8000/v1"
    assert normal_url("https://host/some/openai") == "https://host/some/openai"
    for wrong in ("host:8000", "ftp://host/v1", "http://:80/v1", "http://host:port/v1", "http://host/v1?x=1", ""):
        with pytest.raises(UsageError, match="not the address of an API"):
            normal_url(wrong)
    with pytest.raises(UsageError, match="user name or password") as caught:
        normal_url("https://me:secret@host/v1")
    assert "secret" not in str(caught.value)


def test_a_server_that_dies_later_says_why() -> None:
    with Server(STAND_IN, model="tiny") as server:
        os.kill(server.pid, 9)
        end = time.monotonic() + 5
        while server.alive() and time.monotonic() < end:
            time.sleep(0.02)
        assert "was killed by signal 9" in server.stopped().cause
