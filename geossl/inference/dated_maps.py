"""Maps of one place at several dates, brought onto the grid they have in common, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import xarray as xr

from geossl.errors import GridError, InputError, possible
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.description import arrays, inputs_at, one_date, store_attributes
from geossl.inference.outputs.raster import CHUNK, open_date
from geossl.sensors import SENSORS

RADARS = [name for name, sensor in SENSORS.items() if sensor.is_radar]
SAME = ("geossl:reach", "geossl:window_px", "geossl:margin_px")  # how an encoder was run over a map


@dataclass(frozen=True)
class Dated:
    """One of the maps.

    Args:
        name: For messages.
        embeddings: ``(embedding, y, x)``.
        sensors: What every patch was made from; None where that is not known, as of an array.
        about: Attributes of the store.
    """

    name: str
    embeddings: xr.DataArray
    sensors: xr.DataArray | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def days(self) -> list[str]:
        """Days of the scenes it was made from, as far as they are known."""
        return sorted(scene["day"] for scene in self.about.get("geossl:inputs", ()) if scene.get("day"))

    @property
    def middle(self) -> date | None:
        """The day in the middle of them."""
        return date.fromisoformat(self.days[len(self.days) // 2]) if self.days else None


def opened(value: str | Path | xr.DataArray, number: int, time: str | None = None) -> Dated:
    """One of the maps, with what is known of it; ``time`` is its date where it has several.

    Raises:
        MissingFileError: If it does not exist.
        InputError: If it is not an embedding map that says what its patches were made from.
    """
    if isinstance(value, xr.DataArray):
        name = f"map {number}"
        if value.dims != ("embedding", "y", "x") or value.odc.geobox is None or value.odc.crs is None:
            raise InputError(f"{name} has dimensions {value.dims}; expected (embedding, y, x) with a CRS: geossl.open")
        chunked = value if value.chunks else value.chunk({"y": 256, "x": 256})
        return Dated(name, chunked.chunk(embedding=-1))
    path = possible(value, "map")
    if path.suffix == ".tif":
        raise InputError(f"{path} does not say what its patches were made from; give the .zarr it was exported from")
    with dask.config.set({"array.chunk-size": CHUNK}):
        embeddings = open_date(path, time)
    data, about = one_date(arrays(checked(path), str(path), chunks=None), str(path), time), store_attributes(path)
    if "sensors" not in data or "geossl:encoder_sha256" not in about:
        raise InputError(f"{path} was not written by geossl embed: it does not say what its patches were made from")
    if time is None:
        return Dated(str(path), embeddings, data["sensors"], about)
    about |= {"geossl:inputs": inputs_at(about, time), "geossl:plan_sha256": f"{about['geossl:plan_sha256']} {time}"}
    return Dated(f"{path} {time}", embeddings, data["sensors"], about)


def all_opened(maps: Sequence[str | Path | xr.DataArray], time: str | None) -> list[Dated]:
    """Maps of several dates, brought onto one grid.

    Args:
        maps: One per date; or one that has several, of which ``time`` names two or more.
        time: Dates by commas, one for every map; None for maps of one image.

    Raises:
        InputError: If maps and dates do not match, or cannot be compared.
    """
    times = [None] * len(maps) if time is None else [part.strip() for part in time.split(",")]
    given = [*maps] * len(times) if len(maps) == 1 else [*maps]
    if len(given) < 2:
        raise InputError(
            f"{maps[0]} is one map: name another, or of a map with a time axis two dates, --time 2023-03,2023-09"
        )
    if len(given) != len(times):
        raise InputError(f"--time {time} names {len(times)} dates for {len(given)} maps; name one for each")
    return aligned([opened(*one) for one in zip(given, range(1, len(given) + 1), times, strict=True)])


def aligned(maps: Sequence[Dated]) -> list[Dated]:
    """The maps on the grid they have in common.

    Raises:
        GridError: If they do not share a lattice, or do not overlap.
        InputError: If they are not of one encoder, or one was given twice.
    """
    first = maps[0]
    for other in maps[1:]:
        check_alike(first, other)
    boxes = [m.embeddings.odc.geobox for m in maps]
    cell = boxes[0].resolution
    tops = [round((boxes[0].transform.f - box.transform.f) / cell.x) for box in boxes]
    lefts = [round((box.transform.c - boxes[0].transform.c) / cell.x) for box in boxes]
    top, left = max(tops), max(lefts)
    height = min(t + box.height for t, box in zip(tops, boxes, strict=True)) - top
    width = min(c + box.width for c, box in zip(lefts, boxes, strict=True)) - left
    if height <= 0 or width <= 0:
        raise GridError(f"{', '.join(m.name for m in maps)} do not overlap; embed the same region for each date")
    found = []
    for one, row, column in zip(maps, tops, lefts, strict=True):
        rows, columns = slice(top - row, top - row + height), slice(left - column, left - column + width)
        sensors = None if one.sensors is None else one.sensors[rows, columns]
        found.append(Dated(one.name, one.embeddings[:, rows, columns], sensors, one.about))
    return found


def check_alike(first: Dated, other: Dated) -> None:
    """Refuse maps that cannot be compared number by number."""
    both = f"{first.name} and {other.name}"
    encoder = "geossl:encoder_sha256"
    if first.about.get(encoder) != other.about.get(encoder) and first.about and other.about:
        names = [f"{m.about.get('geossl:encoder')} ({str(m.about.get(encoder))[:12]})" for m in (first, other)]
        raise InputError(f"{both} were made by different encoders, {' and '.join(names)}; embed both with one")
    if first.embeddings.sizes["embedding"] != other.embeddings.sizes["embedding"]:
        lengths = [m.embeddings.sizes["embedding"] for m in (first, other)]
        raise InputError(
            f"{both} hold vectors of {lengths[0]} and {lengths[1]} numbers; embed both with the same --dims"
        )
    if any(first.about.get(key) != other.about.get(key) for key in SAME) and first.about and other.about:
        raise InputError(f"{both} were made with different windows or reach; embed both with the same --reach")
    lacks = [m.about.get("geossl:lacks", {}) for m in (first, other)]
    apart = {band for name in RADARS for band in {*lacks[0].get(name, ())} ^ {*lacks[1].get(name, ())}}
    if apart:  # of optical bands that are optional it changes next to nothing
        raise InputError(
            f"{both} were made from radar with and without {', '.join(sorted(apart))}, and such vectors are not "
            "comparable; embed both from files of the same bands"
        )
    same = first.about.get("geossl:plan_sha256")
    if same and same == other.about.get("geossl:plan_sha256"):
        raise InputError(f"{both} are the same map: same pixels, same encoder; name maps of two dates")
    one, two = first.embeddings.odc.geobox, other.embeddings.odc.geobox
    if one.crs != two.crs:
        names = [f"EPSG:{box.crs.epsg}" if box.crs.epsg else "a custom CRS" for box in (one, two)]
        raise GridError(f"{both} are in {names[0]} and {names[1]}; embed both with the same --crs")
    if one.resolution != two.resolution:
        sizes = [f"{box.resolution.x:g}" for box in (one, two)]
        raise GridError(f"{both} have cells of {sizes[0]} and {sizes[1]} m; embed both with the same --gsd")
    shift = [
        (two.transform.c - one.transform.c) / one.resolution.x,
        (two.transform.f - one.transform.f) / one.resolution.x,
    ]
    if any(abs(value - round(value)) > 1e-6 for value in shift):
        raise GridError(f"{both} are not on one lattice: they are {shift[0]:.3f} and {shift[1]:.3f} cells apart")


def comparable(maps: Sequence[Dated]) -> da.Array:
    """``(1, y, x)``, True where patches of all maps are valid and were made from the same sensors; lazy."""
    chunks = maps[0].embeddings.data.chunks[1:]
    found: Any = da.ones((1, *maps[0].embeddings.shape[1:]), dtype=bool, chunks=((1,), *chunks))
    for one in maps:
        found = found & da.isfinite(one.embeddings.data[:1])
    sizes = dict(zip(("y", "x"), chunks, strict=True))
    known = [one.sensors.chunk(sizes).data[None] for one in maps if one.sensors is not None]
    for other in known[1:]:
        found = found & (known[0] == other)
    return found


def nearer(maps: Sequence[Dated], k: int) -> int:
    """Which of the two dates asked for a further map is nearer to; the second where dates are not known."""
    own, first, second = (maps[i].middle for i in (k, 0, 1))
    if own is None or first is None or second is None:
        return 1
    return 0 if abs((own - first).days) < abs((own - second).days) else 1


def too_few(maps: Sequence[Dated]) -> str:
    """Why maps have little in common."""
    made = {"+".join(m.about["geossl:sensors"]): m.name for m in maps if m.about}
    if len(made) > 1:
        return " and ".join(f"{name} was made from {sensors}" for sensors, name in made.items())
    return f"{', '.join(m.name for m in maps)} have hardly a valid patch in common"
