"""The Pareto frontiers of an analysis: the default one and the one asked for, each among comparable rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slim_eval.analysis.groups import Groups, comparable_groups, confounding
from slim_eval.analysis.pareto.hypervolumes import covered
from slim_eval.analysis.pareto.objectives import (
    ACCURACY_MEAN,
    KNOWN_DIRECTIONS,
    Objective,
    default_objectives,
    frontier,
    parse_objectives,
    with_accuracy_mean,
)
from slim_eval.results.rows import Row

if TYPE_CHECKING:
    import pandas as pd

_HEAD = ("name", "model", "precision", "group")
_STANDING = (
    "on_frontier", "hypervolume_lost", "p_non_dominated", "state", "certain", "rivals", "no_interval", "confounded",
    "excluded",
)  # fmt: skip
# Up to here all resamplings; above, as few as still give P to 0.015: the whole analysis stays within seconds.
_MANY_ROWS, _FEW_DRAWS = 1000, 200


@dataclass(frozen=True)
class Frontier:
    """One set of objectives and where each configuration stands.

    Attributes:
        objectives: What was compared by.
        rows: As `objectives.frontier` gives them, in the order of the configurations, and ``confounded``: why an
            objective compares different work in that row's group; ``hypervolume_lost``: see `hypervolumes.Covered`.
        groups: The settings, for the objectives; rows of different ones were not compared.
        hypervolumes: Of each group that was compared, as `hypervolumes.Covered.total`; None where it was not worked
            out.
    """

    objectives: tuple[Objective, ...]
    rows: tuple[Row, ...]
    groups: Groups
    hypervolumes: Mapping[str, float | None]

    @property
    def title(self) -> str:
        """The objectives as they are written on the command line: ``mmlu:max tpot_s:min``."""
        return " ".join(map(str, self.objectives))


def find_frontiers(rows: Sequence[Row], tasks: Sequence[str], wanted: Sequence[str] = ()) -> list[Frontier]:
    """The frontier by the default objectives, and by those that were asked for.

    Each setting of the measurements has its own default objectives: older files hold fewer numbers. One that less than
    half of a setting's configurations have is left out, as it would leave out all others.

    Args:
        rows: Rows as `rows.rows_of` makes them, with all tasks.
        tasks: Tasks that the mean accuracy is taken over.
        wanted: Objectives as `objectives.parse_objectives` reads them; none by default.

    Returns:
        Sets of objectives that differ, each over all rows, the default ones first; none where nothing was measured.

    Raises:
        UsageError: An objective that no row has, or that cannot be understood.
    """
    prepared = with_means(rows, tasks)
    asked = parse_objectives(wanted, prepared) if wanted else ()
    settings = comparable_groups(prepared).members(prepared).values()
    sets = [*(_defaults(members) for members in settings), asked]
    return [_frontier(prepared, objectives) for objectives in dict.fromkeys(sets) if objectives]


def with_means(rows: Sequence[Row], tasks: Sequence[str]) -> list[Row]:
    """Rows with their mean accuracy, in each setting over the tasks that were measured there; see `with_accuracy_mean`.

    Rows that have it already are returned as they are.

    Args:
        rows: Rows as `rows.rows_of` makes them.
        tasks: Tasks to take the mean of.
    """
    if not rows or ACCURACY_MEAN in rows[0]:
        return list(rows)
    labels = comparable_groups(rows).labels
    made: dict[int, Row] = {}
    for label in dict.fromkeys(labels):
        members = [index for index, found in enumerate(labels) if found == label]
        made |= zip(members, with_accuracy_mean([rows[index] for index in members], tasks), strict=True)
    return [made[index] for index in range(len(rows))]


def pareto_table(frontiers: Sequence[Frontier]) -> pd.DataFrame:
    """All frontiers below each other.

    Returns:
        One row a configuration and set of objectives: ``objectives``, ``name``, ``model``, ``precision``, ``group``,
        the values and intervals of all objectives, and the columns of `objectives.frontier` and `Frontier`.
    """
    import pandas as pd

    made = [{"objectives": found.title} | row for found in frontiers for row in found.rows]
    values = dict.fromkeys(key for row in made for key in row if key not in ("objectives", *_HEAD, *_STANDING))
    return pd.DataFrame(made, columns=["objectives", *_HEAD, *values, *_STANDING]).astype({"rivals": "Int64"})


def _defaults(rows: Sequence[Row]) -> tuple[Objective, ...]:
    """The default objectives that at least half of the rows have a number for."""
    few = [{key: row.get(key) for key in KNOWN_DIRECTIONS} for row in rows]  # rows have hundreds of columns
    return tuple(o for o in default_objectives(few) if 2 * sum(row[o.key] is not None for row in rows) >= len(rows))


def _frontier(rows: Sequence[Row], objectives: tuple[Objective, ...]) -> Frontier:
    keys = [objective.key for objective in objectives]
    groups = comparable_groups(rows, keys)
    draws = _FEW_DRAWS if len(rows) > _MANY_ROWS else None
    found = frontier(rows, objectives, groups.labels, draws=draws)
    compared: dict[str, list[Row]] = {}
    for row, made in zip(rows, found, strict=True):
        if made["excluded"] is None:
            compared.setdefault(made["group"], []).append(row)
    maximise = [objective.maximise for objective in objectives]
    volumes = {
        group: covered([[row[key] for key in keys] for row in members], maximise) for group, members in compared.items()
    }
    words = {group: confounding(members, keys) for group, members in compared.items()}
    lost = {group: iter(volume.lost) for group, volume in volumes.items() if volume is not None}
    standing = [
        {"confounded": words[made["group"]], "hypervolume_lost": next(lost.get(made["group"], iter(())), None)}
        if made["excluded"] is None
        else {"confounded": None, "hypervolume_lost": None}
        for made in found
    ]
    return Frontier(
        objectives,
        tuple(made | more for made, more in zip(found, standing, strict=True)),
        groups,
        {group: None if volume is None else volume.total for group, volume in volumes.items()},
    )
