"""Several GGUF files of one model: which ones ``--precision`` means, in a folder and in a repository on the hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slim_eval.config import RunConfig
from slim_eval.errors import UsageError
from slim_eval.execution.plan import lay_out
from slim_eval.models import gguf
from tests.standins.hub import LoopbackHub
from tests.unit.models.test_gguf import write

pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")

NAMES = [
    "Tiny-Q8_0.gguf", "Tiny-Q4_K_M.gguf", "Tiny-Q4_K_S.gguf", "Tiny-f16.gguf", "IQ/Tiny-IQ2_XS-00001-of-00002.gguf",
    "IQ/Tiny-IQ2_XS-00002-of-00002.gguf", "Tiny.imatrix.gguf", "mmproj-Tiny-f16.gguf", "README.md",
]  # fmt: skip


def test_a_scheme_chooses_the_one_file_that_states_it() -> None:
    files = gguf.models_in(NAMES)
    assert len(files) == 5  # a file of several parts is one model; other modalities and statistics are none
    asked = ("q8_0", "Q4_K_M", "gguf-f16", "iq2_xs")
    assert list(gguf.choose("it", files, asked).values()) == [NAMES[0], NAMES[1], NAMES[3], NAMES[4]]
    assert gguf.choose("it", [NAMES[0]], ()) == {"q8_0": NAMES[0]}
    with pytest.raises(UsageError, match=r"it has no GGUF file of q5_0; it has .*Tiny-Q8_0\.gguf") as caught:
        gguf.choose("it", files, ("q5_0",))
    assert "--precision" in caught.value.remedy
    with pytest.raises(UsageError, match="it has 2 GGUF files of q8_0; it has"):
        gguf.choose("it", [*files, "old/Tiny-q8_0.gguf"], ("q8_0",))
    with pytest.raises(UsageError, match="it has 5 GGUF files: "):
        gguf.choose("it", files, ())
    assert all(map(gguf.is_scheme, ("q4_k_m", "IQ2_XS", "tq1_0", "gguf-bf16")))
    assert not any(map(gguf.is_scheme, ("fp16", "int4", "as-is", "w4a16-awq g128", "online:fp8")))


def run_of(folder: Path, models: tuple[str, ...], *precision: str) -> list[tuple[str, str]]:
    config = RunConfig(
        models=models,
        precision=precision or ("fp16",),
        tasks=("performance",),
        engine={"engine": "openai", "server": "llama.cpp"},
        output_dir=folder / "out",
        quantized_models_dir=folder / "made",
    )
    return [(variant.source.name, variant.precision) for variant in lay_out(config)[0]]


def test_a_folder_with_several_files(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    eight, four = folder / "Tiny-Q8_0.gguf", folder / "Tiny-Q4_K_M.gguf"
    write(eight)
    write(four, file_type=15)
    both = [(str(eight), "q8_0"), (str(four), "q4_k_m")]
    assert run_of(tmp_path, (str(folder),), "q8_0", "q4_k_m") == both
    assert run_of(tmp_path, (str(folder),), "q4_k_m") == both[1:]
    assert run_of(tmp_path, (str(eight), str(four)), "q8_0", "q4_k_m") == both  # files by their paths: each as it is
    with pytest.raises(UsageError, match="has 2 GGUF files"):
        run_of(tmp_path, (str(folder),))
    with pytest.raises(UsageError, match="no GGUF file of q5_0"):
        run_of(tmp_path, (str(folder),), "q8_0", "q5_0")
    with pytest.raises(UsageError, match="--precision q4_k_m: the GGUF file is q8_0"):
        run_of(tmp_path, (str(eight),), "q4_k_m")


_ASK = """
import hashlib, json, sys
from pathlib import Path
from slim_eval.config import RunConfig
from slim_eval.errors import SlimEvalError
from slim_eval.execution.plan import lay_out
from slim_eval.models import describe, fetch
out = Path(sys.argv[2])
for models, precision in json.loads(sys.argv[1]):
    try:
        config = RunConfig(
            models=models, **({"precision": precision} if precision else {}), tasks=("performance",),
            engine={"engine": "openai", "server": "llama.cpp"}, output_dir=out / "o", quantized_models_dir=out / "q",
        )
        answer = []
        for variant in lay_out(config)[0]:
            planned, source = variant.source, fetch(variant.source)
            assert describe(planned.config_dir).num_parameters == describe(source.path).num_parameters
            answer.append([
                variant.source.name, variant.precision, variant.base_model, variant.directory.name,
                planned.path is None, source.path.name, hashlib.sha1(source.path.read_bytes()).hexdigest(),
            ])
    except SlimEvalError as error:
        answer = f"{error.cause}; {error.remedy}"
    print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    repo = root / "models" / "org" / "Tiny-GGUF"
    (repo / "IQ").mkdir(parents=True)
    kinds = {"Q8_0": 7, "Q4_K_M": 15, "Q4_K_S": 14, "IQ2_XS": 20}
    for name in NAMES[:-1]:
        write(repo / name, file_type=next((number for kind, number in kinds.items() if kind in name), 1))
    (repo / "README.md").write_text("---\nbase_model: org/Tiny-Instruct\n---\n")
    one = root / "models" / "org" / "One-GGUF"
    one.mkdir()
    write(one / "one-q8_0.gguf", base="https://huggingface.co/org/One")
    none = root / "models" / "org" / "None"
    none.mkdir()
    (none / "README.md").write_text("nothing")
    with LoopbackHub(root) as running:
        yield running


def ask(hub: LoopbackHub, folder: Path, *questions: tuple[tuple[str, ...], tuple[str, ...]], **env: str) -> list[Any]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, json.dumps(questions), str(folder)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**clean, **hub.environment(folder / "home"), "PYTHONPATH": os.pathsep.join(sys.path), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_repository_with_several_files(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.requests.clear()
    several, base = ("org/Tiny-GGUF",), "org/Tiny-Instruct"
    two, parts, one, *refused = ask(
        hub, tmp_path, (several, ("q8_0", "q4_k_m")), (("org/Tiny-GGUF:iq2_xs",), ()), (("org/One-GGUF",), ()),
        (several, ()), (several, ("q5_0",)), (("org/None",), ("q8_0",)), (("org/None:q8_0",), ()),
        (("org/Absent",), ("q8_0",)),
    )  # fmt: skip
    content = [hashlib.sha1((hub.root / "models" / "org" / "Tiny-GGUF" / n).read_bytes()).hexdigest() for n in NAMES]
    assert two == [
        ["org/Tiny-GGUF:q8_0", "q8_0", base, "Tiny-GGUF_q8_0_q8_0", True, NAMES[0], content[0]],
        ["org/Tiny-GGUF:q4_k_m", "q4_k_m", base, "Tiny-GGUF_q4_k_m_q4_k_m", True, NAMES[1], content[1]],
    ]
    assert parts[0][:3] == ["org/Tiny-GGUF:iq2_xs", "iq2_xs", base]
    assert one[0][:3] == ["org/One-GGUF:q8_0", "q8_0", "org/One"]  # its header says so, for it has no card
    assert "has 5 GGUF files" in refused[0]
    assert "has no GGUF file of q5_0; it has" in refused[1]
    assert "Tiny-Q4_K_S.gguf" in refused[1]
    assert "has no config.json on the hub" in refused[2]
    assert "has no GGUF files" in refused[3]
    assert "does not exist" in refused[4]
    fetched = {path.rsplit("/", 1)[-1] for path in hub.requests if path.startswith("GET") and path.endswith(".gguf")}
    assert fetched == {NAMES[0], NAMES[1], "one-q8_0.gguf", *(name.rsplit("/")[-1] for name in NAMES[4:6])}
    # What was downloaded is found again without the hub.
    (again,) = ask(hub, tmp_path, (several, ("q8_0", "q4_k_m")), HF_HUB_OFFLINE="1")
    assert isinstance(again, list), again
    assert [row[:2] for row in again] == [row[:2] for row in two]
