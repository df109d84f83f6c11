"""Would `slim-eval run` work here? Examined without heavy imports and without downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slim_eval.config import DoctorConfig
from slim_eval.doctor import checks, network, precisions
from slim_eval.doctor.check_results import CheckResult, CheckSection, Report, Status
from slim_eval.doctor.facts import Facts, gather
from slim_eval.engines import engines_for
from slim_eval.schemes import scheme

__all__ = ["CHECKS", "CheckResult", "CheckSection", "Report", "Status", "examine"]

Check = Callable[[Facts], Iterable[CheckResult]]

#: Sections of the report, in order.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("Quantization", checks.check_quantizing),
    ("Measurement", checks.check_serving),
    ("Machine", checks.check_machine),
    ("GPU", checks.check_gpus),
    ("Precisions", precisions.check),
    ("Hub", network.check_hub),
    ("Weights & Biases", network.check_wandb),
)


def examine(config: DoctorConfig) -> Report:
    """Examine everything that a run depends on.

    Raises:
        UsageError: A scheme or an engine that is not registered.
    """
    engines_for(config.engine)
    for name in config.precision:
        scheme(name)
    facts = gather(config)
    sections = (CheckSection(title, tuple(check(facts))) for title, check in CHECKS)
    return Report(tuple(section for section in sections if section.findings))
