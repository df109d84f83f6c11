"""Small pure helpers: folder names, atomic writes, nearest names, numbers as text."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from slim_eval.utils.redaction import redact

GIB = 2**30
MIB = 2**20
#: Limit on the bytes of a slug; suffixes fit into the 255 that file systems permit.
MAX_SLUG_BYTES = 120
_HASH_DIGITS = 8
_NAME_CHARACTERS = 24
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def slug(name: str) -> str:
    """A name as a safe name of one file or folder: letters, digits, ``.``, ``_`` and ``-``; all else becomes ``_``.

    A device name of Windows gets a ``_`` as prefix. A name that is too long is cut and ends in a hash of the whole, so
    that two long names stay different; so does a name that contained a secret.
    """
    shown = redact(name)
    safe = re.sub(r"[^\w.\-]", "_", shown.strip()).strip(".") or "_"
    if _DEVICE.match(safe):
        safe = f"_{safe}"
    encoded = safe.encode()
    if len(encoded) <= MAX_SLUG_BYTES and shown == name:
        return safe
    kept = encoded[: MAX_SLUG_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{kept}-{_short_hash(name)}"


def short_name(model: str) -> str:
    """The last part of a model id or path, as a folder name: ``meta-llama/Llama-3.2-3B`` is ``Llama-3.2-3B``."""
    return slug(model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def full_name(model: str) -> str:
    """The whole model id as one folder name, for models with the same short name: ``a/Tiny`` is ``a--Tiny``.

    A path gets a hash of itself instead of its parents: ``/models/a/Tiny`` is ``Tiny-`` and eight digits.
    """
    if model.startswith(("/", ".", "~")):
        return f"{short_name(model)}-{_short_hash(model)}"
    return slug(redact(model).strip("/").replace("/", "--"))


def _short_hash(name: str) -> str:
    # Bytes of a command-line argument that are not UTF-8 arrive as lone surrogates.
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]


def files_hash(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the contents, sizes and relative names of files below a folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\0{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(MIB):
                digest.update(block)
    return digest.hexdigest()


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
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, redacted."""
    with atomic_path(path) as temporary:
        temporary.write_text(redact(text), encoding="utf-8")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy: up to three known names closest in spelling, or all of them if they are few and none is near."""
    names = sorted(set(known))
    if near := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(names)}" if len(names) <= 12 else ""


def is_loopback(url: str) -> bool:
    """Whether an address names this machine, for which no proxy is asked."""
    with suppress(ValueError):
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def number(value: float) -> str:
    """A number with about three significant digits, if possible without an exponent."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:#.3g}" if value else "0"


def wrapped_name(name: str) -> str:
    """A model's name in lines of a fixed greatest length, broken after ``-``, ``_``, ``/`` or a space if it has one.

    Nothing is cut: names of one family differ anywhere.
    """
    lines = [""]
    for part in re.findall(r"[^-_/ ]*[-_/ ]?", name):
        while part:
            if len(lines[-1]) + len(part.rstrip()) <= _NAME_CHARACTERS:
                lines[-1] += part
                break
            if lines[-1]:
                lines.append("")
            elif len(part) > _NAME_CHARACTERS:
                lines[-1], part = part[:_NAME_CHARACTERS], part[_NAME_CHARACTERS:]
    return "\n".join(line.rstrip() for line in lines)
