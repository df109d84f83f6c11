"""Which configurations a recommendation may rank together, by what its objective depends on."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from slim_eval.analysis.groups import NOT_MEASURED, comparable_groups
from slim_eval.analysis.pareto.objectives import ACCURACY_MEAN
from slim_eval.analysis.recommend.candidates import is_energy, needs
from slim_eval.analysis.recommend.cost import Prices
from slim_eval.analysis.recommend.wishes import CERTAIN, COST, OF_BEST, RECOVERY, Plan, is_task
from slim_eval.results.rows import Row


class Kind(Enum):
    """What a number depends on beside the configuration."""

    SPEED = "speed"
    ENERGY = "energy"
    ACCURACY = "accuracy"


def ranked_columns(plan: Plan, tasks: Sequence[str], prices: Prices) -> tuple[str, ...]:
    """The measured columns that the ranking of a plan depends on, without those of the configuration itself.

    A limit is kept or not whatever others did, so limits do not count.

    Args:
        plan: What is wished for.
        tasks: Tasks of the mean accuracy.
        prices: What is paid.
    """
    ranked = [objective.key for part in plan.goal.parts for objective in part]
    ranked += [constraint.key for constraint in plan.constraints if constraint.key == OF_BEST]
    columns = dict.fromkeys(column for key in ranked for column in needs(key, tasks, prices))
    return tuple(column for column in columns if kinds_of(column))


def groups_of(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, list[int]]:
    """Rows that may be ranked together, by their place in the sequence.

    Returns:
        Groups by their names (see `comparable_groups`), in the order of their first rows. Rows that have none of the
        columns are in the first: whatever is ranked, they lack it.
    """
    groups = comparable_groups(rows, columns)
    found: dict[str, list[int]] = {name: [] for name in groups.names}
    for index, label in enumerate(groups.labels):
        found[groups.names[0] if label == NOT_MEASURED else label].append(index)
    return found


def kinds_of(key: str) -> tuple[Kind, ...]:
    """On what a column depends; nothing where it belongs to the configuration itself."""
    if key in CERTAIN or key == RECOVERY:
        return ()
    if key in (ACCURACY_MEAN, OF_BEST) or is_task(key):
        return (Kind.ACCURACY,)
    if key == COST:
        return (Kind.SPEED, Kind.ENERGY)
    return (Kind.ENERGY,) if is_energy(key) else (Kind.SPEED,)
