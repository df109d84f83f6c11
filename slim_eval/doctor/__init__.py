"""Would `slim-eval run` work here? Examined without heavy imports and without downloads of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slim_eval.config import DoctorConfig
from slim_eval.doctor import checks, network
from slim_eval.doctor.check_results import CheckResult, Report
from slim_eval.doctor.facts import Facts, gather
from slim_eval.engines import engines_for
from slim_eval.environments import complete
from slim_eval.quantization import recipe_files
from slim_eval.schemes import AS_IS, scheme

#: Sections of the report, in order.
CHECKS: dict[str, Callable[[Facts], Iterable[CheckResult]]] = {
    "Quantization": checks.check_quantizing,
    "Measurement": checks.check_serving,
    "Environments": checks.check_environments,
    "Machine": checks.check_machine,
    "GPU": checks.check_gpus,
    "Precisions": checks.check_precisions,
    "Models": checks.check_models,
    "Endpoint": network.check_endpoint,
    "Hub": network.check_hub,
    "Weights & Biases": network.check_wandb,
}


def examine(config: DoctorConfig) -> Report:
    """Examine everything that a run depends on; a UsageError for a scheme or engine that is not registered."""
    engines_for(config.engine)
    recipe_files.register(config.precision, config.quantize_python)
    for name in config.precision:
        if name != AS_IS:
            scheme(name)
    facts = gather(complete(config))
    return Report({title: found for title, check in CHECKS.items() if (found := tuple(check(facts)))})
