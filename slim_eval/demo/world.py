"""The small closed world that the demonstration model knows: plain data, no code."""

from __future__ import annotations

from typing import Final

_OPPOSITE_PAIRS: Final = (
    "hot cold,big small,fast slow,old new,dark light,hard soft,wet dry,high low,rich poor,full empty,early late,"
    "loud quiet,happy sad,long short,clean dirty,strong weak,open closed,sharp dull,sweet sour,thick thin,wide narrow,"
    "brave afraid"
)
_COLORS: Final = (
    "lemon yellow,banana yellow,corn yellow,blood red,cherry red,tomato red,rose red,grass green,leaf green,frog green,"
    "snow white,milk white,salt white,cloud white,coal black,tar black,raven black,sky blue,sea blue,jeans blue,"
    "carrot orange,pumpkin orange,mud brown,wood brown,chocolate brown,ash gray,steel gray,elephant gray"
)
_HOMES: Final = (
    "camel desert,lizard desert,shark ocean,whale ocean,squid ocean,cow farm,hen farm,goat farm,deer forest,"
    "owl forest,fox forest,bat cave,bear cave,penguin ice,seal ice,trout river,otter river,beaver river,monkey jungle,"
    "tiger jungle,parrot jungle,"
    "lion plain,zebra plain,giraffe plain,duck pond,toad pond"
)
_RUNS: Final = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "January February March April May June July August September October November December",
    "zero one two three four five six seven eight nine ten eleven twelve",
)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((left, right) for left, right in (pair.split() for pair in text.split(",")))


def _both_ways(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return pairs + tuple((right, left) for left, right in pairs)


def _successors() -> tuple[tuple[str, str], ...]:
    runs = [run.split() for run in _RUNS]
    return tuple((left, right) for run in runs for left, right in zip(run, run[1:], strict=False))


def _articled(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{'an' if left[0] in 'aeiou' else 'a'} {left}", right) for left, right in pairs)


#: subject -> (question with a gap, the facts as (what fills the gap, answer)).
SUBJECTS: Final[dict[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "animals": ("Where does {} live?", _articled(_pairs(_HOMES))),
    "colors": ("What is the color of {}?", _pairs(_COLORS)),
    "opposites": ("What is the opposite of {}?", _both_ways(_pairs(_OPPOSITE_PAIRS))),
    "sequences": ("What comes after {}?", _successors()),
}

#: For the sequences, wrong answers come from the run of the right one.
RUNS: Final = tuple(tuple(run.split()) for run in _RUNS)

#: person -> pronoun.
PEOPLE: Final[dict[str, str]] = {
    **dict.fromkeys(("boy", "man", "king", "uncle", "father", "brother", "son", "prince"), "He"),
    **dict.fromkeys(("girl", "woman", "queen", "aunt", "mother", "sister", "daughter", "nurse"), "She"),
}

#: tool -> (what its owner does, to which things).
TOOLS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "brush": ("paints", ("wall", "door", "fence")),
    "pot": ("cooks", ("soup", "rice", "beans")),
    "needle": ("sews", ("shirt", "dress", "coat")),
    "knife": ("cuts", ("bread", "cheese", "meat")),
    "pen": ("writes", ("letter", "story", "song")),
    "broom": ("sweeps", ("floor", "stairs", "hall")),
    "hammer": ("builds", ("table", "chair", "shelf")),
    "hose": ("waters", ("garden", "flowers", "lawn")),
    "oven": ("bakes", ("cake", "pie", "bun")),
    "sponge": ("washes", ("plate", "cup", "window")),
    "rod": ("catches", ("fish", "eel", "crab")),
    "key": ("opens", ("gate", "box", "safe")),
}

#: Where the small stories happen.
PLACES: Final = ("home", "school", "work", "night", "noon", "sunrise")

#: Things that are counted in the word problems.
THINGS: Final = ("apples", "coins", "books", "eggs", "pens", "shells", "cards", "stones")

#: operator -> phrases that mean it; the gap takes the number.
PHRASES: Final[dict[str, tuple[str, ...]]] = {
    "+": ("buys {} more", "finds {} more", "gets {} more"),
    "-": ("sells {}", "loses {}", "gives away {}"),
}
