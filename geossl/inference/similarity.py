"""Where else does it look like this: cosine similarity to an example, and the best places."""

from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import xarray as xr
from jaxtyping import Float
from rasterio.errors import RasterioError

from geossl.errors import InputError, possible
from geossl.inference.best_places import BestPlaces, places_path, write_places
from geossl.inference.layers import vectors
from geossl.inference.outputs.cog import Block, blocks, write_blocks
from geossl.inference.outputs.raster import ALL, open_date
from geossl.inference.outputs.styles import shown_ranges, write_value_style
from geossl.inference.zonal import Example, To, mean_vector, read_example
from geossl.outputs import check_output

CHUNK = "32MiB"  # of stored embeddings read at once; four times that when decoded from int8


def cosine(block: Float[np.ndarray, "d h w"], vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, "h w"]:
    """Cosine of every patch with a vector, summed dimension by dimension: the same bits whatever the block."""
    dot, square = np.zeros(block.shape[1:]), np.zeros(block.shape[1:])
    for value, layer in zip(vector, block, strict=True):
        wide = layer.astype(np.float64)
        dot += value * wide
        square += wide * wide
    length = np.sqrt(square) * np.sqrt((vector * vector).sum())
    return np.divide(dot, length, out=np.full(dot.shape, np.nan), where=length > 0).astype(np.float32)


def similarity(embeddings: xr.DataArray, vector: Float[np.ndarray, " d"]) -> xr.DataArray:
    """Cosine similarity of a map to a vector, lazily if the map is lazy.

    Args:
        embeddings: ``(embedding, y, x)``, NaN = nodata.
        vector: What to look for.

    Returns:
        ``(y, x)`` float32 on the map's patch grid; NaN where the map has nodata. Chunks never change a value.
    """
    data = embeddings.data
    if isinstance(data, da.Array):
        meta = np.empty((0, 0), np.float32)
        values = da.map_blocks(cosine, data.rechunk({0: -1}), vector, drop_axis=0, dtype=np.float32, meta=meta)
    else:
        values = cosine(data, vector)
    coords = {name: c for name, c in embeddings.coords.items() if "embedding" not in c.dims}
    found = xr.DataArray(values, coords, ("y", "x"), "similarity", {"long_name": "cosine similarity"})
    return found.odc.assign_crs(embeddings.odc.crs)


def open_embeddings(path: str | Path, time: str | None = None) -> xr.DataArray:
    """Open a map, or one of its dates, or ``ALL`` of them side by side, and make sure that it is one.

    Raises:
        MissingFileError: If there is nothing at ``path``.
        InputError: If it is not a georeferenced embedding map.
    """
    try:
        with dask.config.set({"array.chunk-size": CHUNK}):
            embeddings = vectors(possible(path, "map"), time) if time == ALL else open_date(path, time)
    except RasterioError as error:
        raise InputError(f"{path} is not an embedding map ({' '.join(str(error).split())[:120]})") from None
    if embeddings.odc.crs is None or embeddings.sizes["embedding"] < 2:
        raise InputError(f"{path} is not an embedding map; expected a .zarr or .tif written by geossl embed")
    return embeddings


def scan(embeddings: xr.DataArray, example: Example, top: int, out: Path) -> gpd.GeoDataFrame:
    """Write the similarity raster of an example and return its best places; one chunk in memory at a time."""
    vector = mean_vector(embeddings, example)
    if not vector.any():
        raise InputError(f"{example.name} has embeddings of length zero, which are alike to nothing")
    found = similarity(embeddings, vector)
    places = BestPlaces(top, embeddings.odc.geobox, example)

    def watched() -> Iterator[Block]:
        for where, values in blocks(found):
            places.add(where, values)
            yield where, values[None]

    write_blocks(out, embeddings.odc.geobox, watched(), count=1, dtype="float32", nodata=np.nan)
    return places.table()


def similar_map(path: str | Path, to: To, *, top: int, out: Path, time: str | None = None) -> Path:
    """Write the similarity raster and, beside it, the best places as GeoJSON; see ``geossl.similar``."""
    if top < 1:
        raise InputError(f"--top {top} is not possible; ask for at least one place")
    check_out(out, path, to)
    embeddings = open_embeddings(path, time)
    example = read_example(to, str(embeddings.odc.crs))
    places = scan(embeddings, example, top, out)
    ((low, high),) = shown_ranges(out, 1)
    write_value_style(out, low, high, "viridis")
    write_places(places, places_path(out))
    return out


def check_out(out: Path, path: str | Path, to: To) -> None:
    """Refuse an output that cannot be written, or would replace an input."""
    check_output(out, (".tif",))
    inputs = {Path(p).resolve() for p in (path, to) if isinstance(p, str | Path)}
    for written in (out, places_path(out)):
        if written.resolve() in inputs:
            raise InputError(f"--out {out} would replace the input {written}; choose another name")
        check_output(written, (written.suffix,))
