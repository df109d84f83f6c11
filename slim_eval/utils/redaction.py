"""Keeping secrets out of everything that is written or shown: known values, and text of the shape of a token.

Secret are the values of the variables in `VARIABLES`, what was passed to `remember`, and what looks like a token of the
hub, Weights & Biases, GitHub, OpenAI or AWS, an authorization header, or a password in an address. Bare hexadecimal
digits stay: commits, revisions and hashes are made of them.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
import traceback
from functools import lru_cache
from itertools import chain
from types import TracebackType
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
#: Environment variables whose values are secret.
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY")
#: A shorter value is no key, and as a part of words it stands everywhere.
MIN_LENGTH = 8

_PLAIN = ("hf", "api_org", "ghp", "gho", "ghu", "ghs", "ghr")
_remembered: set[str] = set()
_Shape = tuple[str, re.Pattern[str]]


def _shape(marker: str, rest: str, *, word: bool = False) -> _Shape:
    """What a text must hold for a pattern to be tried, and the pattern; `word`: only at the start of a word.

    In JSON a token may stand behind an escaped line break, whose last letter is no part of it.
    """
    start = rf"{marker}(?:(?<![A-Za-z0-9]{marker})|(?<=\\[nrtbf]{marker})|(?<=\\u[0-9a-f]{{4}}{marker}))"
    return marker, re.compile((start if word else marker) + rest)


def _prefixed(prefix: str, rest: str) -> tuple[_Shape, _Shape]:
    """A token that is known by its prefix: as it is, and with a backslash before each ``_``, as LaTeX writes it."""
    escaped = prefix.replace("_", "\\_")
    return _shape(prefix, rest), (escaped, re.compile(re.escape(escaped) + rest.replace("_-]", r"_\\-]")))


# All that is replaced is what a group named `secret` matches, or the whole where there is none.
_SHAPES = (
    *chain.from_iterable(_prefixed(f"{name}_", r"[A-Za-z0-9]{30,}") for name in _PLAIN),
    *chain.from_iterable(
        _prefixed(f"{name}_", r"[A-Za-z0-9_-]{30,}") for name in ("github_pat", "wandb_v1", "wandb_v2")
    ),
    _shape(
        "sk-",
        r"(?:[A-Za-z0-9]{32,}|(?:proj|svcacct|admin|ant|or|live|test)[A-Za-z0-9]*-[A-Za-z0-9_-]{32,})",
        word=True,
    ),
    _shape("AKIA", r"[A-Z0-9]{16}(?![A-Za-z0-9])", word=True),
    *(_shape(word, r"(?:\s|%20)+(?P<secret>[A-Za-z0-9._~+/=-]{16,})") for word in ("Bearer", "bearer", "BEARER")),
    _shape("uthorization", r"[^A-Za-z]{1,20}[Bb]asic\s+(?P<secret>[A-Za-z0-9+/=_-]{8,})"),
    # A password may hold an @ of its own; a name alone is secret where it is as long as a token.
    _shape("://", r"(?P<secret>[^\s/?#\"'<>\\:@\[]*:[^\s/?#\"'<>\\]+|[^\s/?#\"'<>\\:@\[]{20,})(?=@)"),
)


class Redacted(str):
    """A text that has been redacted, or holds parts that must stay as they are: `redact` gives it back unchanged."""

    __slots__ = ()


def remember(secret: str) -> None:
    """Count a text as secret from now on, in this process; one shorter than `MIN_LENGTH` is passed over."""
    _remembered.add(secret.strip())


def redact(text: str) -> str:
    """The text with `REDACTED` in place of every secret in it. Doing it again changes nothing."""
    if isinstance(text, Redacted):
        return text
    for secret in _known():
        text = text.replace(secret, REDACTED)
    for marker, pattern in _SHAPES:
        if marker in text:
            text = pattern.sub(_without_secret, text)
    return text


def redact_all(value: Any) -> Any:
    """The same for every text in a value, at any depth of dicts, lists and tuples, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_all(item) for item in value]
    if isinstance(value, tuple):
        return tuple(redact_all(item) for item in value)
    return value


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: the traceback of an unexpected error, redacted."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _without_secret(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex:
        return REDACTED
    start, end = match.span("secret")
    return match.string[match.start() : start] + REDACTED + match.string[end : match.end()]


def _known() -> tuple[str, ...]:
    return _spellings(tuple(os.environ.get(name, "").strip() for name in VARIABLES), frozenset(_remembered))


@lru_cache(maxsize=8)
def _spellings(values: tuple[str, ...], remembered: frozenset[str]) -> tuple[str, ...]:
    """Secrets as texts, JSON, HTML, addresses and LaTeX write them; longest first, as one may be a part of another."""
    secrets = {value for value in (*values, *remembered) if len(value) >= MIN_LENGTH and value not in REDACTED}
    spelled = {
        spelling
        for secret in secrets
        for spelling in (
            secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], html.escape(secret),
            quote(secret, safe="", errors="replace"), secret.replace("_", "\\_"),
        )
    }  # fmt: skip
    return tuple(sorted(spelled, key=lambda spelling: (-len(spelling), spelling)))
