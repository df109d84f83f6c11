"""Parsing of command-line texts into config values: lists, ``KEY=VALUE`` pairs, secrets."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from enum import Enum
from typing import Any

from pydantic import SecretStr

from slim_eval.utils.redaction import remember


def split_list(value: Any) -> Any:
    """Split a string such as ``"mmlu gsm8k"`` or ``"mmlu,gsm8k"`` at commas and white space outside quotes.

    Returns:
        A tuple of items without repetitions, in the order given, also of a sequence; anything else unchanged.
    """
    if isinstance(value, Enum):
        value = (value,)
    elif isinstance(value, str):
        lexer = shlex.shlex(value, posix=True)
        lexer.whitespace += ","
        lexer.whitespace_split = True
        lexer.commenters = ""
        lexer.escape = ""
        value = list(lexer)
    return tuple(dict.fromkeys(value)) if isinstance(value, (list, tuple)) else value


def parse_key_values(value: Any) -> Any:
    """Map ``KEY=VALUE`` strings; a value is parsed if it is JSON, else a string. A ValueError refuses other forms."""
    if not isinstance(value, (list, tuple)):
        return value
    pairs: dict[str, Any] = {}
    for item in value:
        key, separator, text = str(item).partition("=")
        if not (separator and key):
            raise ValueError(f"{item!r} is not of the form KEY=VALUE")
        pairs[key.strip().replace("-", "_")] = text
        with contextlib.suppress(ValueError, RecursionError):
            pairs[key.strip().replace("-", "_")] = json.loads(text)
    return pairs


_SECRET = re.compile(r"token|secret|password|api_?key|credential", re.IGNORECASE)


def refuse_secrets(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse engine arguments whose name looks like a secret; the ValueError gives the name, never the value."""
    for name in value:
        if _SECRET.search(name) and not name.startswith(("max_num", "tokenizer")) and "tokens" not in name:
            raise ValueError(f"{name} looks like a secret, but settings are written to results: use HF_TOKEN")
    return value


def remember_secret(value: SecretStr | None) -> SecretStr | None:
    """Redact a secret in everything that is written or shown from now on."""
    # In a config that was passed as JSON asterisks replace it, and texts contain those for other reasons.
    if value is not None and value.get_secret_value().strip("*"):
        remember(value.get_secret_value())
    return value
