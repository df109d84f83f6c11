"""The doctor on the endpoint of ``--engine openai``: one that runs already, and a server that slim-eval would start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slim_eval.config import DoctorConfig
from slim_eval.doctor import network
from slim_eval.doctor.check_results import OK, PROBLEM, CheckResult
from slim_eval.doctor.facts import Facts, Interpreter
from slim_eval.engines.server import free_port
from tests.standins.endpoint import KEY, StandIn, running

EMPTY = Interpreter(python="3.11.7", executable=sys.executable, modules={}, torch_cuda=None)


def examine(serving: Interpreter | str = EMPTY, **options: str | Path) -> list[CheckResult]:
    config = DoctorConfig.model_validate({"model": ["stand-in"], **options})
    return list(network.check_endpoint(Facts(config, EMPTY, serving)))


def test_without_an_endpoint_there_is_nothing_to_say() -> None:
    assert examine() == []


def test_one_that_answers_is_named_with_its_model() -> None:
    with running(StandIn("stand-in")) as url:
        (found,) = examine(base_url=url)
    assert (found.state, found.text) == (OK, f"{url} serves stand-in")


@pytest.mark.parametrize(
    ("fault", "options", "cause", "remedy"),
    [
        ("gated", {}, "401", "OPENAI_API_KEY"),
        ("html", {}, "does not answer like an OpenAI-compatible API", "correct --base-url"),
        ("no-models", {}, "no list of models", "correct --base-url"),
        (None, {"served_model": "stand-on"}, "does not serve 'stand-on'", "did you mean stand-in"),
    ],
)
def test_one_that_refuses_is_a_problem(fault: str | None, options: dict[str, str], cause: str, remedy: str) -> None:
    with running(StandIn("stand-in", fault)) as url:
        (found,) = examine(base_url=url, **options)
    assert found.state is PROBLEM
    assert cause in found.text
    assert remedy in (found.remedy or "")


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running(StandIn("stand-in", "gated")) as url:
        (found,) = examine(base_url=url)
    assert found.state is OK
    assert KEY not in found.text


def test_one_that_is_down_is_a_problem() -> None:
    (found,) = examine(base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert found.state is PROBLEM
    assert "nothing that speaks HTTP answers" in found.text


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"engine": "openai"}, "needs a server"),
        ({"server": "vllm serve {model}"}, "has no {port}"),
        ({"server": "no-such-program-here {model} {port}"}, "no such program"),
        ({"server": "llama.cpp"}, "needs the package xllamacpp"),
        ({"base_url": "127.0.0.1:8000"}, "not the address of an API"),
    ],
)
def test_a_server_that_would_not_start_is_a_problem(options: dict[str, str], cause: str) -> None:
    (found,) = examine(**options)
    assert found.state is PROBLEM
    assert cause in found.text
    assert found.remedy


def test_a_server_that_can_be_started() -> None:
    (found,) = examine(server=f"{sys.executable} -m server {{model}} --port {{port}}")
    assert (found.state, found.text) == (OK, f"slim-eval starts {sys.executable}")
    serving = EMPTY.model_copy(update={"modules": {"xllamacpp": "xllamacpp 77.1"}})
    (found,) = examine(serving, server="llama.cpp")
    assert (found.state, found.text) == (OK, "llama.cpp is started by slim-eval (xllamacpp 77.1)")


def test_one_endpoint_alone() -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        examine(base_url="http://127.0.0.1:1/v1", server="llama.cpp")
