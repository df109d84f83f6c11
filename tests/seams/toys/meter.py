"""A plugin with a meter of its own: a constant 5 W, whatever the work."""

from __future__ import annotations

import time

from slim_eval.power import METERS, EnergyReading, EnergySource, Meter

WATTS = 5.0


class ToyMeter(Meter):
    def start(self) -> None:
        self._marks: list[float] = []

    def open(self) -> None:
        self._marks.append(time.perf_counter())

    def close(self) -> None:
        self._marks.append(time.perf_counter())

    def stop(self) -> EnergyReading:
        opened, closed = self._marks
        return EnergyReading("toy", closed - opened, WATTS * (closed - opened), opened_s=opened)


METERS.register(
    EnergySource("toy", obstacle=lambda _: None, preference=lambda _: None, open=lambda _gpus, _interval_s: ToyMeter())
)
