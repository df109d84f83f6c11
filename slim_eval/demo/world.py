"""The small closed world that the demonstration model knows: plain data, no code."""

from __future__ import annotations

from typing import Final

#: subject -> (question with a gap for the class, class -> its members).
SUBJECTS: Final[dict[str, tuple[str, dict[str, tuple[str, ...]]]]] = {
    "animals": (
        "Which animal lives in the {}?",
        {
            "ocean": ("shark", "whale", "squid", "seal", "eel", "crab"),
            "farm": ("cow", "hen", "goat", "pig", "sheep", "horse"),
            "forest": ("deer", "owl", "fox", "bear", "wolf", "squirrel"),
            "jungle": ("monkey", "tiger", "parrot", "gorilla", "jaguar", "sloth"),
            "desert": ("camel", "lizard", "scorpion", "cobra", "meerkat", "jackal"),
        },
    ),
    "colors": (
        "Which thing is {}?",
        {
            "yellow": ("lemon", "banana", "corn", "butter", "gold", "honey"),
            "red": ("blood", "cherry", "tomato", "rose", "ruby", "brick"),
            "green": ("grass", "leaf", "frog", "moss", "lime", "pea"),
            "white": ("snow", "milk", "salt", "cloud", "chalk", "flour"),
            "black": ("coal", "tar", "raven", "ink", "soot", "night"),
        },
    ),
    "words": (
        "Which word is a {}?",
        {
            "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Sunday"),
            "month": ("January", "February", "April", "June", "July", "August"),
            "number": ("two", "three", "four", "five", "six", "seven"),
            "fruit": ("apple", "pear", "plum", "peach", "mango", "grape"),
            "vehicle": ("car", "bus", "train", "bike", "boat", "truck"),
        },
    ),
}

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
