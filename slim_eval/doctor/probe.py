"""Asked of an interpreter, which need not know slim-eval: its version, which modules it finds, which CUDA torch is for.

The text of this file is given to ``python -c``. It imports the standard library alone, and none of the modules that it
is asked about. The question is one JSON argument: module -> names that its distribution may have.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import sys
from pathlib import Path


def versions(asked: dict[str, list[str]]) -> dict[str, str | None]:
    """The installed modules, each with the name and version of its distribution; None if it has none."""
    found: dict[str, str | None] = {}
    for module, names in asked.items():
        if importlib.util.find_spec(module) is not None:
            found[module] = None
            for name in names:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    found[module] = f"{name} {importlib.metadata.version(name)}"
                    break
    return found


def torch_cuda() -> str | None:
    """The CUDA that torch was built with, from the file that it keeps this in; None for another build, or no torch."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).parent / "version.py" if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else None


def main() -> None:
    """Answer on stdout, in one line of JSON."""
    answer = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "modules": versions(json.loads(sys.argv[1])),
        "torch_cuda": torch_cuda(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
