"""Commands of tests keep starting from a process with its imports done, whatever this process has imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.standins import preloaded

_CODE = """
import importlib, os, sys
from tests.standins import preloaded
for name in sys.argv[1:]:
    importlib.import_module(name)
preloaded.Server = lambda kind: kind
variables = dict(preloaded.inherited(), HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1")
assert preloaded.find(variables, models=True) == "models", {
    name: value for name, value in variables.items() if preloaded._ENVIRONMENT.get(name) != value
}
"""


@pytest.mark.large
def test_what_libraries_set_while_they_are_imported_is_no_other_environment() -> None:
    """Each command would import everything again, ten seconds each time."""
    modules = [name for name in ("lm_eval.evaluator", "vllm.engine.arg_utils") if find_spec(name.split(".")[0])]
    if not modules:
        pytest.skip("neither lm-eval nor vLLM is installed")
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *modules], env=preloaded.inherited(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_server_that_was_killed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloaded, "SERVERS", {})
    monkeypatch.setattr(preloaded, "IMPORTS", {"commands": (), "models": ()})
    first = preloaded.find(preloaded._ENVIRONMENT, models=False)
    assert first is not None
    assert preloaded.find(preloaded._ENVIRONMENT, models=False) is first
    os.kill(first.pid, signal.SIGKILL)
    first._process.wait()
    assert preloaded.find(preloaded._ENVIRONMENT, models=False) is not first
