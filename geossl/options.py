"""Options that verbs of the command line share."""

from collections.abc import Callable
from typing import Any

import click


def with_options(verb: Callable[..., None], *options: Callable[..., Any]) -> Callable[..., None]:
    """Add options to a verb, shown in this order."""
    for option in reversed(options):
        verb = option(verb)
    return verb


def asks_catalogue(verb: Callable[..., None]) -> Callable[..., None]:
    """Options of verbs that take scenes from a catalogue."""
    return with_options(
        verb,
        click.option("--date", help="Use scenes of this period: 2024-06/2024-08, a year, month or day."),
        click.option("--catalog", default="planetary-computer", show_default=True, help="Or earth-search, URL, file."),
        click.option("--composite", default="clearest", show_default=True, help="Or medoid, median."),
        click.option(
            "--sensors",
            default="s1,s2",
            show_default=True,
            callback=lambda _c, _p, text: text.split(","),
            help="Those to look for in the catalogue.",
        ),
        click.option("--max-cloud", default=80.0, show_default=True, help="Percent; cloudier scenes are not used."),
        click.option("--mask", default="scl", show_default=True, help="Clouds by scene classes, or by omnicloudmask."),
    )


def asks_files(verb: Callable[..., None]) -> Callable[..., None]:
    """Options of verbs that read raster files."""
    several: dict[str, Any] = {"multiple": True, "callback": lambda _c, _p, paths: list(paths) or None}
    return with_options(
        verb,
        click.option("--s1", **several, help="Sentinel-1 VV, VH in dB: file, VRT or folder; may be repeated."),
        click.option("--s2", **several, help="Sentinel-2, 12 bands: file, VRT or folder; may be repeated."),
        click.option(
            "--s2-offset",
            type=click.Choice(["0", "-1000"]),
            callback=lambda _c, _p, number: None if number is None else int(number),
            help="DN offset of Sentinel-2 files that do not say.",
        ),
    )


asks_region = click.option(
    "--aoi", required=True, help="Region: GeoJSON polygons in lon/lat, or any vector file with a CRS."
)
