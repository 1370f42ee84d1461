"""Where else does it look like this: cosine similarity to an example, and the best places.

A raster needs every patch, so the whole map is read. Places alone come from an index beside the map: its vectors as
int8, one after the other in one file that is mapped into memory, and the length of each. Every patch is compared with
the example rounded to int8, in whole numbers; the best are compared once more, exactly. Of int8 maps the index holds
the very numbers of the map, as a cosine does not depend on a patch's scale.
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import pandas as pd
import shapely
import torch
import xarray as xr
from jaxtyping import Float, Float32, Int
from pyproj import Geod
from rasterio.errors import RasterioError

from geossl.errors import GridError, InputError, Note, possible
from geossl.inference.best_places import MIN_DISTANCE, BestPlaces, places_path, write_places
from geossl.inference.layers import vectors
from geossl.inference.outputs.cog import Block, blocks, write_blocks
from geossl.inference.outputs.description import store_attributes
from geossl.inference.outputs.quantize import quantize
from geossl.inference.outputs.raster import ALL, open_date
from geossl.inference.outputs.remote import is_remote
from geossl.inference.outputs.styles import shown_ranges, write_value_style
from geossl.inference.zonal import Example, To, mean_vector, read_example
from geossl.outputs import check_output, on_disk, read_note, remove

PART = 1 << 20  # vectors compared at a time
SPARE = 20  # times as many as are needed are compared exactly
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


def example_vector(embeddings: xr.DataArray, example: Example) -> Float[np.ndarray, " d"]:
    """Mean vector of an example.

    Raises:
        InputError: If it is alike to nothing.
    """
    vector = mean_vector(embeddings, example)
    if not vector.any():
        raise InputError(f"{example.name} has embeddings of length zero, which are alike to nothing")
    return vector


def scan(embeddings: xr.DataArray, example: Example, top: int, out: Path) -> gpd.GeoDataFrame:
    """Write the similarity raster of an example and return its best places; one chunk in memory at a time."""
    found = similarity(embeddings, example_vector(embeddings, example))
    places = BestPlaces(top, embeddings.odc.geobox, example)

    def watched() -> Iterator[Block]:
        for where, values in blocks(found):
            places.add(where, values)
            yield where, values[None]

    write_blocks(out, embeddings.odc.geobox, watched(), count=1, dtype="float32", nodata=np.nan)
    return places.table()


def similar_map(
    maps: str | Path | Sequence[str | Path], to: To, *, top: int, out: Path, time: str | None = None
) -> Path:
    """Write the similarity raster and, beside it, the best places as GeoJSON; see ``geossl.api.similar``."""
    paths = [maps] if isinstance(maps, str | Path) else [*maps]
    if top < 1:
        raise InputError(f"--top {top} is not possible; ask for at least one place")
    if out.suffix == ".geojson":
        return similar_places(paths, to, top=top, out=out, time=time)
    if len(paths) != 1:
        raise InputError(f"--out {out} is a raster of one map, and {len(paths)} are given; use a .geojson")
    check_out(out, paths[0], to)
    embeddings = open_embeddings(paths[0], time)
    example = read_example(to, str(embeddings.odc.crs))
    places = scan(embeddings, example, top, out)
    ((low, high),) = shown_ranges(out, 1)
    write_value_style(out, low, high, "viridis")
    write_places(places, places_path(out))
    return out


def similar_places(paths: Sequence[str | Path], to: To, *, top: int, out: Path, time: str | None = None) -> Path:
    """Write the best places alone, by the index beside each map, which the first search makes.

    The example is taken from the first map that it lies in.
    """
    check_output(out, (".geojson",))
    for path in paths:
        if is_remote(path):
            raise InputError(
                f"--out {out}: places alone need an index beside the map, so a map on this machine; use a .tif"
            )
    maps = [open_embeddings(path, time) for path in paths]
    refuse_mixed(paths)
    vector, tables = vector_in(maps, to), list[gpd.GeoDataFrame]()
    for path, embeddings in zip(paths, maps, strict=True):
        places = BestPlaces(top, embeddings.odc.geobox, surroundings(to, str(embeddings.odc.crs)))
        index_of(possible(path, "map"), time, embeddings).search(vector, places)
        tables.append(places.table().assign(map=str(path)))
    gap_m = MIN_DISTANCE * max(abs(one.odc.geobox.resolution.x) for one in maps)
    write_places(tables[0].drop(columns="map") if len(maps) == 1 else best_of(tables, top, gap_m), out)
    return out


def refuse_mixed(paths: Sequence[str | Path]) -> None:
    """Refuse several maps that are not all of one encoder, or one map given twice.

    Raises:
        InputError: Names two of them.
    """
    if len(paths) == 1:
        return
    known: dict[Path, str] = {}
    for path in paths:
        about = store_attributes(path) if Path(path).suffix == ".zarr" else {}
        if "geossl:encoder_sha256" not in about:
            raise InputError(f"{path} does not say its encoder, as several maps need; give .zarr maps of geossl embed")
        if Path(path).resolve() in known:
            raise InputError(f"{path} is given twice; name each map once")
        known[Path(path).resolve()] = f"{about['geossl:encoder_sha256']} {about.get('geossl:sensors')}"
        if len(set(known.values())) > 1:
            raise InputError(
                f"{paths[0]} and {path} were made by different encoders or from different sensors, so their vectors "
                "cannot be compared; embed both alike"
            )


def vector_in(maps: Sequence[xr.DataArray], to: To) -> Float[np.ndarray, " d"]:
    """Mean vector of an example in the first map that it lies in.

    Raises:
        InputError: If it lies in none, or is alike to nothing.
    """
    errors = []
    for embeddings in maps:
        try:
            return example_vector(embeddings, read_example(to, str(embeddings.odc.crs)))
        except GridError as error:
            errors.append(error)
    raise errors[0] if len(errors) == 1 else GridError(f"{errors[0]}; nor do the other maps hold it")


def surroundings(to: To, crs: str) -> Example:
    """An example in a map's CRS, so that what lies around it is left out; empty where it is too far away for that."""
    try:
        return read_example(to, crs)
    except GridError:
        return Example(np.zeros((0, 2)), shapely.Polygon(), str(to))


def best_of(tables: Sequence[gpd.GeoDataFrame], top: int, gap_m: float) -> gpd.GeoDataFrame:
    """The best of the places of several maps, none nearer than ``gap_m`` to a better one of another map."""
    joined = gpd.GeoDataFrame(pd.concat(tables), crs=4326).sort_values("score", ascending=False, kind="stable")
    x, y, names = joined.geometry.x.to_numpy(), joined.geometry.y.to_numpy(), joined["map"].to_numpy()
    kept: list[int] = []
    for row in range(len(joined)):
        others = [one for one in kept if names[one] != names[row]]
        many = len(others)
        away = Geod(ellps="WGS84").inv(x[others], y[others], np.full(many, x[row]), np.full(many, y[row]))[2]
        if len(kept) < top and (np.asarray(away) >= gap_m).all():
            kept.append(row)
    return joined.iloc[kept].assign(rank=np.arange(1, len(kept) + 1))


def index_path(path: Path, time: str | None = None) -> Path:
    """Where the index of a map goes: beside it, ``map.index``, of a date ``map.2023-06.index``."""
    return path.with_suffix(".index" if time is None else f".{time}.index")


def index_of(path: Path, time: str | None, embeddings: xr.DataArray) -> "Index":
    """The index beside a map; made where there is none, it is damaged, or the map is another one now."""
    folder, file = index_path(path, time), path / "zarr.json" if path.is_dir() else path
    made_of = {"map": file.stat().st_mtime_ns, "bytes": file.stat().st_size, "shape": list(embeddings.shape)}
    about = folder / "about.json"
    if not about.exists() or read_note(about) != made_of or not is_whole(folder, embeddings.shape[0]):
        text = f"the index {folder} is made, once ({embeddings.size / 1e9:.2g} GB); searches are quick from now on"
        warnings.warn(text, Note, stacklevel=3)
        with on_disk(folder):
            build(folder, embeddings, made_of)
    return opened_index(str(folder), about.stat().st_mtime_ns)


def is_whole(folder: Path, dim: int) -> bool:
    """Whether the files of an index hold as many vectors each."""
    try:
        counts = {len(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("cells", "lengths")}
        return counts == {(folder / "rows").stat().st_size / dim}
    except (OSError, ValueError):
        return False


def build(folder: Path, embeddings: xr.DataArray, made_of: dict[str, Any]) -> None:
    """Write the index of a map, chunk by chunk; it appears whole."""
    begun = folder.with_name(f".{folder.name}.{os.getpid()}")
    remove(begun)
    begun.mkdir()
    try:
        cells, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        with (begun / "rows").open("wb") as rows:
            for (y, x), values in blocks(embeddings):
                numbers, scales = quantize(values)
                r, c = np.nonzero(scales > 0)
                found = np.ascontiguousarray(numbers[:, r, c].T)
                found.tofile(rows)
                cells.append((r + y.start) * embeddings.shape[2] + c + x.start)
                lengths.append(np.sqrt(np.square(found.astype(np.float32)).sum(axis=1)))
        np.save(begun / "cells.npy", np.concatenate(cells))
        np.save(begun / "lengths.npy", np.concatenate(lengths))
        (begun / "about.json").write_text(json.dumps(made_of))
        remove(folder)
        begun.rename(folder)
    finally:
        remove(begun)


class Index:
    """Vectors of a map as int8, mapped into memory.

    Args:
        folder: Written by ``build``.
    """

    def __init__(self, folder: Path) -> None:
        self.width = int(json.loads((folder / "about.json").read_text())["shape"][2])
        self.cells, self.lengths = (np.load(folder / f"{name}.npy") for name in ("cells", "lengths"))
        count = len(self.cells)
        size = (folder / "rows").stat().st_size
        self.rows = np.memmap(folder / "rows", np.int8, "c", shape=(count, size // max(1, count)))

    def search(self, vector: Float[np.ndarray, " d"], places: BestPlaces) -> None:
        """Give the patches most like a vector to ``places``, as many as it needs."""
        wanted = places.needed
        while True:
            best, cosines = self.nearest(vector, wanted)
            rows, columns = np.divmod(self.cells[best], self.width)
            places.add_patches(rows, columns, cosines)
            if len(places.candidates) >= places.needed or len(best) < wanted:
                return
            wanted, places.candidates = 4 * wanted, places.candidates[:0]  # many lie close to the example

    def nearest(
        self, vector: Float[np.ndarray, " d"], count: int
    ) -> tuple[Int[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
        """Numbers and cosines of the rows most like a vector, best first."""
        scores, drawn = self.scores(vector), SPARE * count
        near = np.argpartition(scores, -drawn)[-drawn:] if drawn < len(scores) else np.arange(len(scores))
        near.sort()
        cosines = cosine(self.rows[near].T[..., None].astype(np.float32), vector)[:, 0]
        order = np.argsort(-cosines, kind="stable")[:count]
        return near[order], cosines[order]

    def scores(self, vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        """Cosines, but for a factor, with a vector rounded to int8."""
        rounded = torch.from_numpy(np.rint(127 * vector / np.abs(vector).max()).astype(np.int8))[:, None]
        found = np.empty(len(self.cells), np.float32)
        for start in range(0, len(found), PART):
            part = slice(start, start + PART)
            whole = torch._int_mm(torch.from_numpy(self.rows[part]), rounded)[:, 0].numpy()
            np.divide(whole, self.lengths[part], out=found[part])
        return found


@lru_cache(maxsize=4)
def opened_index(folder: str, _changed: int) -> Index:
    """An index, which stays open between searches."""
    return Index(Path(folder))


def check_out(out: Path, path: str | Path, to: To) -> None:
    """Refuse an output that cannot be written, or would replace an input."""
    check_output(out, (".tif",))
    inputs = {Path(p).resolve() for p in (path, to) if isinstance(p, str | Path)}
    for written in (out, places_path(out)):
        if written.resolve() in inputs:
            raise InputError(f"--out {out} would replace the input {written}; choose another name")
        check_output(written, (written.suffix,))
