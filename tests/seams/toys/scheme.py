"""A plugin with one scheme: 8-bit weights rounded to nearest, 16-bit activations, without calibration."""

from slim_eval.schemes import SCHEMES, Recipe, Scheme

SCHEMES.register(
    Scheme(
        "rtn8",
        "W8A16",
        8,
        colour="#CC79A7",
        marker="P",
        aliases=("w8a16-rtn",),
        recipe=Recipe("RTN (W8A16)", "W8A16", modifier="QuantizationModifier", needs_calibration=False),
    )
)
