"""Which schemes this hardware runs on which engine, by the rules with which `slim_eval.engines` chooses."""

from __future__ import annotations

from collections.abc import Iterator

from slim_eval.config import AUTO_ENGINE
from slim_eval.doctor.check_results import CheckResult, Status
from slim_eval.doctor.facts import Facts
from slim_eval.engines import engines_for
from slim_eval.schemes import scheme


def check(facts: Facts) -> Iterator[CheckResult]:
    """One finding for each scheme and each installed engine that may serve it."""
    if isinstance(facts.serving, str):
        return
    requested = facts.config.engine
    installed = facts.serving.modules
    engines = [each for each in engines_for(requested) if not each.modules or each.modules[-1] in installed]
    for name in facts.config.precision:
        served = scheme(name)
        for position, engine in enumerate(engines):
            build = (installed[engine.modules[-1]] or "") if engine.modules else ""
            obstacle = engine.obstacle(served, engine.expected_platform(build, facts.computing))
            title = f"{name} on {engine.name}"
            if obstacle is None:
                kernels = engine.quantized_kernels if served.is_quantized else "native"
                note = ", in 16 bit: its speed does not predict a deployment" if kernels == "emulated" else ""
                yield CheckResult(title, Status.OK, f"runs, {kernels}{note}")
            elif requested != AUTO_ENGINE or position == len(engines) - 1:
                yield CheckResult(title, Status.PROBLEM, obstacle, "use --engine transformers, or --engine auto")
            else:
                following = engines[position + 1]
                remedy = f"for the same engine with every precision: --engine {following.name}"
                yield CheckResult(title, Status.WARNING, f"{obstacle}, so {following.label} is used", remedy)
