"""A scene of a catalogue, and every decision about it, frozen: bands, radiometric offset, orbit and day."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import shapely

from geossl.data.sentinel.band_names import band_of
from geossl.data.sentinel.offset import PRODUCT, Claim, baseline_number, checked, item_offset, of_baseline
from geossl.data.stac.hrefs import Item
from geossl.errors import BandError, GeosslError, redact
from geossl.limits import DN
from geossl.sensors import S1_BANDS, S2_BANDS, SENSORS

EARTH_SEARCH = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
CDSE = {  # at the finest step each band is made at
    band: f"{band}_{60 if band in ('B01', 'B09') else 10 if band in ('B02', 'B03', 'B04', 'B08') else 20}m"
    for band in EARTH_SEARCH
}
MGRS = re.compile(r"(?:^|_)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:_|$)")


@dataclass(frozen=True)
class Scene:
    """One item and how it is read; a plain value.

    Args:
        id: The item's id.
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
        direction: Direction of the orbit, Sentinel-1.
        orbit: Relative orbit, Sentinel-1.
        apart: Days from the optical day of its place, Sentinel-1.
        within: WKB of the only area it is used in, longitude and latitude; empty = wherever it has pixels.
        catalog: Its catalogue, where it is not the source's first one.
        sign: How addresses of that catalogue are signed.
        elsewhere: The same acquisition in further catalogues, for when it cannot be read.
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
    catalog: str = ""
    sign: str = ""
    elsewhere: tuple["Scene", ...] = ()

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
        more = {"elsewhere": [scene.to_json() for scene in self.elsewhere], "catalog": self.catalog, "sign": self.sign}
        plain = {name: value for name, value in asdict(replace(self, elsewhere=())).items() if name not in more}
        found = {**plain, "hrefs": {band: redact(href) for band, href in self.hrefs}, **areas}
        return found | {name: value for name, value in more.items() if value}  # left out as in plans of before

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Scene":
        """A scene as it was recorded in a plan."""
        areas = {key: bytes.fromhex(values.get(key, "")) for key in ("footprint", "within")}
        others = tuple(map(cls.from_json, values.get("elsewhere", ())))
        return cls(**{**values, "hrefs": tuple(values["hrefs"].items()), "elsewhere": others, **areas})


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
    hrefs = hrefs_of(item, sensor)
    if SENSORS[sensor].is_radar:
        return Scene(hrefs=hrefs, **base, **s1_decisions(item))
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


def hrefs_of(item: Item, sensor: str) -> tuple[tuple[str, str], ...]:
    """Names and addresses of the files of an item that are read."""
    return s1_hrefs(item) if SENSORS[sensor].is_radar else s2_hrefs(item)


def s2_hrefs(item: Item) -> tuple[tuple[str, str], ...]:
    """Addresses of the twelve bands and the scene classification, by name, never by position."""
    assets = item["assets"]
    found = {band: asset_of(item, band) for band in (*S2_BANDS, "SCL")}
    if missing := [band for band, asset in found.items() if asset is None]:
        raise BandError(f"item {item['id']} lacks {', '.join(missing)}; it has {', '.join(sorted(assets))}")
    return tuple((band, own_href(item, band, asset)) for band, asset in found.items())


def own_href(item: Item, band: str, asset: Mapping[str, Any]) -> str:
    """Address of an asset, if neither its metadata nor its file's name says that it is another band.

    Raises:
        BandError: What it says instead.
    """
    href = str(asset["href"])
    bands = [part for key in ("eo:bands", "bands") for part in asset.get(key) or [] if isinstance(part, dict)]
    stem = re.split(r"[?#]", href)[0].rpartition("/")[2].rpartition(".")[0]
    for text, where in (*((str(part.get("name", "")), "its metadata") for part in bands), (stem, "its file's name")):
        said = {found for word in re.split(r"[^A-Z0-9]+", text.upper()) if (found := band_of(word))} - {band}
        if said and len(bands) < 2 and band not in re.split(r"[^A-Z0-9]+", text.upper()):
            raise BandError(f"item {item['id']}: asset {band} is {', '.join(sorted(said))} by {where} ({text[:60]!r})")
    return href


def asset_of(item: Item, band: str) -> Any:
    """The asset of a Sentinel-2 band by any name that catalogues give it; None if there is none."""
    names = (band, EARTH_SEARCH[band], CDSE[band])
    return next((item["assets"][name] for name in names if name in item["assets"]), None)


def s1_hrefs(item: Item) -> tuple[tuple[str, str], ...]:
    """Addresses of both polarisations."""
    assets = {name.upper(): asset for name, asset in item["assets"].items()}
    if missing := [band for band in S1_BANDS if band not in assets]:
        raise BandError(f"item {item['id']} lacks {', '.join(missing)}; dual polarisation VV and VH is needed")
    return tuple((band, own_href(item, band, assets[band])) for band in S1_BANDS)


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
    """The number to add, and how it is known; ``geossl.data.sentinel.offset`` decides.

    In this order: the flag of Earth Search's converted files, the offset of the assets, the processing baseline. The
    numbers are looked at where the flag is known to lie, where these disagree, and for baselines 99.xx.
    """
    properties, name = item["properties"], f"item {item['id']}"
    applied = properties.get("earthsearch:boa_offset_applied")
    applied = {"true": True, "1": True, "false": False, "0": False}.get(str(applied).strip().lower())
    if applied is True:
        return 0, "earthsearch:boa_offset_applied"
    text = baseline_of(item)
    offset = of_baseline(text, name) if text else None
    claims = [] if offset is None else [Claim(offset, f"processing baseline {baseline_number(text):05.2f}")]
    if applied is None:
        claims = [*asset_claims(item, name), *claims]
    if not text and not claims:
        raise BandError(f"{name} names no processing baseline, so its +1000 offset is not known")

    def darkest() -> float:
        return min(probe(hrefs[band]) for band in ("B02", "B04", "B12"))

    return item_offset(item["id"], claims, not (applied is False and offset), darkest)


def asset_claims(item: Item, name: str) -> list[Claim]:
    """What the assets say of the offset, on themselves (STAC 1.1) or on their bands.

    Raises:
        BandError: If bands differ, or have a scale that is not Sentinel-2's.
    """
    found = set()
    for band in S2_BANDS:
        asset = asset_of(item, band) or {}
        parts = [*asset.get("raster:bands", []), *asset.get("bands", []), asset]
        offsets, scales = (
            [part[key] for part in parts for key in (word, f"raster:{word}") if part.get(key) is not None]
            for word in ("offset", "scale")
        )
        scale = float(scales[0]) if scales else 1 / DN
        if scale not in (1.0, 1 / DN):
            raise BandError(f"{name}: asset {band} has the scale {scale:g}; expected numbers of reflectance x 10000")
        if offsets:
            found.add(checked(offsets[0], name, f"asset {band}", scale))
    if len(found) > 1:
        raise BandError(f"{name} gives bands different offsets, so its +1000 is not known")
    return [Claim(offset, "raster:bands offset") for offset in found]


def baseline_of(item: Item) -> str:
    """Processing baseline as an item or a product's name in it says; catalogues write 04.00, 5.09 or 0509."""
    properties = item["properties"]
    for key in ("s2:processing_baseline", "processing:version", "processing:baseline"):
        text = str(properties.get(key, "")).strip().upper().removeprefix("N")
        if baseline_number(text) is not None:
            return text
    for text in (properties.get("s2:product_uri"), properties.get("title"), item["id"]):
        if match := PRODUCT.search(str(text)):
            return f"{match['major']}.{match['minor']}"
    return ""
