"""Which scenes of a catalogue a map is made from: searched, decided and ranked once."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.features import geometry_mask
from rasterio.io import DatasetReader

from geossl.data.stac import remote
from geossl.data.stac.clouds import BAD, MASKS, check_mask
from geossl.data.stac.composite import COMPOSITES, CatalogScenes
from geossl.data.stac.elsewhere import Acquisition, from_any, merged
from geossl.data.stac.hrefs import Item, check_item
from geossl.data.stac.scenes import CDSE, EARTH_SEARCH, Scene, days_between, hrefs_of, scene_of
from geossl.data.stac.search import Catalog, catalogs_of, search
from geossl.errors import BandError, InputError, Note, RunError, needs, redact
from geossl.grid import Aoi
from geossl.rules import parse_dates
from geossl.sensors import OPTICAL, PAIR, RADAR, SENSORS

LOOK_PX = 512  # side of the thinned look scenes are ranked on
WHOLE = 0.999  # share of a region that counts as all of it
BANDS = (*EARTH_SEARCH, *EARTH_SEARCH.values(), *CDSE.values())
WANTED = (*BANDS, *SENSORS[RADAR].bands)  # names of the assets that are read
PAIR_DAYS = 12  # a larger gap between radar and optical date gets a note


def find_scenes(
    aoi: Aoi,
    dates: str,
    catalog: str = "planetary-computer",
    *,
    composite: str = "clearest",
    sensors: Sequence[str] = PAIR,
    max_cloud: float | int = 80,
    mask: str = "scl",
) -> CatalogScenes:
    """Search, decide and rank; everything that a map's values depend on is settled here.

    Args:
        aoi: Region.
        dates: Period, e.g. ``2024-06/2024-08``.
        catalog: Preset, URL or file, or several by commas; see ``geossl.data.stac.search``.
        composite: How optical days are put together.
        sensors: Those wanted; one that has no scene is left out with a note.
        max_cloud: Scenes with more clouds, in percent by their metadata, are not looked at.
        mask: How cloudy pixels are found: ``scl`` or ``omnicloudmask``. Days are ranked by scene classes either way.

    Raises:
        InputError: If nothing is found or the catalogue cannot be used; says why.
    """
    check_request(dates, catalog, composite, sensors, max_cloud, mask)
    places, period = catalogs_of(catalog), parse_dates(dates)
    check_mask(mask)
    offers = offered(aoi, period, places, sensors, max_cloud)
    where = offers[0][0]
    found = {
        sensor: merged([(place.url, place.sign, scenes[sensor]) for place, scenes in offers]) for sensor in sensors
    }
    if not any(found.values()):
        asked = ", ".join(redact(place.url) for place, _ in offers)
        raise InputError(
            f"--catalog {asked} has no valid scene over {aoi.name} in {dates}; widen --date or --max-cloud"
        )
    for sensor in [sensor for sensor, scenes in found.items() if not scenes]:
        warnings.warn(f"no valid {sensor} scene over {aoi.name} in {dates} in {redact(where.url)}", Note, stacklevel=2)
    optical = ranked_days([replace(scene, mask=mask) for scene in found.get(OPTICAL, [])], aoi, where.sign)
    radar = ranked_passes(found.get(RADAR, []), aoi, optical)
    request = {"catalog": catalog, "composite": composite, "sensors": sensors, "max_cloud": max_cloud, "mask": mask}
    metadata = search_metadata(aoi, {"date": dates, **request})
    source = CatalogScenes(where, tuple(optical), tuple(radar), composite, metadata)
    if (apart := source.describe().get("delta_days", 0)) > PAIR_DAYS:
        warnings.warn(f"radar is {apart} days from the optical date, more than {PAIR_DAYS}", Note, stacklevel=2)
    return source


def offered(
    aoi: Aoi, period: tuple[date, date], places: Sequence[Catalog], sensors: Sequence[str], max_cloud: float | int
) -> list[tuple[Catalog, dict[str, list[tuple[Acquisition, Scene]]]]]:
    """What every catalogue that answers has, by sensor; one of several that does not is left out with a note.

    Raises:
        InputError: That of the first, if none answers.
    """
    found, errors = [], []
    for place in places:
        try:
            check_key(place, sensors)
            scenes = {}
            for sensor in sensors:
                items = [item for item in search(aoi, period, place, sensor) if cloud_cover(item) <= max_cloud]
                scenes[sensor] = decided(items, sensor, place, is_alone=len(places) == 1)
        except InputError as error:
            errors.append(error)
            continue
        found.append((place, scenes))
    if not found:
        raise errors[0]
    for why in errors:
        warnings.warn(f"{why}; the other catalogues are used", Note, stacklevel=3)
    return found


def check_request(
    dates: str, catalog: str, composite: str, sensors: Sequence[str], max_cloud: float | int, mask: str
) -> None:
    """Refuse what cannot be searched for; asks nobody.

    Raises:
        InputError: Which value, and what was expected.
    """
    options = ("--composite", [composite], COMPOSITES), ("--sensors", sensors, PAIR), ("--mask", [mask], MASKS)
    for option, values, known in options:
        if unknown := [value for value in values if value not in known]:
            raise InputError(f"{option} {unknown[0]!r} is not known; use {', '.join(known)}")
    if not sensors or len(set(sensors)) < len(sensors):
        raise InputError(f"--sensors {','.join(sensors)!r} must name each sensor once; use {', '.join(PAIR)}")
    if not 0 <= max_cloud <= 100:
        raise InputError(f"--max-cloud {max_cloud:g} is not a percentage; use 0 to 100")
    catalogs_of(catalog)
    parse_dates(dates)


def cloud_cover(item: Item) -> float:
    """Percent of clouds as an item says; 0 where it says nothing, or nothing that is a number."""
    try:
        return float(item["properties"].get("eo:cloud_cover", 0))
    except (TypeError, ValueError):
        return 0.0  # the item is refused by name, with others that cannot be read


def search_metadata(aoi: Aoi, request: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, as JSON values."""
    region = hashlib.sha256(shapely.to_wkb(aoi.geometry)).hexdigest()
    catalog = redact(request["catalog"])
    return {**request, "catalog": catalog, "sensors": list(request["sensors"]), "region_sha256": region}


def resumed(aoi: Aoi, metadata: dict[str, Any], request: dict[str, Any]) -> CatalogScenes:
    """The scenes of a map that was begun, as its plan has them.

    Plans hold no secrets: where addresses had some, the catalogue is asked for them again.

    Args:
        aoi: Region.
        metadata: ``source`` of the plan.
        request: What is asked for now; equal to what the plan was made for.

    Raises:
        InputError: If a scene of the plan is not in the catalogue any more.
    """
    source, places = CatalogScenes.from_json(metadata), catalogs_of(request["catalog"])
    where = next((place for place in places if redact(place.url) == source.catalog.url), places[0])
    source = replace(source, catalog=where)
    if not metadata.get("asks_again"):
        return source
    known = {}
    used = {scene.catalog or redact(where.url) for scene in (*source.optical, *source.radar)}
    for place in [place for place in places if redact(place.url) in used]:
        for sensor in source.sensors:
            for item in search(aoi, parse_dates(request["date"]), place, sensor):
                check_item(item, WANTED, place.url)
                known[sensor, item["id"]] = hrefs_of(item, sensor)

    def renew(scene: Scene) -> Scene:
        """A scene with addresses that can be read now."""
        if (scene.sensor, scene.id) not in known:
            raise InputError(f"scene {scene.id} of the map that was begun is not in {redact(where.url)} any more")
        return replace(scene, hrefs=known[scene.sensor, scene.id])

    return replace(source, optical=tuple(map(renew, source.optical)), radar=tuple(map(renew, source.radar)))


def decided(
    items: Sequence[Item], sensor: str, catalog: Catalog, is_alone: bool = True
) -> list[tuple[Acquisition, Scene]]:
    """Items that can be read; the others are left out, with the reason of the first.

    Raises:
        RunError: If the numbers of one have to be looked at, its host fails, and there is no other catalogue.
    """
    valid, refused = [], []
    for item in items:
        try:
            check_item(item, WANTED, catalog.url)
            scene = scene_of(item, sensor, partial(dark_percentile, sign=catalog.sign))
            valid.append((Acquisition.of(item, sensor), scene))
        except BandError as error:
            refused.append(str(error))
        except RunError as error:
            if is_alone:
                raise
            refused.append(str(error))
    if refused:
        warnings.warn(f"{len(refused)} {sensor} scene(s) left out: {refused[0]}", Note, stacklevel=3)
    return valid


def check_key(catalog: Catalog, sensors: Sequence[str]) -> None:
    """Radar of the Planetary Computer and files of the Copernicus Data Space need a key; say so before work starts."""
    if catalog.sign == "cdse" and not (os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE")):
        raise InputError(
            "files of cdse need S3 keys of the Copernicus Data Space in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
            "make them at https://eodata-s3keysmanager.dataspace.copernicus.eu, or use --catalog earth-search"
        )
    if catalog.sign != "planetary-computer":
        return
    try:
        from planetary_computer.settings import Settings  # lazy: extra
    except ImportError:
        raise needs("stac") from None
    if any(SENSORS[name].is_radar for name in sensors) and not Settings.get().subscription_key:
        raise InputError(
            "sentinel-1-rtc of planetary-computer needs an API key in PC_SDK_SUBSCRIPTION_KEY; set it, or --sensors s2"
        )


def dark_percentile(href: str, sign: str) -> float:
    """First percentile of a file's valid numbers, on its smallest overview."""

    def look(source: DatasetReader) -> float:
        shape = tuple(min(side, LOOK_PX) for side in source.shape)
        numbers = source.read(1, out_shape=shape)
        return float(np.percentile(numbers[numbers > 0], 1)) if (numbers > 0).any() else 0.0

    return remote.opened(href, sign, look)


def ranked_days(scenes: list[Scene], aoi: Aoi, sign: str) -> list[Scene]:
    """Scenes in order of preference: the day with most clear area in the region first.

    Where no day's swath covers the region, days are ranked tile by MGRS tile, as the best day of one swath says nothing
    of the next: first the best of every tile, then the second best, and so on. Earlier days and lower ids win ties.
    """
    areas = remote.in_parallel(
        [partial(from_any, scene, sign, lambda found, how: clear_area(found, aoi, how)) for scene in scenes]
    )
    clear = dict(zip(scenes, areas, strict=True))
    days = by_day(scenes, clear)
    tiles = sorted({scene.tile for scene in scenes})
    if len(tiles) < 2 or any(cover(group, aoi.geometry) >= WHOLE for group in days):
        return [scene for group in days for scene in group]
    place = {
        scene: (rank, tile)
        for tile in tiles
        for rank, group in enumerate(by_day([s for s in scenes if s.tile == tile], clear))
        for scene in group
    }
    return sorted(scenes, key=lambda s: (*place[s], s.id))


def by_day(scenes: list[Scene], clear: dict[Scene, float]) -> list[list[Scene]]:
    """Scenes of each day, the day with most clear area first."""
    days = {day: [s for s in scenes if s.day == day] for day in {s.day for s in scenes}}
    order = sorted(days, key=lambda day: (-round(sum(clear[s] for s in days[day])), day))
    return [sorted(days[day], key=lambda s: s.id) for day in order]


def cover(scenes: list[Scene], area: shapely.Geometry) -> float:
    """Share of an area that the footprints of some scenes cover."""
    return round(shapely.union_all([s.area for s in scenes]).intersection(area).area / area.area, 3)


def clear_area(scene: Scene, aoi: Aoi, sign: str) -> float:
    """Square metres of the region that a scene shows clear, from an overview of its classes."""

    def look(source: DatasetReader) -> float:
        shape = tuple(min(side, LOOK_PX) for side in source.shape)
        step = source.shape[0] / shape[0], source.shape[1] / shape[1]
        transform = source.transform @ rasterio.Affine.scale(step[1], step[0])
        inside = geometry_mask([aoi.to_crs(source.crs.to_wkt())], shape, transform, all_touched=True, invert=True)
        clear = inside & ~np.isin(source.read(1, out_shape=shape), BAD)
        return float(clear.sum() * abs(transform.determinant))

    return remote.opened(scene.href("SCL"), sign, look)


def ranked_passes(scenes: list[Scene], aoi: Aoi, optical: list[Scene]) -> list[Scene]:
    """Scenes of one direction: the orbit that covers most first, then the pass nearest to the optical day.

    Ascending and descending views are never mixed. Where no orbit's swath covers the region, or its optical days were
    ranked by tile, the same is decided for each MGRS tile and its own best day; a scene then comes once per tile.
    Slices of a pass have the same orbit and day, and stay together.
    """
    if not scenes:
        return []
    day = optical[0].day if optical else ""
    directions = [[s for s in scenes if s.direction == d] for d in sorted({s.direction for s in scenes})]
    best = max(directions, key=lambda group: (cover(group, aoi.geometry), -min(apart(s, day) for s in group)))
    orbits = [[s for s in best if s.orbit == orbit] for orbit in {s.orbit for s in best}]
    first = {scene.tile: scene.day for scene in reversed(optical)}
    is_covered = any(cover(group, aoi.geometry) >= WHOLE for group in orbits)
    if len(first) < 2 or (is_covered and len(set(first.values())) == 1):
        return in_order(best, aoi.geometry, day)
    found, left, tiles = [], shapely.union_all([s.area for s in best]), sorted(first)
    for tile in tiles:
        area = left & shapely.union_all([s.area for s in optical if s.tile == tile])
        found += in_order(best, area, first[tile], left if tile == tiles[-1] else area)
        left = left - area
    return found


def in_order(
    scenes: list[Scene], area: shapely.Geometry, day: str, within: shapely.Geometry | None = None
) -> list[Scene]:
    """Scenes for an area: the orbit that covers most of it first, then by nearness to a day; used nowhere else."""
    reaching = scenes if within is None else [s for s in scenes if s.area.intersects(within)]
    orbits = {orbit: [s for s in reaching if s.orbit == orbit] for orbit in {s.orbit for s in reaching}}
    share = {orbit: cover(group, area) if area.area else 0.0 for orbit, group in orbits.items()}
    order = sorted(reaching, key=lambda s: (-share[s.orbit], s.orbit, apart(s, day), s.day, s.id))
    only = b"" if within is None else shapely.to_wkb(within)
    return [replace(scene, within=only, apart=apart(scene, day)) for scene in order]


def by_days(source: CatalogScenes, aoi: Aoi) -> dict[str, CatalogScenes]:
    """An image per day that has an optical scene, with the nearest radar; per pass, where there is no optical scene.

    Passes more than ``PAIR_DAYS`` from the day are left out; as in ``find_scenes``, all are of one direction.
    """
    if not source.optical:
        days = sorted({scene.day for scene in source.radar})
        return {day: replace(source, radar=tuple(s for s in source.radar if s.day == day)) for day in days}
    passes = {scene.id: replace(scene, within=b"", apart=0) for scene in source.radar}
    found = {}
    for day in sorted({scene.day for scene in source.optical}):
        optical = [scene for scene in source.optical if scene.day == day]
        near = [scene for scene in passes.values() if apart(scene, day) <= PAIR_DAYS]
        found[day] = replace(source, optical=tuple(optical), radar=tuple(ranked_passes(near, aoi, optical)))
    return found


def apart(scene: Scene, day: str) -> int:
    """Days from a scene to a day; 0 if there is none."""
    return days_between(scene.day, day) if day else 0
