"""What a catalogue offers for a region and a period, in ten lines: before a map is asked for, or when one is odd."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import partial
from itertools import pairwise

import numpy as np
import shapely

from geossl.data.sentinel.offset import baseline_number
from geossl.data.stac.hrefs import Item, check_item
from geossl.data.stac.ranking import WANTED, cloud_cover, dark_percentile
from geossl.data.stac.scenes import Scene, baseline_of, scene_of
from geossl.data.stac.search import Catalog, catalogs_of, search
from geossl.errors import BandError, InputError, RunError, redact
from geossl.grid import Aoi
from geossl.rules import parse_dates
from geossl.sensors import SENSORS

CLEAR = 20  # percent of clouds, below which a day counts as clear


def offers(aoi: Aoi, dates: str, catalogs: str, sensors: Sequence[str]) -> Iterator[str]:
    """Lines of each catalogue: scenes, days, clouds, levels, baselines, offsets, orbits, platforms, holes.

    Args:
        aoi: Region.
        dates: Period, such as ``2024-06``.
        catalogs: A catalogue, or several by commas.
        sensors: Those that are looked for.

    Raises:
        InputError: If none of the catalogues answers.
    """
    period, places, failed = parse_dates(dates), catalogs_of(catalogs), 0
    for place in places:
        yield line("catalog", f"{redact(place.url)}, {aoi.name}, {period[0]} to {period[1]}")
        try:
            for sensor in sensors:
                yield from of_sensor(aoi, period, place, sensor)
        except InputError as error:
            failed += 1
            if failed == len(places):
                raise
            yield line("", f"does not answer: {error}")


def of_sensor(aoi: Aoi, period: tuple[date, date], place: Catalog, sensor: str) -> Iterator[str]:
    """Lines of one sensor."""
    if not place.collections.get(sensor):
        yield line(sensor, "not offered in a form that can be read")
        return
    items = search(aoi, period, place, sensor)
    if not items:
        yield line(sensor, "no scene")
        return
    scenes, problems = readable(items, place, sensor)
    days = sorted({scene.day for scene in scenes})
    yield line(sensor, f"{len(items)} scenes of {items[0]['collection']}, {len(scenes)} can be read, {len(days)} days")
    is_radar = SENSORS[sensor].is_radar
    yield from radar(scenes) if is_radar else optical(items, scenes)
    yield line("platforms", counted(item["properties"].get("platform", "not stated") for item in items))
    yield line("holes", holes(aoi, scenes, days, period) + (f"; {problems[0]}" if problems else ""))


def readable(items: Sequence[Item], place: Catalog, sensor: str) -> tuple[list[Scene], list[str]]:
    """Scenes that a map could use, and why others cannot be used."""
    scenes, problems = [], []
    for item in items:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check_item(item, WANTED, place.url)
                scenes.append(scene_of(item, sensor, partial(dark_percentile, sign=place.sign)))
        except (BandError, RunError) as error:
            problems.append(str(error)[:160])
    return scenes, problems


def optical(items: Sequence[Item], scenes: Sequence[Scene]) -> Iterator[str]:
    """Lines of Sentinel-2: clouds, tiles, processing."""
    clouds = [cloud_cover(item) for item in items if "eo:cloud_cover" in item["properties"]]
    said = f"{min(clouds):.0f} to {max(clouds):.0f} %, median {np.median(clouds):.0f} %" if clouds else "not stated"
    clear = len({scene.day for scene in scenes if 0 <= scene.cloud < CLEAR})
    yield line(
        "clouds", f"{said}; {clear} days below {CLEAR} %; tiles {counted(s.tile or 'not stated' for s in scenes)}"
    )
    numbers = (baseline_number(baseline_of(item)) for item in items)
    baselines = counted("not stated" if number is None else f"{number:05.2f}" for number in numbers)
    offsets = counted(f"{scene.offset} by {scene.reason}" for scene in scenes)
    yield line("levels", f"L2A, baselines {baselines}; offsets {offsets}")


def radar(scenes: Sequence[Scene]) -> Iterator[str]:
    """Lines of Sentinel-1: its numbers and orbits."""
    yield line("levels", counted(scene.reason for scene in scenes) or "none that can be read")
    yield line("orbits", counted(f"{scene.direction} {scene.orbit}" for scene in scenes) or "none")


def holes(aoi: Aoi, scenes: Sequence[Scene], days: Sequence[str], period: tuple[date, date]) -> str:
    """Share of the region that is covered, and the longest time without a scene."""
    area = shapely.union_all([scene.area for scene in scenes]) if scenes else shapely.Polygon()
    share = area.intersection(aoi.geometry).area / aoi.geometry.area
    edges = [period[0] - timedelta(1), *map(date.fromisoformat, days), period[1] + timedelta(1)]
    gaps = [((after - before).days - 1, before) for before, after in pairwise(edges)]
    longest, before = max(gaps)
    return f"{100 * share:.0f} % of the region covered; longest gap {longest} days from {before + timedelta(1)}"


def counted(values: Iterable[str]) -> str:
    """Values with how often each occurs, the commonest first."""
    found = Counter(values)
    return ", ".join(f"{value} ({count})" for value, count in sorted(found.items(), key=lambda x: (-x[1], x[0])))


def line(word: str, text: str) -> str:
    """A line of the report."""
    return f"{word:<10}{text}"
