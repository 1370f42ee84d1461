"""What a map's Zarr store says of itself, checked in one place: odd attributes and arrays end here in one line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import shapely
import xarray as xr
import zarr

from geossl.errors import GeosslError, InputError
from geossl.faults import fits
from geossl.rules import EVERY, chosen, listed, parse_dates

HINTS: dict[str, Any] = {  # types of the attributes that anything of geossl reads
    "proj:code": str,
    "geoemb:chip_layout": dict,
    "geoemb:gsd": float,
    "geoemb:source_data": list[str],
    "geossl:dtype": str,
    "geossl:every": str,
    "geossl:periods": list[str],
    "geossl:encoder": str,
    "geossl:encoder_sha256": str,
    "geossl:inputs": list[dict[str, str]],
    "geossl:lacks": dict,
    "geossl:sensors": list[str],
}
OPTIONAL = ("geossl:lacks", "geossl:every", "geossl:periods")  # attributes that a map has only where they say something
TIME = "time"  # first axis of the arrays of a map of several dates
DIMENSIONS = ("embedding", "y", "x"), (TIME, "embedding", "y", "x")
LAYERS = ("valid", "sensors", "date", "scales")  # arrays on the grid of the embeddings


def store_attributes(path: str | Path) -> dict[str, Any]:
    """Attributes of a store's root, those that geossl knows being of their types.

    Raises:
        InputError: Which is not.
    """
    try:
        found = described(str(path), lambda: dict(zarr.open_group(str(path), mode="r").attrs))
    except FileNotFoundError:
        raise InputError(f"{path} is not an embedding map (no zarr.json in it)") from None
    checked_area(str(path), json.dumps(found.get("geossl:area")))
    return known(str(path), found)


def known(path: str, found: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a map, from wherever they were read, those that geossl knows being of their types.

    Raises:
        InputError: Which is not.
    """
    for name, hint in HINTS.items():
        if name in found and not fits(found[name], hint):
            raise damaged(path, f"{name} is {str(found[name])[:60]!r}")
    return found


def checked_area(name: str, text: str) -> dict[str, Any] | None:
    """The region of a map as its tag says it, GeoJSON in longitude and latitude; None if it does not.

    Raises:
        InputError: If it is something else.
    """
    area = described(name, lambda: json.loads(text))
    if area is None:
        return None
    bounds = described(name, lambda: shapely.geometry.shape(area).bounds)
    if not isinstance(area, dict) or not all(abs(edge) <= 360 for edge in bounds):
        raise damaged(name, f"its region is {str(area)[:60]}")
    return area


def arrays(store: Any, name: str, group: str | None = None, **options: Any) -> xr.Dataset:
    """Embeddings of a store and the layers on their grid, lazily.

    Args:
        store: For Zarr.
        name: For messages.
        group: Of overviews.
        options: Of ``xarray.open_zarr``.

    Raises:
        InputError: If it is not an embedding map, or its description cannot be believed.
    """
    try:
        found = described(name, lambda: xr.open_zarr(store, group=group, decode_coords="all", **options))
        embeddings = found["embeddings"]
    except (KeyError, FileNotFoundError):
        raise InputError(f"{name} is not an embedding map (no 'embeddings' array in it)") from None
    lead = embeddings.dims[:-3]
    if (*lead, *embeddings.dims[-3:]) not in DIMENSIONS or embeddings.dtype.kind not in "fi" or not embeddings.size:
        raise damaged(name, f"embeddings are {embeddings.dtype} {dict(embeddings.sizes)}")
    if lead:
        check_times(found, name)
    shape = embeddings.isel(embedding=0).shape
    odd = [layer for layer in LAYERS if layer in found and found[layer].shape != shape]
    if odd or (embeddings.dtype.kind == "i" and "scales" not in found):
        raise damaged(name, f"{odd[0] if odd else 'scales'} and embeddings do not fit each other")
    box = described(name, lambda: embeddings.odc.geobox)
    if box is None or box.crs is None or not box.axis_aligned:
        raise damaged(name, "it has no grid with a CRS")
    return found


def check_times(found: xr.Dataset, name: str) -> None:
    """Refuse a map of several dates that does not say which.

    Raises:
        InputError: If its description cannot be believed.
    """
    names: Any = found.attrs.get("geossl:periods")
    every = found.attrs.get("geossl:every")
    if not fits(names, list[str]) or every not in EVERY or len(names) != found.sizes[TIME]:
        raise damaged(name, f"it has {found.sizes[TIME]} dates, of {str(every)[:20]!r} {str(names)[:60]}")
    described(name, lambda: [parse_dates(text) for text in names])


def one_date(found: xr.Dataset, name: str, time: str | None) -> xr.Dataset:
    """One of the dates of a map; a map of one image as it is.

    Args:
        found: From ``arrays``.
        name: Of the map, for messages.
        time: The date asked for: the name of a period, or a day in it.

    Raises:
        InputError: If that is none of the dates or several, or was not said.
    """
    if TIME not in found.dims:
        if time is not None:
            raise InputError(f"--time {time}: map {name} is of one image; leave it out")
        return found
    names = found.attrs["geossl:periods"]
    if time is None:
        raise InputError(
            f"map {name} is of {len(names)} dates ({listed(names)}); name one with --time {names[0]}, or make a map of "
            f"it: geossl export {name} one.zarr --time {names[0]}"
        )
    return found.isel({TIME: number_of(found.attrs, time, name)}, drop=True)


def number_of(about: Mapping[str, Any], time: str, name: str) -> int:
    """Number of a date of a map by what the map says of itself; see ``geossl.rules.chosen``."""
    return chosen(time, about["geossl:periods"], about["geossl:every"], f"map {name}")


def inputs_at(about: Mapping[str, Any], time: str) -> list[dict[str, str]]:
    """Scenes of one date of a map of several."""
    name = about["geossl:periods"][number_of(about, time, "map")]
    return [scene for scene in about.get("geossl:inputs", ()) if scene.get("period") == name]


def described(name: str, read: Callable[[], Any], *, is_there: bool = False) -> Any:
    """What a reader of the description gives; whatever it stumbles over is the description's.

    Args:
        name: Of the map, for messages.
        read: The reader.
        is_there: Whether a part that is missing is damage, too.

    Raises:
        FileNotFoundError: If there is none.
        InputError: If it cannot be read.
    """
    try:
        return read()
    except GeosslError:
        raise
    except Exception as error:  # Zarr, xarray and pyproj raise whatever odd values lead to
        if isinstance(error, FileNotFoundError) and not is_there:
            raise
        raise damaged(name, f"{type(error).__name__}: {' '.join(str(error).split())[:80]}") from None


def damaged(name: str, why: str) -> InputError:
    """One line on a store whose description cannot be believed."""
    return InputError(f"map {name}: its description is damaged ({why}); copy the map again, or make it again")
