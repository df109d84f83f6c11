"""Places for labels beside points, so that no label covers another one, a point, or the edge. Plain geometry."""

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


@dataclass(frozen=True)
class Box:
    """A rectangle with its sides along the axes."""

    left: float
    low: float
    right: float
    high: float

    def around(self, margin: float) -> Box:
        """The same with a margin on each side."""
        return Box(self.left - margin, self.low - margin, self.right + margin, self.high + margin)


@dataclass(frozen=True)
class Wish:
    """A label that wants a place.

    Attributes:
        x: Of its point.
        y: Of its point.
        width: Of the label.
        height: Of the label.
        steps: How many of the distances may be tried: a label of little weight stays near its point or is left out.
    """

    x: float
    y: float
    width: float
    height: float
    steps: int = FAR


def place(wishes: Sequence[Wish], obstacles: Sequence[Box], room: Box, gap: float) -> list[Box | None]:
    """A place for each label, the first ones first, each as near to its point as may be.

    A place lies in the room and meets no obstacle, no label placed before, and no line from such a label to its point;
    its own line crosses no label and no obstacle. A label that may stand far from its point and found no such
    place near it gets one whose line may cross an obstacle.

    Args:
        wishes: In order of their weight.
        obstacles: What must stay visible: the points themselves, and lines as boxes.
        room: Where labels may be.
        gap: Least distance between a label and its point.

    Returns:
        None for a label without a place.
    """
    fixed = _matrix(obstacles)
    taken: list[Box] = []
    lines: list[Box] = []
    places: list[Box | None] = [None] * len(wishes)
    for strict in (True, False):
        for index, wish in enumerate(wishes):
            if places[index] is not None or not (strict or wish.steps == FAR):
                continue
            labels = _matrix(taken)
            filled = np.vstack([fixed, labels, _matrix(lines)])
            uncrossed = np.vstack([fixed, labels]) if strict else labels
            found = next(
                (box for box in _candidates(wish, gap, _FAR_ENOUGH if strict else FAR)
                 if _inside(box, room) and not _meets(box, filled).any() and _clear(box, wish, uncrossed, gap)), None
            )  # fmt: skip
            places[index] = found
            if found is not None:
                taken.append(found)
                lines += leader(wish, found, gap)
    return places


def leader(wish: Wish, box: Box, gap: float) -> list[Box]:
    """The line from a label to its point as small boxes; none where the label stands right beside it."""
    x, y = nearest_point(wish, box)
    distance = math.hypot(x - wish.x, y - wish.y)
    if distance <= 1.5 * gap:
        return []
    count = max(2, int(distance / gap))
    shares = [(index + 1) / (count + 1) for index in range(count)]
    points = [(wish.x + (x - wish.x) * share, wish.y + (y - wish.y) * share) for share in shares]
    return [Box(px - 1, py - 1, px + 1, py + 1) for px, py in points]


def nearest_point(wish: Wish, box: Box) -> tuple[float, float]:
    """The point of a label's box that is nearest to the point it names."""
    return min(max(wish.x, box.left), box.right), min(max(wish.y, box.low), box.high)


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share an area."""
    return a.left < b.right and b.left < a.right and a.low < b.high and b.low < a.high


def _candidates(wish: Wish, gap: float, most: int) -> list[Box]:
    """Boxes around a point, the nearest first; right and left before above and below."""
    boxes = []
    for step in _STEPS[: min(wish.steps, most)]:
        for index in _order():
            angle = 2 * math.pi * index / _DIRECTIONS
            x, y = wish.x + step * gap * math.cos(angle), wish.y + step * gap * math.sin(angle)
            # The box's side or corner that faces the point is there: at the right its left side, above its lower one.
            left = x - wish.width * (1 - math.cos(angle)) / 2
            low = y - wish.height * (1 - math.sin(angle)) / 2
            boxes.append(Box(left, low, left + wish.width, low + wish.height))
    return boxes


def _order() -> list[int]:
    half = _DIRECTIONS // 2
    return sorted(range(_DIRECTIONS), key=lambda index: (min(index, abs(index - half), _DIRECTIONS - index), index))


def _inside(box: Box, room: Box) -> bool:
    return room.left <= box.left and box.right <= room.right and room.low <= box.low and box.high <= room.high


def _clear(box: Box, wish: Wish, others: NDArray[np.float64], gap: float) -> bool:
    """Whether the line from a label to its point crosses none of some boxes."""
    # Its own point is an obstacle as well: the line may begin there.
    line = [part for part in leader(wish, box, gap) if math.hypot(part.left + 1 - wish.x, part.low + 1 - wish.y) > gap]
    return not any(_meets(part, others).any() for part in line)


def _matrix(boxes: Sequence[Box]) -> NDArray[np.float64]:
    return np.array([(box.left, box.low, box.right, box.high) for box in boxes], dtype=np.float64).reshape(-1, 4)


def _meets(box: Box, others: NDArray[np.float64]) -> NDArray[np.bool_]:
    left, low, right, high = others.T
    meets: NDArray[np.bool_] = (box.left < right) & (left < box.right) & (box.low < high) & (low < box.high)
    return meets
