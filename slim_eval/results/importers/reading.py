"""Reading a file that another tool wrote: what is wrong with it is said with the file and the field."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_eval.errors import ResultFileError
from slim_eval.utils import bounded

#: Larger files are refused: read as a whole, they would take several times this much memory.
MAX_BYTES = 2 * 10**9

#: Above any time in ms, date in seconds or count of tokens; far larger values would overflow when they are squared.
MAX_NUMBER = 1e15

_UNREADABLE = "measure again, or leave the file out"


def load(path: Path) -> tuple[list[Any], str]:
    """The JSON documents of a file, one after the other, and the SHA-256 of its bytes.

    Most files hold one document; ``vllm bench serve --append-result`` writes several.

    Raises:
        ResultFileError: The file cannot be read, is larger than `MAX_BYTES`, nested too deep, truncated, or not JSON.
    """
    try:
        content = bounded.read_bytes(path, MAX_BYTES)
        documents = _documents(content.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ResultFileError(f"{path}: not readable as JSON ({_one_line(error)})", _UNREADABLE) from error
    if not documents:
        raise ResultFileError(f"{path}: is empty", _UNREADABLE)
    return documents, hashlib.sha256(content).hexdigest()


def load_lines(path: Path) -> list[Fields]:
    """The objects of a JSON Lines file; each names its line.

    Raises:
        ResultFileError: The file cannot be read or is larger than `MAX_BYTES`, or a line is no JSON object.
    """
    documents: list[Fields] = []
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(bounded.lines(stream, max_bytes=MAX_BYTES), start=1):
                documents.append(_line(path, number, line))
    except (OSError, ValueError) as error:
        raise ResultFileError(f"{path}: cannot be read ({_one_line(error)})", _UNREADABLE) from error
    return documents


def _line(path: Path, number: int, line: str) -> Fields:
    try:
        content = bounded.parse(line)
    except ValueError as error:
        raise ResultFileError(f"{path}: line {number} is not JSON ({_one_line(error)})", _UNREADABLE) from error
    if not isinstance(content, dict):
        raise ResultFileError(f"{path}: line {number} is no JSON object", _UNREADABLE)
    return Fields(path, content, f"line {number}")


def _documents(text: str) -> list[Any]:
    decoder = json.JSONDecoder()
    found: list[Any] = []
    start = len(text) - len(text.lstrip())
    while start < len(text):
        try:
            document, end = decoder.raw_decode(text, start)
        except RecursionError as error:
            raise bounded.too_deep() from error
        bounded.refuse_depth(document)
        found.append(document)
        start = end + len(text[end:]) - len(text[end:].lstrip())
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Fields:
    """An object of a foreign file. What it is asked for is there and of the right kind, or the error names it.

    Attributes:
        path: The file.
        content: The object.
        at: Where in the file it stands, as ``metrics.request_latency``; empty for the whole document.
    """

    path: Path
    content: Mapping[str, Any]
    at: str = ""

    def error(self, key: str, problem: str) -> ResultFileError:
        """An error that names the file and a field of this object."""
        return ResultFileError(f"{self.path}: field {self._name(key)!r} {problem}", _UNREADABLE)

    def get(self, key: str) -> Any:
        """A value as it stands; None where it is missing or null."""
        return self.content.get(key)

    def number(self, key: str) -> float:
        """A finite number."""
        return self._finite(key, self._required(key))

    def number_or_none(self, key: str) -> float | None:
        """A finite number; None where it is missing or null."""
        return None if self.get(key) is None else self.number(key)

    def count(self, key: str) -> int:
        """An integer from 0 on."""
        value = self.number(key)
        if value < 0 or value != int(value):
            raise self.error(key, f"is {value:g}, not a number of things")
        return int(value)

    def count_or_none(self, key: str) -> int | None:
        """An integer from 0 on; None where it is missing or null."""
        return None if self.get(key) is None else self.count(key)

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value = self._required(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"is {_kind(value)}, not a text")
        return value

    def text_or_none(self, key: str) -> str | None:
        """A text; None where it is missing, null or empty."""
        return None if self.get(key) in (None, "") else self.text(key)

    def child(self, key: str) -> Fields:
        """An object inside this one."""
        value = self._required(key)
        if not isinstance(value, dict):
            raise self.error(key, f"is {_kind(value)}, not an object")
        return Fields(self.path, value, self._name(key))

    def child_or_empty(self, key: str) -> Fields:
        """An object inside this one; an empty one where it is missing or null."""
        return Fields(self.path, {}, self._name(key)) if self.get(key) is None else self.child(key)

    def children(self, key: str) -> list[Fields]:
        """The objects of a list."""
        found: list[Fields] = []
        for index, value in enumerate(self.items(key)):
            if not isinstance(value, dict):
                raise self.error(f"{key}[{index}]", f"is {_kind(value)}, not an object")
            found.append(Fields(self.path, value, self._name(f"{key}[{index}]")))
        return found

    def items(self, key: str) -> list[Any]:
        """A list, whatever it holds."""
        value = self._required(key)
        if not isinstance(value, list):
            raise self.error(key, f"is {_kind(value)}, not a list")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        return [self._finite(f"{key}[{index}]", value) for index, value in enumerate(self.items(key))]

    def _required(self, key: str) -> Any:
        if (value := self.content.get(key)) is None:
            raise self.error(key, "is null" if key in self.content else "is missing")
        return value

    def _finite(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f"is {_kind(value)}, not a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(key, f"is {value}, not a finite number")
        if abs(value) > MAX_NUMBER:
            raise self.error(key, f"is above {MAX_NUMBER:g}, which nothing measured here can be")
        return float(value)

    def _name(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key


def _kind(value: Any) -> str:
    """What a value is, without showing all of it."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value if len(str(value)) <= 40 else f"{str(value)[:40]}…")
