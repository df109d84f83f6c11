"""A tiny model in a Python package of its own, for `slim-eval demo --real` without a network: a wheel with a GGUF file.

As a plugin it takes the place of the real one, and the stand-in engine that of the one with a server; `PACKAGED` names
the variable with the description of the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

from slim_eval import real_demo
from slim_eval.real_demo import PackagedModel

PACKAGED = "SLIM_EVAL_TEST_PACKAGED"


def make_wheel(folder: Path, content: bytes, name: str = "tiny-model") -> PackagedModel:
    """Write a wheel whose only file of data has a content, and describe it."""
    folder.mkdir(exist_ok=True)
    module = name.replace("-", "_")
    file, info = f"{module}/Tiny.Q4_1.gguf", f"{module}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise AssertionError('the package was imported')")
        wheel.writestr(file, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: no-such\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return PackagedModel(
        name="Tiny",
        requirement=f"{name}==1.0",
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        download_bytes=len(content),
        disk_bytes=10_000_000,
        licence="MIT",
    )


def as_plugin(model: PackagedModel) -> dict[str, str]:
    """The variables with which a command uses it; both plugins are in the folder of this file."""
    plugins = os.pathsep.join([str(Path(__file__).with_name("instant.py")), __file__])
    return {"SLIM_EVAL_PLUGINS": plugins, PACKAGED: json.dumps(asdict(model))}


def make_gguf(folder: Path) -> bytes:
    """A GGUF file (Q4_1) of a random Llama whose layers fit every scheme."""
    from tests.standins.tiny_models import make_checkpoint
    from tools.make_gguf import make

    checkpoint = make_checkpoint(folder / "tiny", max_position_embeddings=2048)
    make(checkpoint, folder / "tiny.gguf", "q4_1")
    return (folder / "tiny.gguf").read_bytes()


if PACKAGED in os.environ:
    real_demo.SMOLLM2 = replace(PackagedModel(**json.loads(os.environ[PACKAGED])), server="instant")
