"""JSON and JSON Lines, read within limits of size and depth: a file may be damaged, or made to exhaust memory.

Exceeding a limit raises `LimitError`, a `ValueError` like JSON's own errors, so that callers catch both together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any

from slim_eval.utils import MIB

#: Limit on the bytes of a file that is read as one document.
MAX_BYTES = 64 * MIB
#: Limit on nested objects and lists; records have about ten.
MAX_DEPTH = 100
#: Limits on the bytes of one line and of all lines of a file, uncompressed.
MAX_LINE_BYTES = 16 * MIB
MAX_LINES_BYTES = 512 * MIB


class LimitError(ValueError):
    """A file, line or document exceeds a limit of size or depth."""


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file, whatever its reported size; a LimitError if there are more than `limit`."""
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise LimitError(f"larger than the limit of {_size(limit)}")
    return content


def read_json(path: Path) -> Any:
    """The JSON document of a file; a ValueError if it is not JSON, not UTF-8, or exceeds a limit."""
    return parse(read_bytes(path).decode())


def parse(text: str) -> Any:
    """A JSON document; a ValueError if it is not JSON, or is nested more than `MAX_DEPTH` deep."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise too_deep() from error
    if text.count("[") + text.count("{") > MAX_DEPTH:  # with fewer, it cannot be so deep
        refuse_depth(content)
    return content


def refuse_depth(content: Any) -> None:
    """Refuse, with a LimitError, content that has more than `MAX_DEPTH` levels of objects and lists."""
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [part for part in level if isinstance(part, (dict, list))]
        if not level:
            return
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
    raise too_deep()


def lines(stream: BufferedIOBase, *, max_bytes: int | None = None) -> Iterator[str]:
    """The lines of a stream of uncompressed content, even if it has few line breaks.

    A ValueError if a line is not UTF-8, or exceeds `MAX_LINE_BYTES`, or all exceed `max_bytes` (`MAX_LINES_BYTES`).
    """
    total, most = 0, max_bytes or MAX_LINES_BYTES
    for number in count(1):
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        total += len(line)
        if len(line) > MAX_LINE_BYTES:
            raise LimitError(f"line {number} is longer than the limit of {_size(MAX_LINE_BYTES)}")
        if total > most:
            raise LimitError(f"larger than the limit of {_size(most)}")
        yield line.decode()


def too_deep() -> LimitError:
    """The error of a document that is nested more than `MAX_DEPTH` deep."""
    return LimitError(f"nested more than {MAX_DEPTH} levels deep")


def _size(limit: int) -> str:
    return f"{limit // MIB} MiB" if limit % MIB == 0 else f"{limit:,} bytes"
