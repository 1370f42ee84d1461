"""Maps as files: a COG for GIS software, and one way to open either form."""

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rasterio
import rioxarray
import shapely
import xarray as xr
from jaxtyping import Float, Int8, UInt8
from odc.geo.xr import xr_coords
from zarr.storage import FsspecStore

from geossl.errors import GridError, InputError, MissingFileError, possible, redact
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.cog import blocks, write_blocks
from geossl.inference.outputs.description import HINTS, TIME, arrays, inputs_at, known, one_date, store_attributes
from geossl.inference.outputs.furniture import Caption, notice_of, span
from geossl.inference.outputs.quantize import NODATA, quantize_bands
from geossl.inference.outputs.remote import asked, file_system, is_remote
from geossl.inference.outputs.styles import write_vector_style

CHUNKS = {"embedding": -1, "y": "auto", "x": "auto"}
ALL = "all"  # dates
TIF_CHUNKS = {"band": -1, "y": "auto", "x": "auto"}
CHUNK = "16MiB"  # of stored embeddings exported at a time; four times that when decoded from int8
UNSIGNED_ZERO, UNSIGNED_NODATA = 127, 255  # no decoded value is 255, which QGIS would take for nodata, too
COG_DTYPES = ("float32", "float16", "int8", "uint8")


def write_cog(
    path: Path, out: Path, area: shapely.Geometry | None = None, dtype: str = "float32", time: str | None = None
) -> None:
    """Export a map as a Cloud-Optimised GeoTIFF; streamed, and renamed into place when whole.

    Args:
        path: Map.
        out: ``.tif``.
        area: Polygon in the map's CRS; patches whose centre lies outside become nodata, and the raster ends with it.
        dtype: ``float32``; ``float16`` (half the size); ``int8`` (a quarter) with a GDAL scale per band, the band's
            largest absolute value over 127, and -128 = nodata; ``uint8``, the same plus 127, with a GDAL offset per
            band and 255 = nodata, for GDAL before 3.7 and QGIS before 3.30, which take int8 for bytes without a sign.
            Decoded values compare between files, numbers do not.
        time: Of a map of several dates, the one to export.

    Raises:
        GridError: If the polygon does not touch the map.
        InputError: If ``dtype`` is not known.
    """
    if dtype not in COG_DTYPES:
        raise InputError(f"--dtype {dtype!r} is not known; use {', '.join(COG_DTYPES)}")
    with dask.config.set({"array.chunk-size": CHUNK}):
        embeddings = clipped(open_date(path, time), area)
    parts, scales, nodata = blocks(embeddings), None, np.nan
    if dtype == "int8":
        scales, nodata = band_scales(embeddings), float(NODATA)
        parts = ((where, quantize_bands(values, scales)) for where, values in parts)
    elif dtype == "uint8":
        steps, nodata = band_scales(embeddings), float(UNSIGNED_NODATA)
        scales = np.column_stack([steps, -UNSIGNED_ZERO * steps])  # x = number * scale + offset
        parts = ((where, unsigned(quantize_bands(values, steps))) for where, values in parts)
    elif dtype == "float16":  # rounded here, as GDAL cuts off
        parts = ((where, values.astype(np.float16).astype(np.float32)) for where, values in parts)
    write_blocks(
        out,
        embeddings.odc.geobox,
        parts,
        count=embeddings.sizes["embedding"],
        dtype=dtype,
        nodata=nodata,
        names=columns(embeddings.sizes["embedding"]),
        tags=tags_of(path, dtype),
        scales=scales,
    )
    write_vector_style(out)


def unsigned(numbers: Int8[np.ndarray, "d h w"]) -> UInt8[np.ndarray, "d h w"]:
    """The numbers of int8 as bytes without a sign."""
    return np.where(numbers == NODATA, UNSIGNED_NODATA, numbers.astype(np.int16) + UNSIGNED_ZERO).astype(np.uint8)


def tags_of(path: Path, dtype: str) -> dict[str, str]:
    """What a store says of its vectors, as tags; those of place and storage are the file's own."""
    if path.suffix == ".tif":
        return {}
    metadata = store_attributes(path) | {"geoemb:data_type": dtype}
    kept = {key: value for key, value in metadata.items() if key.startswith(("geoemb:", "geossl:"))}
    for key in ("geoemb:quantization", "geossl:dtype"):
        kept.pop(key, None)
    return {
        key.replace(":", "_").upper(): value if isinstance(value, str) else json.dumps(value)
        for key, value in kept.items()
    }


def about(path: Path) -> dict[str, Any]:
    """What a map says of itself, by the keys of a store (``geossl:inputs``); empty where it says nothing."""
    if path.suffix != ".tif":
        return store_attributes(path)
    with rasterio.open(path) as file:
        tags = file.tags()
    texts = {key.lower().replace("_", ":", 1): v for key, v in tags.items() if key.startswith(("GEOSSL_", "GEOEMB_"))}
    found: dict[str, Any] = {}
    for key, text in texts.items():
        with suppress(ValueError, RecursionError):
            found[key] = text if HINTS.get(key) is str else json.loads(text)
        found.setdefault(key, text)
    return known(str(path), found)


def words_of(path: Path, title: str, meaning: str = "", time: str | None = None) -> Caption:
    """Title and foot of a picture of a map: its dates, encoder and sensors, as far as it knows them.

    Args:
        path: The map.
        title: What is shown.
        meaning: What the colours mean.
        time: Which of its dates, where it has several.
    """
    said = about(path)
    scenes = said.get("geossl:inputs", ()) if time in (None, ALL) else inputs_at(said, time)
    days = span(scene["day"] for scene in scenes if scene.get("day"))
    made = (
        f"Encoder {said['geossl:encoder']} ({', '.join(said.get('geossl:sensors', ()))})"
        if "geossl:encoder" in said
        else ""
    )
    return Caption(title, days, made, meaning, notice_of(said.get("geossl:sensors", ())))


def band_scales(embeddings: xr.DataArray) -> Float[np.ndarray, " d"]:
    """Step of every band in int8; read once, block by block."""
    peak = np.zeros(embeddings.sizes["embedding"], np.float32)
    for _, values in blocks(embeddings):
        peak = np.fmax(peak, np.fmax.reduce(np.abs(values), axis=(1, 2)))
    return np.where(peak > 0, peak / 127, 1)


def clipped(embeddings: xr.DataArray, area: shapely.Geometry | None) -> xr.DataArray:
    """The part of a map whose patch centres lie in a polygon."""
    if area is None:
        return embeddings
    geobox = embeddings.odc.geobox
    left, bottom, right, top = area.bounds
    x, y = embeddings["x"].values, embeddings["y"].values
    columns, rows = np.flatnonzero((x >= left) & (x <= right)), np.flatnonzero((y >= bottom) & (y <= top))
    if not len(rows) or not len(columns):
        raise GridError(f"--aoi does not reach a patch of the map, which spans {tuple(geobox.extent.boundingbox)}")
    part = embeddings[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = shapely.contains_xy(area, *np.meshgrid(part["x"].values, part["y"].values))
    return part.where(xr.DataArray(inside, dims=("y", "x"), coords={"y": part["y"], "x": part["x"]}))


def open_map(path: str | Path, gsd_m: float | None = None, level: int = 0, time: str | None = None) -> xr.DataArray:
    """The vectors of a map, lazily, as ``geossl.open`` gives them: ``(embedding, y, x)``, or with ``time`` before.

    Raises:
        MissingFileError, InputError, GridError: As ``geossl.open``.
    """
    return opened(path, gsd_m, level, ALL if time is None else time)


def open_date(path: str | Path, time: str | None) -> xr.DataArray:
    """Open a map of one image, or one date of a map of several, lazily: ``(embedding, y, x)``.

    Raises:
        InputError: As ``open_map``, or if the map has several dates and ``time`` is none of them, or None.
    """
    return opened(path, None, 0, time)


def opened(path: str | Path, gsd_m: float | None, level: int, time: str | None) -> xr.DataArray:
    """As ``open_map``; of several dates all with ``ALL``."""
    if is_remote(path):
        embeddings = stored_there(str(path), f"overviews/{level}" if level else None, time)
        return embeddings if gsd_m is None else zoomed(embeddings, gsd_m)
    path = possible(path, "map")
    if level and not (path / f"overviews/{level}").exists():
        raise InputError(f"{path} has no overview {level}; small maps have none, as the map itself is quickly read")
    embeddings = stored(path, f"overviews/{level}" if level else None, time)
    return embeddings if gsd_m is None else zoomed(embeddings, gsd_m)


def stored(path: Path, group: str | None, time: str | None) -> xr.DataArray:
    """A map on its stored grid."""
    if not path.exists():
        raise MissingFileError(f"map {str(path)!r} does not exist")
    if maps := [] if path.suffix else sorted(path.glob("utm*.*[fr]")):
        raise InputError(f"{path} holds one map per UTM zone; open one of {', '.join(str(p) for p in maps)}")
    return cog(str(path), time) if path.suffix == ".tif" else decoded(checked(path), str(path), group, time)


def stored_there(address: str, group: str | None, time: str | None) -> xr.DataArray:
    """A map at an address, on its stored grid; its checksums are not compared."""
    if address.endswith(".tif"):
        return asked(address, lambda: cog(address, time))
    system, path = file_system(address)
    if not asked(address, lambda: system.exists(f"{path}/zarr.json")):
        raise MissingFileError(f"map {redact(address)!r} does not exist")
    return decoded(FsspecStore.from_url(address, read_only=True), redact(address), group, time)


def cog(path: str, time: str | None) -> xr.DataArray:
    """A map in a GeoTIFF, which is of one image."""
    if time not in (None, ALL):
        raise InputError(f"--time {time}: map {redact(path)} is of one image; leave it out")
    with warnings.catch_warnings():  # of rioxarray: that scales differ between bands, which it applies all the same
        warnings.simplefilter("ignore")
        array = read_tif(path)
    array = array.rename(band="embedding")
    array = array.assign_coords(embedding=np.arange(array.sizes["embedding"]))
    return described(array.astype(np.float32).rename("embeddings"))


def decoded(store: Any, name: str, group: str | None, time: str | None) -> xr.DataArray:
    """A map in a Zarr store."""

    def read(chunks: Any) -> xr.Dataset:
        found = arrays(store, name, group, chunks=chunks, mask_and_scale=False)
        return found if time == ALL else one_date(found, name, time)

    embeddings = read(CHUNKS)["embeddings"]
    if embeddings.dtype == np.int8:  # a nodata patch has scale NaN
        scales = read(None)["scales"]
        sizes = {
            axis: embeddings.chunksizes[axis] for axis in scales.dims
        }  # else each block would read far more scales
        embeddings = embeddings.astype(np.float32) * scales.chunk(sizes)
    return described(embeddings.astype(np.float32).rename("embeddings"))


def layers_beside(path: str | Path, time: str | None) -> xr.Dataset:
    """All that an opened ``.zarr`` map stores, as it is stored, lazily; of several dates one with ``time``."""
    there, name = is_remote(path), redact(str(path))
    store = FsspecStore.from_url(str(path), read_only=True) if there else checked(Path(path))
    found = arrays(store, name, chunks=CHUNKS, mask_and_scale=False)
    return found if time is None else one_date(found, name, time)


def usual_time(path: Path, time: str | None) -> str | None:
    """The date asked for; where none is and a map has several, ``ALL``."""
    return ALL if time is None and "geossl:every" in store_attributes(path) else time


class BandNames(tuple[str, ...]):
    """Names of bands, which rioxarray writes and xarray would print whole beside every plot."""

    def __str__(self) -> str:
        """What they are, in a word."""
        return "embedding"


def described(embeddings: xr.DataArray) -> xr.DataArray:
    """A map that says of itself what holds of its vectors, band by band, and not how they were stored."""
    names = BandNames(columns(embeddings.sizes["embedding"]))
    return embeddings.drop_attrs(deep=False).assign_attrs(long_name=names).rio.write_nodata(np.nan, encoded=True)


def columns(dim: int) -> list[str]:
    """Names of the numbers of a vector: e000, e001, ..."""
    return [f"e{i:0{max(3, len(str(dim - 1)))}d}" for i in range(dim)]


def read_tif(path: str) -> Any:
    """A GeoTIFF as a lazy array.

    Raises:
        InputError: If it is not one, or has no place on Earth.
    """
    if not is_remote(path) and not Path(path).is_file():
        raise InputError(f"map {path} is not a file; name an embedding map, .zarr or .tif")
    try:
        array: Any = rioxarray.open_rasterio(path, chunks=TIF_CHUNKS, mask_and_scale=True)
    except (rasterio.errors.RasterioError, ValueError, TypeError) as error:
        if is_remote(path):  # whoever asked says what was answered
            raise
        raise InputError(f"{path} cannot be read as a raster ({' '.join(str(error).split())[:200]})") from None
    if isinstance(array, xr.DataArray) and array.rio.crs is not None:
        return array
    raise InputError(f"{path} is not an embedding map: it has no CRS, or holds several data sets")


def zoomed(embeddings: xr.DataArray, gsd_m: float) -> xr.DataArray:
    """Bilinear between cell centres, constant beyond the outermost; nodata cells stay nodata and do not spread."""
    if TIME in embeddings.dims:
        return xr.concat([zoomed(one, gsd_m) for one in embeddings], embeddings[TIME])
    geobox = embeddings.odc.geobox
    times = geobox.resolution.x / gsd_m if gsd_m > 0 else 0
    if times < 1 or times != round(times):
        raise GridError(f"gsd_m={gsd_m:g} does not divide the map's {geobox.resolution.x:g} m cells")
    n = round(times)
    data = embeddings.data if embeddings.chunks else da.from_array(embeddings.values)
    data = data.rechunk({0: -1})
    depth = {0: 0, 1: 1, 2: 1}
    padded = da.overlap.overlap(data, depth=depth, boundary={0: "none", 1: "nearest", 2: "nearest"})
    chunks = (data.chunks[0], *(tuple(n * c for c in axis) for axis in data.chunks[1:]))
    fine = padded.map_blocks(interpolate, n, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    box = geobox.zoom_out(1 / n)
    coords = {"embedding": embeddings["embedding"], **xr_coords(box)}
    return xr.DataArray(fine, dims=embeddings.dims, coords=coords, name=embeddings.name, attrs=embeddings.attrs)


def interpolate(block: np.ndarray, n: int) -> np.ndarray:
    """A block with a halo of one cell, ``n`` times as fine, halo removed."""
    valid = np.isfinite(block[:1])
    total, weight = separable(np.where(valid, block, 0), n), separable(valid.astype(np.float32), n)
    own = np.kron(valid[:, 1:-1, 1:-1], np.ones((1, n, n), dtype=bool))
    return np.where(own, total / np.where(weight > 0, weight, 1), np.nan).astype(np.float32)


def separable(block: np.ndarray, n: int) -> np.ndarray:
    """Bilinear weights along both axes; fine cell ``k`` lies ``(k + 0.5) / n - 0.5`` cells from its cell's centre."""
    offset = (np.arange(n, dtype=np.float32) + 0.5) / n - 0.5
    for axis in (1, 2):
        x = np.moveaxis(block, axis, 0)
        inner = x[1:-1, None]
        before, after = x[:-2, None], x[2:, None]
        shape = (1, n, *(1,) * (x.ndim - 1))
        f = offset.reshape(shape)
        fine = np.where(f < 0, inner + f * (inner - before), inner + f * (after - inner))
        block = np.moveaxis(fine.reshape(-1, *x.shape[1:]), 0, axis)
    return block
