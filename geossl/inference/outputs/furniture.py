"""What every picture of a map says of itself: title, scale bar, north, dates and source; drawn here alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredText
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # type: ignore[import-untyped]

NOTICE = "Contains modified Copernicus Sentinel data"
NOTICES = {"landsat": "Landsat imagery courtesy of the U.S. Geological Survey"}  # by sensor; others are Sentinels
UNDATED = "dates unknown"
SHARE = 0.25  # of the width that a scale bar takes, about
STEPS = (1, 2, 5)
SMALL = 7.5  # points


@dataclass(frozen=True)
class Caption:
    """The lines above and below a picture.

    Args:
        title: What is shown.
        dates: When the pixels were taken; see ``span``.
        source: What was mapped by whom, such as the encoder's name; the notice of the imagery is added.
        meaning: What the colours mean, where no legend says it.
        notice: What the owner of the imagery asks to be said; empty for none.
    """

    title: str
    dates: str = UNDATED
    source: str = ""
    meaning: str = ""
    notice: str = NOTICE

    def foot(self) -> str:
        """The line below."""
        dated = f" ({self.dates})" if self.dates != UNDATED else ""
        parts = [self.meaning, self.source, "" if dated else UNDATED.capitalize(), self.notice and self.notice + dated]
        return ". ".join(part for part in parts if part) + "."


def notice_of(sensors: Iterable[str]) -> str:
    """What the owners of the imagery of some sensors ask to be said."""
    return "; ".join(dict.fromkeys(NOTICES.get(sensor, NOTICE) for sensor in sensors)) or NOTICE


def span(days: Iterable[str]) -> str:
    """First and last of some days; says where none is known."""
    known = sorted({day for day in days if day})
    if not known:
        return UNDATED
    return known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}"


def round_metres(width_m: float) -> float:
    """The longest round length (1, 2 or 5 times a power of ten) of at most a quarter of a width."""
    lengths = [step * 10.0**power for power in range(-3, 8) for step in STEPS]
    return max((length for length in lengths if length <= SHARE * width_m), default=lengths[0])


def metres(length: float) -> str:
    """A length in words."""
    return f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"


def furnish(axes: Axes, columns: int, pixel_m: float) -> None:
    """Draw a scale bar and a north arrow on axes that show an image, north up.

    Args:
        axes: In pixels, as ``imshow`` makes them.
        columns: Width of the image.
        pixel_m: Side of its pixels on the ground.
    """
    length = round_metres(columns * pixel_m)
    bar = AnchoredSizeBar(
        axes.transData,
        length / pixel_m,
        metres(length),
        "lower left",
        pad=0.3,
        borderpad=0.4,
        sep=3,
        size_vertical=max(columns / 250, 0.05),
    )
    north = AnchoredText("\N{UPWARDS ARROW}\nN", "upper right", pad=0.15, borderpad=0.4, prop={"ha": "center"})
    for box in (bar, north):
        box.patch.set(alpha=0.75, linewidth=0)
        axes.add_artist(box)


def furnish_all(panels: Sequence[Axes], columns: int, pixel_m: float) -> None:
    """Draw them on the first of several panels that show the same ground, and clear the axes of all."""
    for axes in panels:
        axes.set_axis_off()
    furnish(panels[0], columns, pixel_m)


def caption(figure: Figure, words: Caption) -> None:
    """Write title and foot of a figure with constrained layout."""
    figure.suptitle(words.title, fontsize=11)
    figure.supxlabel(words.foot(), fontsize=SMALL, wrap=True)
