"""The small closed world that the demonstration model knows: plain data, no code."""

from __future__ import annotations

from typing import Final

#: subject -> (question, the words that are right for it). No word is right for two subjects.
SUBJECTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "animals": (
        "Which of these is an animal?",
        ("whale", "cow", "hen", "goat", "pig", "sheep", "horse", "deer", "owl", "fox", "bear", "wolf", "tiger", "camel",
         "monkey", "seal"),
    ),
    "foods": (
        "Which of these can be eaten?",
        ("bread", "cheese", "soup", "rice", "plum", "peach", "apple", "pear", "mango", "grape", "honey", "butter",
         "cake", "corn", "beans", "nuts"),
    ),
    "jobs": (
        "Which of these is a job?",
        ("nurse", "baker", "farmer", "pilot", "teacher", "sailor", "painter", "judge", "tailor", "miner", "singer",
         "guard", "waiter", "doctor", "lawyer", "clerk"),
    ),
}  # fmt: skip

#: Words that are right for no subject.
OBJECTS: Final = (
    "table", "chair", "lamp", "door", "stone", "spoon", "bottle", "wheel", "candle", "mirror", "ladder",
    "bucket", "carpet", "basket", "pillow", "blanket", "clock", "drum", "ring", "rope", "nail", "shoe",
    "glove", "scarf", "kettle", "bell", "coin", "brick", "wire", "box", "plate", "fence", "roof", "tent",
    "flag", "sword",
)  # fmt: skip

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

#: When the small stories happen.
TIMES: Final = (
    "home", "school", "work", "night", "noon", "sunrise", "sunset", "midnight", "dawn", "dusk", "lunch", "dinner",
    "breakfast", "church", "sea", "camp",
)  # fmt: skip

#: Things that are counted in the word problems.
THINGS: Final = ("apples", "coins", "books", "eggs", "pens", "shells", "cards", "stones")

#: operator -> phrases that mean it; the gap takes the number.
PHRASES: Final[dict[str, tuple[str, ...]]] = {
    "+": ("buys {} more", "finds {} more", "gets {} more"),
    "-": ("sells {}", "loses {}", "gives away {}"),
}
