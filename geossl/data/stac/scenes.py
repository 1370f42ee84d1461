"""A scene of a catalogue, and every decision about it, frozen: bands, radiometric offset, orbit, day."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import shapely

from geossl.data.sentinel.offset import NEW_BASELINE
from geossl.data.stac.search import Item
from geossl.errors import BandError, GeosslError, redact
from geossl.sensors import S1_BANDS, S2_BANDS

EARTH_SEARCH = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
MGRS = re.compile(r"(?:^|_)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:_|$)")
RAW_FROM = 900  # first percentile of the visible bands: from here on, numbers still carry +1000
CLEAN_TO = 500  # up to here, the offset was removed


@dataclass(frozen=True)
class Scene:
    """One item and how it is read; a plain value.

    Args:
        id: Of the item.
        collection: It is from.
        sensor: ``s1`` or ``s2``.
        day: Solar day: local date at the scene's centre, ISO.
        hrefs: Unsigned address by band (``B02``, ``SCL``, ``VV``).
        footprint: WKB of its outline, longitude and latitude.
        offset: Added to Sentinel-2 numbers.
        reason: How the offset is known; for Sentinel-1, what its numbers are.
        cloud: Percent, as the catalogue says; -1 = not said.
        tile: MGRS tile, Sentinel-2; empty = not said.
        mask: How its clouds are found, Sentinel-2.
        direction: Of the orbit, Sentinel-1.
        orbit: Relative orbit, Sentinel-1.
        apart: Days from the optical day of its place, Sentinel-1.
        within: WKB of the only area it is used in, longitude and latitude; empty = wherever it has pixels.
    """

    id: str
    collection: str
    sensor: str
    day: str
    hrefs: tuple[tuple[str, str], ...]
    footprint: bytes
    offset: int = 0
    reason: str = ""
    cloud: float = -1.0
    tile: str = ""
    mask: str = "scl"
    direction: str = ""
    orbit: int = -1
    apart: int = 0
    within: bytes = b""

    @property
    def area(self) -> shapely.Geometry:
        """Outline in longitude and latitude."""
        return shapely.from_wkb(self.footprint)

    def href(self, band: str) -> str:
        """Address of a band."""
        return dict(self.hrefs)[band]

    def to_json(self) -> dict[str, Any]:
        """JSON values without secrets; ``from_json`` is the inverse, but for those."""
        areas = {"footprint": self.footprint.hex(), "within": self.within.hex()}
        return asdict(self) | {"hrefs": {band: redact(href) for band, href in self.hrefs}, **areas}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Scene":
        """A scene as it was recorded in a plan."""
        areas = {key: bytes.fromhex(values.get(key, "")) for key in ("footprint", "within")}
        return cls(**{**values, "hrefs": tuple(values["hrefs"].items()), **areas})


Probe = Callable[[str], float]  # address of a band -> first percentile of its usable numbers


def scene_of(item: Item, sensor: str, probe: Probe) -> Scene:
    """Decide how an item is read.

    Args:
        item: STAC item.
        sensor: ``s1`` or ``s2``.
        probe: Looks at numbers, where metadata are known to lie.

    Raises:
        BandError: If a band is missing, what the numbers mean cannot be known, or the item is malformed.
    """
    try:
        return decided(item, sensor, probe)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, shapely.errors.ShapelyError) as error:
        if isinstance(error, GeosslError):
            raise
        name = item.get("id") if isinstance(item, dict) else item
        reason = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise BandError(f"item {str(name)[:80]!r} is not a STAC item that can be read ({reason})") from None


def decided(item: Item, sensor: str, probe: Probe) -> Scene:
    """As ``scene_of``, for an item that is well formed."""
    properties, geometry = item["properties"], shapely.from_geojson(json.dumps(item["geometry"]))
    base = {
        "id": item["id"],
        "collection": item["collection"],
        "sensor": sensor,
        "day": solar_day(properties.get("datetime") or properties["start_datetime"], middle(geometry)),
        "footprint": shapely.to_wkb(geometry),
    }
    if sensor == "s1":
        return Scene(hrefs=s1_hrefs(item), **base, **s1_decisions(item))
    hrefs = s2_hrefs(item)
    offset, reason = s2_offset(item, dict(hrefs), probe)
    cloud = float(properties.get("eo:cloud_cover", -1))
    return Scene(hrefs=hrefs, offset=offset, reason=reason, cloud=cloud, tile=tile_of(item), **base)


def tile_of(item: Item) -> str:
    """MGRS tile, such as 31UFS, as the item or its name says; empty if neither does."""
    properties = item["properties"]
    stated = properties.get("s2:mgrs_tile", str(properties.get("grid:code", "")).removeprefix("MGRS-"))
    match = MGRS.search(str(stated)) or MGRS.search(item["id"])
    return match[1].zfill(5) if match else ""


def solar_day(moment: str, longitude: float) -> str:
    """Local date by the sun, so that one overpass is one day everywhere."""
    utc = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return (utc + timedelta(hours=longitude / 15)).date().isoformat()


def middle(geometry: shapely.Geometry) -> float:
    """Longitude of the centre, also of an outline in two halves at 180 degrees."""
    west, _, east, _ = geometry.bounds
    if east - west <= 180:
        return float(geometry.centroid.x)
    x = shapely.transform(geometry, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]])).centroid.x
    return float(x - 360 if x > 180 else x)


def days_between(one: str, two: str) -> int:
    """Days from one ISO date to another, without sign."""
    return abs((date.fromisoformat(one) - date.fromisoformat(two)).days)


def s2_hrefs(item: Item) -> tuple[tuple[str, str], ...]:
    """Addresses of the twelve bands and the scene classification, by name, never by position."""
    assets = item["assets"]
    found = {band: assets.get(band, assets.get(EARTH_SEARCH[band])) for band in (*S2_BANDS, "SCL")}
    if missing := [band for band, asset in found.items() if asset is None]:
        raise BandError(f"item {item['id']} lacks {', '.join(missing)}; it has {', '.join(sorted(assets))}")
    return tuple((band, asset["href"]) for band, asset in found.items())


def s1_hrefs(item: Item) -> tuple[tuple[str, str], ...]:
    """Addresses of both polarisations."""
    assets = {name.upper(): asset for name, asset in item["assets"].items()}
    if missing := [band for band in S1_BANDS if band not in assets]:
        raise BandError(f"item {item['id']} lacks {', '.join(missing)}; dual polarisation VV and VH is needed")
    return tuple((band, assets[band]["href"]) for band in S1_BANDS)


def s1_decisions(item: Item) -> dict[str, Any]:
    """Kind of numbers, and the orbit.

    Raises:
        BandError: For GRD, whose numbers are not backscatter before calibration.
    """
    properties = item["properties"]
    if item["collection"] != "sentinel-1-rtc":
        raise BandError(
            f"item {item['id']} of {item['collection']} holds uncalibrated amplitudes in radar geometry; "
            "use sentinel-1-rtc, or calibrate and terrain-correct the files and give them with --s1"
        )
    if properties.get("sar:instrument_mode", "IW") != "IW":
        raise BandError(f"item {item['id']} is of mode {properties['sar:instrument_mode']}; IW is needed")
    return {
        "reason": "gamma0, linear power to dB",
        "direction": properties.get("sat:orbit_state", "not stated"),
        "orbit": int(properties.get("sat:relative_orbit", -1)),
    }


def s2_offset(item: Item, hrefs: dict[str, str], probe: Probe) -> tuple[int, str]:
    """The number to add, and how it is known.

    In this order: the flag of Earth Search's converted files, checked by their numbers where it is known to lie; the
    offset of the asset; the processing baseline.
    """
    properties = item["properties"]
    baseline = baseline_of(properties)
    is_new = baseline is not None and baseline >= NEW_BASELINE
    applied = properties.get("earthsearch:boa_offset_applied")
    if applied is True:
        return 0, "earthsearch:boa_offset_applied"
    if applied is False and is_new:
        return probed(item["id"], hrefs, probe)
    asset = item["assets"].get("B02", item["assets"].get("blue"))
    stated = [band.get("offset") for band in asset.get("raster:bands", asset.get("bands", []))[:1]]
    if stated and stated[0] is not None and applied is None:
        return round(stated[0] * 10000), "raster:bands offset"
    if baseline is None:
        raise BandError(f"item {item['id']} names no processing baseline, so its +1000 offset is not known")
    return (-1000 if is_new else 0), f"processing baseline {baseline:05.2f}"


def baseline_of(properties: dict[str, Any]) -> float | None:
    """Processing baseline; catalogues write 04.00, 5.09 or 0509."""
    text = str(properties.get("s2:processing_baseline", properties.get("processing:version", "")))
    try:
        return float(text)
    except ValueError:
        return None


def probed(name: str, hrefs: dict[str, str], probe: Probe) -> tuple[int, str]:
    """Whether numbers still carry +1000, by how dark the darkest are."""
    darkest = min(probe(hrefs[band]) for band in ("B02", "B04", "B12"))
    if darkest >= RAW_FROM:
        return -1000, f"metadata unsure; darkest percentile {darkest:.0f} still carries +1000"
    if darkest <= CLEAN_TO:
        return 0, f"metadata unsure; darkest percentile {darkest:.0f} has no +1000"
    raise BandError(
        f"item {name}: metadata are known to be unsure and the darkest percentile {darkest:.0f} decides nothing"
    )
