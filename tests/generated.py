"""How many examples hypothesis generates: all in `make test`, a fifth in `make check`."""

from __future__ import annotations

import hypothesis

# Without deadlines: on a machine with other work they would fail.
hypothesis.settings.register_profile("all", max_examples=100, deadline=None)
hypothesis.settings.register_profile("check", max_examples=20, deadline=None)
hypothesis.settings.load_profile("all")


def examples(number: int) -> int:
    """The share of `number` that the profile in use asks for (``--hypothesis-profile``)."""
    return number * hypothesis.settings().max_examples // 100
