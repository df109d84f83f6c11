"""Secrets in every form that must never be written or shown. None of them is real."""

from __future__ import annotations

_LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"

#: Form -> (a text that contains a secret, the secret).
PLANTED: dict[str, tuple[str, str]] = {
    name: (text.format(secret=secret), secret)
    for name, text, secret in (
        ("hub", "token {secret}", f"hf_{_LETTERS[:34]}"),
        ("hub organisation", "{secret}", f"api_org_{_LETTERS[:34]}"),
        ("W&B", "key={secret}", f"wandb_v1_{_LETTERS}_{_LETTERS[:20]}"),
        ("GitHub", "{secret}", f"ghp_{_LETTERS}"),
        ("GitHub app", "x{secret}", f"gho_{_LETTERS}"),
        ("GitHub fine", "{secret}", f"github_pat_{_LETTERS[:22]}_{_LETTERS}"),
        ("OpenAI", "'{secret}'", f"sk-{_LETTERS}"),
        ("OpenAI project", "line\n{secret}", f"sk-proj-{_LETTERS}-{_LETTERS[:9]}_x"),
        ("AWS", "\x1b{secret}.", f"AKIA{'ABCD' * 4}"),
        ("header", "Authorization: Bearer {secret}", f"planted.{_LETTERS[:20]}"),
        ("basic", "{{'authorization': 'Basic {secret}'}}", "bWU6cGxhbnRlZA=="),
        ("address", "https://me:{secret}@hub.example/x?y", "planted-p@ssword"),
        ("address without a name", "http://:{secret}@127.0.0.1:9", "planted-pass"),
    )
}
#: Values of environment variables, which have no recognisable form.
VALUES = {
    "HF_TOKEN": "planted value one",
    "HUGGING_FACE_HUB_TOKEN": 'planted"two\\<&>',
    "HUGGINGFACE_HUB_TOKEN": "planted_three_é",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "OPENAI_API_KEY": "planted key of an endpoint",
    "SLIM_EVAL_API_KEY": "planted-key/of another+endpoint",
}
ALL = tuple(secret for _, secret in PLANTED.values()) + tuple(VALUES.values())
TEXT = " | ".join((*(text for text, _ in PLANTED.values()), *(f"<{value}>" for value in VALUES.values())))


def spellings(secret: str) -> set[bytes]:
    """A secret as JSON, HTML, LaTeX and URLs spell it."""
    import html
    import json
    from urllib.parse import quote

    texts = (secret, json.dumps(secret)[1:-1], html.escape(secret), secret.replace("_", "\\_"), quote(secret, safe=""))
    return {text.encode() for text in texts}


def found_in(content: bytes | str) -> list[str]:
    """The secrets in a content."""
    raw = content.encode() if isinstance(content, str) else content
    return [secret for secret in ALL if any(spelling in raw for spelling in spellings(secret))]
