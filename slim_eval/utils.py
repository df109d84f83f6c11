"""Small pure helpers: folder names, atomic writes, nearest names, numbers as text."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

GIB = 2**30
MIB = 2**20


def slug(name: str) -> str:
    """A name made safe as a file name: letters, digits, ``.``, ``_`` and ``-`` stay, the rest becomes ``_``."""
    safe = re.sub(r"[^\w.\-]", "_", name.strip()).strip(".")
    return safe or "_"


def short_name(model: str) -> str:
    """The last part of a model id or path, as a folder name: ``meta-llama/Llama-3.2-3B`` is ``Llama-3.2-3B``."""
    return slug(model.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1])


def full_name(model: str) -> str:
    """The whole model id as one folder name, for models that share a short name: ``a/Tiny`` is ``a--Tiny``.

    A path gets a hash of itself instead of its parents: ``/models/a/Tiny`` is ``Tiny-`` and eight digits.
    """
    if model.startswith(("/", ".", "~")):
        return f"{short_name(model)}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
    return slug(model.strip("/").replace("/", "--"))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file so that a reader sees either the old one or the whole new one."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` known names closest in spelling to `name`, best first; empty where none is near."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy line: the nearest known names, or all of them where they are few and none is near."""
    names = sorted(set(known))
    near = nearest(name, names)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(names)}" if len(names) <= 12 else ""


def number(value: float) -> str:
    """A number with about three significant digits and no exponent where it can be helped."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:#.3g}" if value else "0"
