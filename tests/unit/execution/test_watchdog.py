"""What gives no sign of life is bitten, once."""

from __future__ import annotations

import threading

from slim_eval.execution.watchdog import Watchdog


def test_it_bites_what_is_silent_once() -> None:
    bitten = threading.Event()
    bites: list[int] = []

    def bite() -> None:
        bites.append(1)
        bitten.set()

    with Watchdog(0.05, bite) as dog:
        assert bitten.wait(60)
    assert dog.has_bitten
    assert bites == [1]


def test_it_leaves_alone_what_has_ended_and_what_has_no_limit() -> None:
    for limit_s in (1e6, None):
        with Watchdog(limit_s, lambda: None) as dog:
            dog.feed()
        assert not dog.has_bitten
