"""Places for labels beside points, so that no label covers another one, a point, a line, or the edge. Plain geometry.

adjustText moves labels by forces and stops after a number of rounds: labels still covered points and frontiers, and it
took a quarter of the time of all figures. See docs/decisions/014-drawing.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DIRECTIONS = 16
_STEPS = (1.0, 2.0, 3.5, 5.5, 8.0, 11.0, 15.0, 20.0, 26.0, 33.0, 41.0)  # distances that are tried, in the least one
#: Distances for a label that must have a place, and for one that stays near its point or is left out.
FAR, NEAR = len(_STEPS), 4
_FAR_ENOUGH = 6  # farther away, a line that crosses something is easier to follow than one that does not
# Right and left before above and below.
_ORDER = sorted(
    range(_DIRECTIONS), key=lambda i: (min(i, abs(i - _DIRECTIONS // 2), _DIRECTIONS - i), i)
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A rectangle with its sides along the axes."""

    left: float
    low: float
    right: float
    high: float


@dataclass(frozen=True)
class Label:
    """A label without a place: its point, its size, and how many of the distances may be tried."""

    x: float
    y: float
    width: float
    height: float
    steps: int = FAR

    def nearest(self, box: Box) -> tuple[float, float]:
        """The point of a box that is nearest to the label's point."""
        return min(max(self.x, box.left), box.right), min(max(self.y, box.low), box.high)

    def leader(self, box: Box, gap: float) -> list[Box]:
        """The line from the label's point to its place as small boxes; none if the place is right beside the point."""
        x, y = self.nearest(box)
        distance = math.hypot(x - self.x, y - self.y)
        if distance <= 1.5 * gap:
            return []
        count = max(2, int(distance / gap))
        shares = [(index + 1) / (count + 1) for index in range(count)]
        points = [(self.x + (x - self.x) * share, self.y + (y - self.y) * share) for share in shares]
        return [Box(px - 1, py - 1, px + 1, py + 1) for px, py in points]

    def candidates(self, gap: float, most: int) -> list[Box]:
        """Boxes around the point, the nearest first."""
        boxes = []
        for step in _STEPS[: min(self.steps, most)]:
            for index in _ORDER:
                angle = 2 * math.pi * index / _DIRECTIONS
                x, y = self.x + step * gap * math.cos(angle), self.y + step * gap * math.sin(angle)
                # The box's side or corner that faces the point is there: at the right its left side.
                left = x - self.width * (1 - math.cos(angle)) / 2
                low = y - self.height * (1 - math.sin(angle)) / 2
                boxes.append(Box(left, low, left + self.width, low + self.height))
        return boxes


def place(labels: Sequence[Label], obstacles: Sequence[Box], room: Box, gap: float) -> list[Box | None]:
    """A place for each label, the first ones first, each as near to its point as possible.

    A place is inside the room and meets no obstacle, no label placed before, and no line from such a label to its
    point; its own line crosses no label and no obstacle. A label that may be far from its point and found no such place
    gets one whose line may cross an obstacle.

    Args:
        labels: In order of their weight.
        obstacles: What must stay visible: the points themselves, and lines as boxes.
        room: Where labels may be.
        gap: Least distance between a label and its point.

    Returns:
        None for a label without a place.
    """
    fixed = _matrix(obstacles)
    taken: list[Box] = []
    lines: list[Box] = []
    places: list[Box | None] = [None] * len(labels)
    for strict in (True, False):
        for index, label in enumerate(labels):
            if places[index] is not None or not (strict or label.steps == FAR):
                continue
            others = _matrix(taken)
            filled = np.vstack([fixed, others, _matrix(lines)])
            uncrossed = np.vstack([fixed, others]) if strict else others
            found = next(
                (box for box in label.candidates(gap, _FAR_ENOUGH if strict else FAR)
                 if _inside(box, room) and not _meets(box, filled).any() and _is_clear(label, box, uncrossed, gap)),
                None,
            )  # fmt: skip
            places[index] = found
            if found is not None:
                taken.append(found)
                lines += label.leader(found, gap)
    return places


def _inside(box: Box, room: Box) -> bool:
    return room.left <= box.left and box.right <= room.right and room.low <= box.low and box.high <= room.high


def _is_clear(label: Label, box: Box, others: NDArray[np.float64], gap: float) -> bool:
    """Whether the line from a label to its point crosses none of some boxes."""
    # Its own point is an obstacle as well: the line may begin there.
    line = [p for p in label.leader(box, gap) if math.hypot(p.left + 1 - label.x, p.low + 1 - label.y) > gap]
    return not any(_meets(part, others).any() for part in line)


def _matrix(boxes: Sequence[Box]) -> NDArray[np.float64]:
    return np.array([(box.left, box.low, box.right, box.high) for box in boxes], dtype=np.float64).reshape(-1, 4)


def _meets(box: Box, others: NDArray[np.float64]) -> NDArray[np.bool_]:
    left, low, right, high = others.T
    meets: NDArray[np.bool_] = (box.left < right) & (left < box.right) & (box.low < high) & (low < box.high)
    return meets
