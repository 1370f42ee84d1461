"""Colours of classes."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.colors import to_hex

USUAL = {  # those of Dynamic World (Brown et al., 2022), which land-cover maps of Sentinel-2 have made usual
    "water": "#419bdf",
    "trees": "#397d49",
    "grass": "#88b053",
    "flooded vegetation": "#7a87c6",
    "crops": "#e49635",
    "shrub": "#dfc35a",
    "rangeland": "#dfc35a",
    "built": "#c4281b",
    "bare": "#a59b8f",
    "snow": "#b39fe1",
}


def palette(classes: int) -> tuple[str, ...]:
    """Colours that can be told apart, whatever the classes."""
    table = colormaps["tab20"]
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return tuple(to_hex(table(order[i % 20])) for i in range(classes))


def class_colours(names: Sequence[str]) -> tuple[str, ...]:
    """Usual colours if every class has one of its own, else a palette.

    Args:
        names: Names of the classes; case does not matter.
    """
    usual = [USUAL.get(name.lower(), "") for name in names]
    return tuple(usual) if all(usual) and len(set(usual)) == len(usual) else palette(len(names))
