"""Would `slim-eval run` work here? Looked at without importing anything heavy and without downloading anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slim_eval.config import DoctorConfig
from slim_eval.doctor import hardware, packages, precisions, reach
from slim_eval.doctor.facts import Facts, gather
from slim_eval.doctor.findings import Finding, Report, Section, State
from slim_eval.engines import engines_for
from slim_eval.schemes import scheme

__all__ = ["CHECKS", "Finding", "Report", "Section", "State", "examine"]

Check = Callable[[Facts], Iterable[Finding]]

#: What is looked at, in the order in which it is shown.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("Quantization", packages.check_quantizing),
    ("Measurement", packages.check_serving),
    ("Machine", hardware.check_machine),
    ("GPU", hardware.check_gpus),
    ("Precisions", precisions.check),
    ("Hub", reach.check_hub),
    ("Weights & Biases", reach.check_wandb),
)


def examine(config: DoctorConfig) -> Report:
    """Look at everything that a run rests on.

    Raises:
        UsageError: A scheme or an engine that is not registered.
    """
    engines_for(config.engine)
    for name in config.precision:
        scheme(name)
    facts = gather(config)
    sections = (Section(title, tuple(check(facts))) for title, check in CHECKS)
    return Report(tuple(section for section in sections if section.findings))
