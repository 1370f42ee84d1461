"""Search for scenes in a STAC API, a static catalogue or a stac-geoparquet file: a frozen list of items."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import shapely

from geossl import retries
from geossl.data.hosts import host_of
from geossl.data.stac.hrefs import Item, check_href
from geossl.errors import InputError, MissingFileError, UnknownNameError, missing, possible, redact
from geossl.grid import Aoi
from geossl.sensors import OPTICAL, RADAR


@dataclass(frozen=True)
class Catalog:
    """Where scenes are searched.

    Args:
        url: STAC API, static ``catalog.json`` or ``.parquet`` file; URL or path.
        collections: By sensor, the collections that can be read; the first one found wins.
        sign: Name of a way to sign hrefs; empty = none.
    """

    url: str
    collections: dict[str, tuple[str, ...]]
    sign: str = ""


READABLE = {OPTICAL: ("sentinel-2-c1-l2a", "sentinel-2-l2a"), RADAR: ("sentinel-1-rtc",)}
PRESETS = {
    "planetary-computer": Catalog(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        {OPTICAL: ("sentinel-2-l2a",), RADAR: ("sentinel-1-rtc",)},
        sign="planetary-computer",
    ),
    "earth-search": Catalog(  # its Sentinel-1 is uncalibrated GRD, which is refused
        "https://earth-search.aws.element84.com/v1", {OPTICAL: ("sentinel-2-c1-l2a", "sentinel-2-l2a")}
    ),
    "cdse": Catalog(  # its Sentinel-1 is GRD
        "https://stac.dataspace.copernicus.eu/v1", {OPTICAL: ("sentinel-2-l2a",)}, sign="cdse"
    ),
}


def catalogs_of(names: str) -> list[Catalog]:
    """One catalogue, or several by ``first,second``: what the first does not have or cannot give is looked for there.

    Raises:
        UnknownNameError: If one is not known.
        MissingFileError: If one looks like a file and is not there.
        InputError: If one is empty or named twice.
    """
    parts = [names] if os.path.isfile(names) else names.split(",")
    if not all(part.strip() for part in parts):
        raise InputError(f"--catalog {redact(names)!r} has an empty name; write one, or several such as first,second")
    if len(set(parts)) < len(parts):
        raise InputError(f"--catalog {redact(names)} names a catalogue twice")
    return [catalog_of(part.strip()) for part in parts]


def catalog_of(name: str) -> Catalog:
    """A preset by name, or whatever URL or file was given.

    Raises:
        UnknownNameError: If it is neither.
        MissingFileError: If it looks like a file and is not there.
    """
    if name in PRESETS:
        return PRESETS[name]
    if re.match(r"https?://", name):
        return Catalog(name, READABLE)
    if possible(name, "--catalog").is_file():
        return Catalog(str(Path(name).absolute()), READABLE)
    if name.endswith((".json", ".parquet")):
        raise MissingFileError(f"--catalog file {name!r} does not exist")
    raise UnknownNameError("catalog", name, PRESETS)


def search(aoi: Aoi, dates: tuple[date, date], catalog: Catalog, sensor: str) -> list[Item]:
    """All items of a sensor over a region and period, sorted by time and id.

    Cloud cover is not asked of the server, as not all can filter.

    Raises:
        InputError: If the catalogue does not answer, cannot be read, or has no collection of this sensor.
    """
    wanted = catalog.collections.get(sensor, ())
    try:
        found: Iterable[Item]
        if catalog.url.endswith(".parquet"):
            found = from_parquet(catalog.url)
        elif catalog.url.endswith(".json"):
            found = from_static(catalog.url)
        else:
            found = asked(aoi, dates, catalog.url, wanted)
        items = [without_nulls(item) for item in found if is_wanted(item, aoi, dates, wanted)]
    except ImportError as error:
        raise missing(error) from None
    except InputError:
        raise
    except Exception as error:  # pystac-client, requests and pyarrow raise many kinds
        why = " ".join(str(error).split())
        raise InputError(redact(f"--catalog {catalog.url} cannot be searched ({why})")[:300]) from None
    best = next((name for name in wanted if any(item.get("collection") == name for item in items)), None)
    chosen = {item["id"]: item for item in items if item.get("collection") == best}
    return sorted(chosen.values(), key=lambda item: (item["properties"].get("datetime", ""), item["id"]))


def asked(aoi: Aoi, dates: tuple[date, date], url: str, collections: tuple[str, ...]) -> list[Item]:
    """All items of a STAC API; asked again as ``geossl.retries`` says, from its first page on."""
    from pystac_client.exceptions import APIError  # lazy: extra
    from requests import RequestException
    from requests.adapters import HTTPAdapter

    last: list[retries.Answer] = []

    class Heard(HTTPAdapter):
        """Notes what a host answers; own certificates are those of ``SSL_CERT_FILE``, as for all that is read."""

        def send(self, request: Any, *more: Any, **settings: Any) -> Any:
            """Ask a host."""
            last.clear()
            settings["verify"] = os.environ.get("SSL_CERT_FILE") or settings.get("verify", True)
            response = super().send(request, *more, **settings)
            last.append(retries.Answer(response.status_code, retries.seconds_of(response.headers.get("Retry-After"))))
            return response

    def ask(attempt: int) -> list[Item]:
        return [*from_api(aoi, dates, url, collections, Heard())]

    def answer(error: Exception) -> retries.Answer:
        return last[-1] if last else retries.Answer()

    failures = (APIError, RequestException)
    try:
        return retries.tried(ask, host_of(url), answer, failures, retries.SEARCH_TRIES)
    except failures as error:  # what pystac-client says may be empty
        raise ConnectionError(f"{answer(error).words} {error}".strip()) from None


def from_api(
    aoi: Aoi, dates: tuple[date, date], url: str, collections: tuple[str, ...], adapter: Any
) -> Iterator[Item]:
    """Query a STAC API, one hemisphere at a time: no box around the Earth for regions across the antimeridian."""
    from pystac_client import Client  # lazy: extra
    from pystac_client.stac_api_io import StacApiIO

    def checked(request: Any) -> None:
        """The pages of an answer are of the same host; nothing else is asked."""
        check_href(request.url, url)

    api = StacApiIO(max_retries=None, request_modifier=checked)
    api.session.mount("http://", adapter)
    api.session.mount("https://", adapter)
    client = Client.open(url, stac_io=api)
    period = f"{dates[0]}T00:00:00Z/{dates[1]}T23:59:59Z"
    for collection in collections:
        for side in (shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90)):
            part = aoi.geometry & side
            if part.area:
                area = json.loads(shapely.to_geojson(part.simplify(0.001) if len(part.wkb) > 50_000 else part))
                yield from client.search(
                    collections=[collection], intersects=area, datetime=period, limit=100
                ).items_as_dicts()


def from_static(url: str) -> Iterator[Item]:
    """Walk a static catalogue; links become absolute."""
    import pystac  # lazy: extra

    class CheckedIO(pystac.stac_io.DefaultStacIO):
        """Follows the links of a catalogue only where it may point."""

        def read_text_from_href(self, href: str) -> str:
            """Text of a document of the catalogue."""
            check_href(href, url)
            return super().read_text_from_href(href)

    for item in pystac.Catalog.from_file(url, stac_io=CheckedIO()).get_items(recursive=True):
        item.make_asset_hrefs_absolute()
        yield item.to_dict(include_self_link=False, transform_hrefs=False)


def from_parquet(url: str) -> Iterator[Item]:
    """Read a stac-geoparquet file."""
    from pyarrow.parquet import read_table  # lazy: extra
    from stac_geoparquet.arrow import stac_table_to_items  # lazy: extra

    yield from stac_table_to_items(read_table(url))


def without_nulls(item: Item) -> Item:
    """An item without the nulls that tables fill in."""
    if not isinstance(item.get("properties"), dict) or not isinstance(item.get("assets"), dict):
        return {**item, "properties": {}, "assets": {}}
    properties = {key: value for key, value in item["properties"].items() if value is not None}
    assets = {
        name: {key: value for key, value in asset.items() if value is not None}
        for name, asset in item["assets"].items()
        if isinstance(asset, dict)
    }
    return item | {"properties": properties, "assets": assets}


def is_wanted(item: Item, aoi: Aoi, dates: tuple[date, date], collections: tuple[str, ...]) -> bool:
    """Whether an item is of a collection, period and place; servers and files differ in what they leave out."""
    if item.get("collection") not in collections or not item.get("geometry"):
        return False
    day = date.fromisoformat((item["properties"].get("datetime") or item["properties"]["start_datetime"])[:10])
    return dates[0] <= day <= dates[1] and bool(
        shapely.from_geojson(json.dumps(item["geometry"])).intersects(aoi.geometry)
    )
