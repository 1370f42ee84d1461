"""Chosen scenes of a catalogue as one aligned source, read onto any grid."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import xarray as xr
from jaxtyping import Bool, Float, UInt16
from numpy import ndarray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import CRS, Transformer
from rasterio.io import DatasetReader

from geossl import retries
from geossl.data.stac import clouds, remote
from geossl.data.stac.elsewhere import from_any
from geossl.data.stac.scenes import Scene
from geossl.data.stac.search import Catalog
from geossl.errors import BandError, Note, RunError, redact
from geossl.limits import BRIGHTEST, CARRIES, CLOUDY, DARKEST_LAND, DARKEST_WATER
from geossl.sensors import OPTICAL, RADAR, SENSORS
from geossl.speckle import note_speckle
from geossl.units import check_vegetation, darkest, is_land

COMPOSITES = ("clearest", "medoid", "median")
STRIP_ROWS = 256  # of a median held at once
NEAR = 0.1  # degrees around a block beyond which an outline is cut off before it is projected
EPOCH = date(2000, 1, 1)
PLACE_SLACK = 120.0  # metres by which bounds of bands of one scene may differ: two of the coarsest pixels
LEAST_SEEN = 1000  # pixels of a block below which its numbers say little
WIDE, REACH = 60.0, 5.0  # degrees; an outline wider than a tile or a pass, and beyond a CRS's own area


@dataclass(frozen=True)
class CatalogScenes:
    """Sentinel-1 and/or Sentinel-2 scenes in order of preference; a plain value that workers can read for themselves.

    Args:
        catalog: Where they were found.
        optical: Scenes, best solar day first.
        radar: Scenes, best pass first; all of one orbit direction.
        composite: ``clearest``, ``medoid`` or ``median``.
        search: What was asked for; a resumed map compares it.
        run: Folder of the run it is read in, whose workers share one budget of tries again; None = for itself.
    """

    catalog: Catalog
    optical: tuple[Scene, ...]
    radar: tuple[Scene, ...]
    composite: str
    search: dict[str, Any] = field(default_factory=dict, hash=False)
    run: Path | None = None

    @property
    def by_sensor(self) -> dict[str, tuple[Scene, ...]]:
        """Scenes of the sensors there are scenes of."""
        return {name: scenes for name, scenes in ((RADAR, self.radar), (OPTICAL, self.optical)) if scenes}

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors there are scenes of."""
        return tuple(self.by_sensor)

    @property
    def dated(self) -> bool:
        """Whether every optical pixel is of one day."""
        return bool(self.optical) and self.composite != "median"

    def describe(self) -> dict[str, Any]:
        """JSON values that pin what is read: every scene in order, and what was decided about it."""
        metadata: dict[str, Any] = {
            name: [scene.to_json() for scene in scenes] for name, scenes in self.by_sensor.items()
        }
        if self.radar and self.optical:
            metadata["delta_days"] = max(scene.apart for scene in self.firsts(self.radar))
        if any(redact(href) != href for scene in (*self.radar, *self.optical) for _, href in scene.hrefs):
            metadata["asks_again"] = True  # addresses hold secrets, which are not written down
        return {"search": self.search, "catalog": redact(self.catalog.url), "sign": self.catalog.sign, **metadata}

    @staticmethod
    def firsts(scenes: Sequence[Scene]) -> list[Scene]:
        """The scene that comes first in each place."""
        return list({scene.within: scene for scene in reversed(scenes)}.values())

    @classmethod
    def from_json(cls, metadata: dict[str, Any]) -> "CatalogScenes":
        """The source that ``describe`` describes."""
        optical, radar = (tuple(Scene.from_json(s) for s in metadata.get(name, [])) for name in (OPTICAL, RADAR))
        catalog = Catalog(metadata["catalog"], {}, metadata["sign"])
        return cls(catalog, optical, radar, metadata["search"]["composite"], metadata["search"])

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Area each sensor has a scene of, in ``crs``."""
        return {name: shapely.union_all([outline(s, crs) for s in scenes]) for name, scenes in self.by_sensor.items()}

    def in_run(self, folder: Path) -> "CatalogScenes":
        """The same for the workers of a run, which begins now."""
        retries.begin(folder)
        return replace(self, run=folder)

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Read all sensors onto a grid; every value is a function of its place alone, not of the block asked for.

        Returns:
            ``s1 (s1_band, y, x)`` dB, ``s2 (s2_band, y, x)`` reflectance, and ``date (y, x)`` for ``clearest`` and
            ``medoid``; NaN = not usable.

        Raises:
            RunError: If a file cannot be read.
        """
        coords, (y, x) = xr_coords(geobox), geobox.dimensions
        arrays = {}
        with retries.shared(self.run):
            if self.radar:
                arrays[RADAR], _ = first_valid(self.radar, geobox, self.catalog.sign)
            if self.optical:
                combine = first_valid if self.composite == "clearest" else partial(over_dates, kind=self.composite)
                arrays[OPTICAL], days = combine(self.optical, geobox, self.catalog.sign)
        found = {
            name: xr.DataArray(
                data, dims=(f"{name}_band", y, x), coords={f"{name}_band": list(SENSORS[name].bands), **coords}
            )
            for name, data in arrays.items()
        }
        if self.dated:
            found["date"] = xr.DataArray(days, dims=(y, x), coords=coords)
        return xr.Dataset(found)


def outline(scene: Scene, crs: str | int) -> shapely.Geometry:
    """Where a scene is used, in a CRS: its footprint, or the part of it that it was chosen for."""
    return projected(scene.area & shapely.from_wkb(scene.within) if scene.within else scene.area, crs)


def projected(area: shapely.Geometry, crs: str | int) -> shapely.Geometry:
    """An area given in longitude and latitude in a CRS; long edges are followed."""
    transformer = Transformer.from_crs(4326, crs, always_xy=True)

    def transformed(part: shapely.Geometry) -> shapely.Geometry:
        return shapely.transform(shapely.segmentize(part, 0.01), transformer.transform, interleaved=False)

    parts = shapely.get_parts(area)
    if all(east - west < WIDE for west, _, east, _ in shapely.bounds(parts)):
        return transformed(area)
    use = CRS.from_user_input(crs).area_of_use  # what is wider cannot be projected as a whole
    if use is None:
        return transformed(area)
    reach = shapely.box(use.west - REACH, use.south - REACH, use.east + REACH, use.north + REACH)
    return transformed(area & reach)


def first_valid(
    scenes: Sequence[Scene], geobox: GeoBox, sign: str
) -> tuple[Float[ndarray, "c h w"], UInt16[ndarray, "h w"]]:
    """Pixels of the first scene that has a usable one, and its day since 2000-01-01; 0 = none.

    Reads only pixels that are still missing, and stops once none are.
    """
    data = np.full((len(SENSORS[scenes[0].sensor].bands), *geobox.shape), np.nan, dtype=np.float32)
    days = np.zeros(geobox.shape, dtype=np.uint16)
    for scene in scenes:
        missing = np.isnan(data[0])
        if not missing.any():
            break
        y, x = (slice(int(v.min()), int(v.max()) + 1) for v in np.nonzero(missing))
        part = geobox[y, x]
        if not shapely.intersects(outline(scene, str(geobox.crs)), part.extent.geom):
            continue
        pixels = read_scene(scene, part, sign)
        new = missing[y, x] & np.isfinite(pixels[0])
        data[:, y, x][:, new] = pixels[:, new]
        days[y, x][new] = (date.fromisoformat(scene.day) - EPOCH).days
    return data, days


def over_dates(
    scenes: Sequence[Scene], geobox: GeoBox, sign: str, kind: str
) -> tuple[Float[ndarray, "c h w"], UInt16[ndarray, "h w"]]:
    """Median of every band over days, or the day whose spectrum is nearest to it (medoid); strip by strip."""
    parts = [strip(scenes, geobox[rows, :], sign, kind) for rows in strips(geobox.height)]
    data, days = zip(*parts, strict=True)
    return np.concatenate(data, axis=1), np.concatenate(days)


def strips(height: int) -> Iterator[slice]:
    """Rows a few at a time."""
    for start in range(0, height, STRIP_ROWS):
        yield slice(start, min(start + STRIP_ROWS, height))


def strip(
    scenes: Sequence[Scene], geobox: GeoBox, sign: str, kind: str
) -> tuple[Float[ndarray, "c h w"], UInt16[ndarray, "h w"]]:
    """One strip of ``over_dates``."""
    by_day = {day: [s for s in scenes if s.day == day] for day in dict.fromkeys(s.day for s in scenes)}
    stack = np.stack([first_valid(group, geobox, sign)[0] for group in by_day.values()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels without any usable day stay NaN
        median = np.nanmedian(stack, axis=0).astype(np.float32)
    if kind == "median":
        return median, np.zeros(geobox.shape, dtype=np.uint16)
    distance = np.where(np.isnan(stack[:, 0]), np.inf, np.square(stack - median).sum(axis=1))
    nearest = distance.argmin(axis=0)
    numbers = np.array([(date.fromisoformat(day) - EPOCH).days for day in by_day], dtype=np.uint16)
    valid = np.isfinite(median[0])
    return np.take_along_axis(stack, nearest[None, None], axis=0)[0], np.where(valid, numbers[nearest], 0).astype(
        np.uint16
    )


def read_scene(scene: Scene, geobox: GeoBox, sign: str) -> Float[ndarray, "c h w"]:
    """As ``read_one``; from another catalogue that has the same acquisition, where its own host fails."""
    return from_any(scene, sign, lambda found, how: read_one(found, geobox, how))


def read_one(scene: Scene, geobox: GeoBox, sign: str) -> Float[ndarray, "c h w"]:
    """All bands of a scene on a grid; NaN in all of them where a pixel is not usable or not to be taken from it."""
    sensor = SENSORS[scene.sensor]

    places: dict[str, tuple[Any, ...]] = {}

    def read(name: str) -> ndarray:
        def look(source: DatasetReader) -> None:
            places[name] = (source.crs, *source.bounds)

        convert = remote.to_db if sensor.is_radar else remote.to_reflectance(scene.offset)
        try:
            return remote.read_band(scene.href(name), sign, geobox, convert, look)
        except RunError as error:
            raise RunError(f"scene {scene.id}, {name}: {error}") from None

    jobs: list[Any] = [partial(read, name) for name in sensor.bands]
    if not sensor.is_radar:
        jobs.append(partial(clouds.invalid, scene, geobox, sign))
    found = remote.in_parallel(jobs)
    check_places(scene, places)
    data = np.stack(found[: len(sensor.bands)])
    if sensor.is_radar:
        note_speckle(f"scene {scene.id}", data, sensor.bands)
    else:
        check_numbers(scene, data)
    invalid = ~np.isfinite(data).all(axis=0)
    if not sensor.is_radar:
        invalid |= (data == 0).all(axis=0) | found[-1]
    if scene.within:
        invalid |= ~lies_in(shapely.from_wkb(scene.within), geobox)
    data[:, invalid] = np.nan
    return data


def check_places(scene: Scene, places: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse bands that lie at different places, whose pixels would be of different ground.

    Raises:
        RunError: Which, and where.
    """
    (first, (crs, *bounds)), *others = sorted(places.items())
    for name, (other, *corners) in others:
        if other != crs or np.abs(np.subtract(corners, bounds)).max() > PLACE_SLACK:
            raise RunError(
                f"scene {scene.id}: {name} lies elsewhere than {first} ({other} {[round(c) for c in corners]}, {crs} "
                f"{[round(c) for c in bounds]}); its files do not belong together"
            )


def check_numbers(scene: Scene, data: Float[ndarray, "c h w"]) -> None:
    """Hold a block's reflectance against what the catalogue says of its numbers.

    Raises:
        RunError: If they are of another scale.
    """
    bands = SENSORS[scene.sensor].bands
    seen = data[:, np.isfinite(data).all(axis=0) & (data > 0).any(axis=0)]
    if seen.shape[1] < LEAST_SEEN:
        return
    bright = float(np.percentile(seen, 99, axis=1).max())
    if bright > BRIGHTEST:
        raise RunError(
            f"scene {scene.id}: reflectance up to {bright:.3g} is beyond clouds; its numbers are not x 10000"
        )
    try:
        check_vegetation(f"scene {scene.id}", seen, 1.0, bands)
    except BandError as error:
        text = str(error).partition(";")[0]
        raise RunError(f"{text}; its numbers are not x 10000: leave the scene out with --date") from None
    if bright < (DARKEST_LAND if is_land(seen, bands) else DARKEST_WATER):
        text = f"scene {scene.id}: a block is darker than land or water is, as if its numbers were x 1000"
        warnings.warn(text, Note, stacklevel=2)
    dark = darkest(seen, 1.0)
    if not scene.offset and dark is not None and CARRIES + 100 <= dark < CLOUDY:
        text = f"scene {scene.id}: {scene.reason} says that numbers do not carry +1000, but a block is nowhere dark"
        warnings.warn(text, Note, stacklevel=2)


def lies_in(area: shapely.Geometry, geobox: GeoBox) -> Bool[ndarray, "h w"]:
    """Pixels whose centre lies in an area given in longitude and latitude."""
    near = geobox.extent.to_crs(4326).boundingbox
    edges = shapely.segmentize(area, 0.01)  # before it is cut, so that an edge is the same whatever block is asked for
    cut = shapely.box(near.left - NEAR, near.bottom - NEAR, near.right + NEAR, near.top + NEAR)
    here = projected(edges & cut, str(geobox.crs))
    shapely.prepare(here)
    if here.contains(geobox.extent.geom):
        return np.ones(geobox.shape, dtype=bool)
    coords = [np.asarray(coord.values) for coord in xr_coords(geobox).values() if coord.ndim]
    return shapely.contains_xy(here, *np.meshgrid(coords[1], coords[0]))
