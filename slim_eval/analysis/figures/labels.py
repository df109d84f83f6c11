"""Places for labels beside points, so that no label covers another one, a point, a line, or the edge. Plain geometry.

adjustText moves labels by forces and stops after a number of rounds: labels still covered points and frontiers, and it
took a quarter of the time of all figures. See docs/decisions/014-drawing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Right and left before above and below.
_ANGLES = 2 * np.pi / 16 * np.array(sorted(range(16), key=lambda i: (min(i, abs(i - 8), 16 - i), i)))
_STEPS = (1.0, 2.0, 3.5, 5.5, 8.0, 11.0, 15.0, 20.0, 26.0, 33.0, 41.0)  # distances that are tried, in the least one
_NEAR = 4  # distances for a label that stays near its point or is left out
_FAR_ENOUGH = 6  # farther away, a line that crosses something is easier to follow than one that does not


@dataclass(frozen=True)
class Label:
    """A label without a place: its point, its size, and whether it may be far from the point, for it must be shown."""

    x: float
    y: float
    width: float
    height: float
    needed: bool = True

    def nearest(self, box: Floats) -> Floats:
        """The point of a box that is nearest to the label's point."""
        return np.clip((self.x, self.y), box[:2], box[2:])

    def leader(self, box: Floats, gap: float) -> Floats:
        """The line from the label's point to its place as small boxes; none if the place is right beside the point."""
        end = self.nearest(box)
        distance = np.hypot(end[0] - self.x, end[1] - self.y)
        count = 0 if distance <= 1.5 * gap else max(2, int(distance / gap))
        points = np.linspace((self.x, self.y), end, count + 2)[1:-1]
        return np.hstack([points - 1, points + 1])


def place(labels: Sequence[Label], obstacles: Floats, room: Floats, gap: float) -> list[Floats | None]:
    """A place for each label, the first ones first, each as near to its point as possible.

    A place is inside the room and meets no obstacle, no label placed before, and no line from such a label to its
    point; its own line crosses no label and no obstacle. A needed label that found no such place gets one whose line
    may cross an obstacle.

    Args:
        labels: In order of their weight.
        obstacles: What must stay visible, the points themselves and lines, as boxes ``(n, 4)``: left, low, right, high.
        room: Where labels may be, as a box.
        gap: Least distance between a label and its point.

    Returns:
        Boxes; None for a label without a place.
    """
    taken, lines = np.empty((0, 4)), np.empty((0, 4))
    places: list[Floats | None] = [None] * len(labels)
    for strict in (True, False):
        for index, label in enumerate(labels):
            if places[index] is not None or not (strict or label.needed):
                continue
            steps = _STEPS[: _FAR_ENOUGH if strict else None] if label.needed else _STEPS[:_NEAR]
            across, up = np.tile(np.cos(_ANGLES), len(steps)), np.tile(np.sin(_ANGLES), len(steps))
            distances = gap * np.repeat(steps, len(_ANGLES))
            # The box's side or corner that faces the point is there: at the right its left side.
            left = label.x + distances * across - label.width * (1 - across) / 2
            low = label.y + distances * up - label.height * (1 - up) / 2
            boxes = np.column_stack([left, low, left + label.width, low + label.height])
            inside = (room[:2] <= boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= room[2:]).all(axis=1)
            free = inside & ~_meet(boxes, np.vstack([obstacles, taken, lines]))
            uncrossed = np.vstack([obstacles, taken]) if strict else taken
            for box in boxes[free]:
                line = label.leader(box, gap)
                # Its own point is an obstacle as well: the line may begin there.
                apart = np.hypot(line[:, 0] + 1 - label.x, line[:, 1] + 1 - label.y) > gap
                if not _meet(line[apart], uncrossed).any():
                    places[index], taken, lines = box, np.vstack([taken, box]), np.vstack([lines, line])
                    break
    return places


def _meet(some: Floats, others: Floats) -> NDArray[np.bool_]:
    """Whether each of some boxes overlaps any of the others."""
    lower, upper = some[:, None, :2], some[:, None, 2:]
    both = np.logical_and.reduce((lower < others[:, 2:]) & (others[:, :2] < upper), axis=2)
    meets: NDArray[np.bool_] = np.logical_or.reduce(both, axis=1)
    return meets
