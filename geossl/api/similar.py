"""Look around in a map: similarity to an example, best places, and a local web page."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import xarray as xr

from geossl.errors import InputError, possible
from geossl.inference import similarity as inference
from geossl.inference.zonal import To, mean_vector, read_example
from geossl.outputs import output_path
from geossl.viewer import server
from geossl.viewer.base_map import base_map as known_base
from geossl.viewer.labelling import Labelling
from geossl.viewer.session import Session, area_of


def similar(
    map: str | Path, to: To, *, out: str | Path | None = None, top: int = 10, time: str | None = None
) -> xr.DataArray:
    """Cosine similarity of every patch of a map to an example.

    Args:
        map: ``.zarr`` or ``.tif`` written by ``geossl embed``.
        to: ``(lon, lat)``, the text ``"lon,lat"``, a vector file or a GeoDataFrame of points and polygons. Several
            patches are averaged: a polygon weighs by the area it covers, a point as one whole patch.
        out: Also write it: a Cloud-Optimised GeoTIFF (``.tif``), and the best places beside it (``.geojson``). Memory
            does not grow with the map. ``.geojson``: the places alone, by the index; see ``similar_map``.
        top: Places wanted beside ``out``: the best patches, each at least five patches from the others and from the
            example.
        time: Of a map of several dates: one, such as ``2023-06``, or ``all``: vectors of all dates side by side.

    Returns:
        ``(y, x)`` float32 in -1 to 1, lazy, on the map's patch grid with its CRS; NaN = nodata. Chunks never change
        a value.

    Raises:
        MissingFileError: If map or vector file do not exist.
        GridError: If the example lies outside the map, or has no CRS.
        InputError: If the map is not an embedding map, the example lies on nodata, or ``out`` cannot be written.
    """
    if out is not None:
        inference.similar_map(map, to, top=top, out=output_path(out), time=time)
    embeddings = inference.open_embeddings(map, time)
    example = read_example(to, str(embeddings.odc.crs))
    return inference.similarity(embeddings, mean_vector(embeddings, example))


def similar_map(
    map: str | Path | Sequence[str | Path],
    to: To,
    *,
    top: int = 10,
    out: str | Path = "similarity.tif",
    time: str | None = None,
) -> Path:
    """Write the similarity raster of a map and its best places; memory does not grow with the map.

    Args:
        map: As in ``geossl.similar``; or several ``.zarr`` of one encoder, of which the places alone can be asked for.
            The example is taken from the first that it lies in, and every place says which ``map`` it is in.
        to: As in ``geossl.similar``.
        top: Places wanted: the best patches, each at least five patches from the others and from the example.
        out: ``.tif``: Cloud-Optimised GeoTIFF, float32, NaN = nodata. Beside it, ``.geojson``: the places as points in
            longitude and latitude with ``rank`` and ``score``. Both replace files of that name.
            ``.geojson``: the places alone, from an index beside the map (``map.index``, about the size of the map in
            int8) that the first search makes; later searches are quick.
        time: As in ``geossl.similar``.

    Returns:
        The raster written.

    Raises:
        InputError: As in ``geossl.similar``, or if ``top`` or ``out`` are not possible; nothing was written.
    """
    return inference.similar_map(map, to, top=top, out=output_path(out), time=time)


def view(
    map: str | Path,
    *,
    layers: list[str | Path] | None = None,
    beside: str | Path | None = None,
    label: str | Path | None = None,
    base_map: str | None = None,
    time: str | None = None,
    port: int = 8000,
    browser: bool = True,
) -> None:
    """Serve a page on this machine that shows a map, and on click what is similar; returns on Ctrl-C.

    Args:
        map: As in ``geossl.similar``.
        layers: Rasters to show on top: classes, similarity, change, values or RGB (``.tif``).
        beside: Another map, such as of another date: a slider swipes it over the first, in the same colours.
        label: Label mode: ``.gpkg`` of polygons with a column ``class``, made if it is not there and saved on every
            change; ``finetune(labels=..., map=...)`` learns from it.
        base_map: Also show tiles of others, online: ``osm``, or an address with ``{z}``, ``{x}``, ``{y}``.
        time: Of a map with several dates the one to show, ``2023-06``; or two, ``2023-06,2023-12``: the second is
            swiped over the first, or is that of ``beside``.
        port: Port of 127.0.0.1; 0 takes a free one.
        browser: Open the page.

    Raises:
        InputError: If map, layers or port cannot be used.
    """
    path, other = possible(map, "map"), None if beside is None else possible(beside, "--beside")
    labels = None if label is None else output_path(label, "--label")
    shown, tiles = [possible(p, "--layer") for p in layers or []], None if base_map is None else known_base(base_map)
    dates = [None] if time is None else [part.strip() for part in time.split(",")]
    if len(dates) > 2:
        raise InputError(f"--time {time} names {len(dates)} dates; the page shows one, or two side by side")
    times = (dates[0], dates[-1] if len(dates) == 2 else None)
    other = path if len(dates) == 2 and other is None else other

    def session(folder: Path) -> Session:
        marked = None
        if labels is not None:
            embeddings = inference.open_embeddings(path, times[0])  # says whether this is a map at all
            marked = Labelling(path, embeddings, labels, folder, area_of(path), times[0])
        return Session(path, shown, folder, other, marked, times)

    server.view(str(map), session, port, browser, partial(print, flush=True), tiles)
