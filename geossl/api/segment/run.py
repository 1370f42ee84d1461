"""Class and value maps: by a fitted model, or by k-means without labels."""

from pathlib import Path
from typing import Any

import geopandas as gpd

from geossl import grid
from geossl.api.change import open_pair
from geossl.api.segment.clusters import clusters, save_clusters
from geossl.api.segment.files import Wanted, write, write_pair
from geossl.api.segment.models import known_sensors, of_model, read_model, wanted_time
from geossl.api.settings import MAP, checked_settings, refuse_idle
from geossl.api.source import Catalog, Rasters, given, needed, opened
from geossl.api.tokens import JOINT, with_tokens
from geossl.errors import InputError, MissingFileError, possible
from geossl.inference.engine import run
from geossl.inference.engine.source import Source
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile
from geossl.models.heads.segmenter import Segmenter
from geossl.outputs import check_output, is_unfinished, output_path, work_path, workspace
from geossl.progress import Progress
from geossl.vector_files import read_features
from geossl.viewer.shown import Written

DEFAULT_ENCODER = "croma_tiny"


def segment(
    aoi: str | Path | gpd.GeoDataFrame | None = None,
    source: Catalog | Rasters | Source | None = None,
    *,
    model: str | Path | None = None,
    classes: int | None = None,
    map: str | Path | tuple[str | Path, str | Path] | None = None,
    encoder: str | Path | DenseEncoder = DEFAULT_ENCODER,
    out: str | Path = "classes.tif",
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Classify a region, or measure it: a raster of classes or amounts, how sure they are, and a table.

    Either ``model`` (from ``finetune``) says the classes or the amount, or ``classes`` asks k-means for so many.
    Pixels come from a catalogue or from files as in ``embed_map``, or embeddings from a finished ``map``.

    Args:
        aoi: Region; the classes end with it. May be left out with ``map``.
        source: Where pixels come from: ``geossl.Catalog(date=...)`` or ``geossl.Rasters(s1=..., s2=...)``.
        model: File written by ``finetune``, or by ``segment`` with ``classes`` (``..._model.safetensors``).
        classes: Number of clusters.
        map: Embedding map (.zarr) to classify, in place of pixels; before and after for a model that was fitted with
            ``finetune(pair=...)``.
        encoder: For ``classes``: name, file or encoder, as in ``embed_map``.
        out: ``.tif``: COG of class numbers with colour table, names and nodata 255. Beside it ``..._confidence.tif``
            in percent, ``..._area.csv`` in hectares, and a figure of both (``.png``). Of amounts a COG of value, lower
            and upper end of the interval, with unit and nodata NaN; beside it ``..._totals.csv``, mean and total with
            standard errors (see ``geossl.inference.totals``), and a figure. With a model also
            ``..._applicability.tif``: 1 where the ground is unlike all labels, so that the model must not be trusted.
        progress: Called after every part (shards); see ``geossl.progress``.
        settings: ``polygons`` (also write outlines, ``.gpkg`` or ``.parquet``), ``totals`` (of amounts: polygons to sum
            over, each with its ``id`` or ``name``; by default the region), ``time`` (of a ``map`` with several dates:
            one, such as ``2023-06``; or ``all`` side by side, the default for ``classes`` and for a ``model`` that
            learned so), ``seed`` (of k-means), ``dims`` and
            ``tokens`` (with ``classes``, as in ``embed_map``), ``overwrite`` (replace ``out``, and what it was made
            from if that was begun with other settings), and those of ``embed_map``: ``scheduler``, ``batch_size``,
            ``shard_cells``, ``crs``, ``gsd_m`` ...

    Returns:
        The class raster; for a region over several UTM zones the folder with one for each.

    Raises:
        InputError: If arguments do not fit together, or nothing can be classified.
    """
    pixels = given(source, settings, "segment")
    settings = checked_settings(settings, ("polygons", "totals", "seed", "dims", "tokens", "time", *MAP), "segment")
    dims = settings.pop("dims", None)
    if dims is not None and (model or map):
        raise InputError("--dims is for --classes and pixels; a model and a map have theirs already: leave it out")
    polygons, seed, out = settings.pop("polygons", None), settings.pop("seed", 0), output_path(out)
    wanted, time = settings.pop("totals", None), settings.pop("time", None)
    check(aoi, model, map, classes, out, polygons, settings.get("overwrite", False))
    if str(encoder) != DEFAULT_ENCODER and (model is not None or map is not None):
        raise InputError(f"--encoder does nothing beside --{'model' if model is not None else 'map'}; leave it out")
    region = None if aoi is None else grid.read_aoi(aoi)
    fitted = None if model is None else read_model(Path(model))
    areas = areas_of(wanted, region, fitted)
    if fitted is not None and fitted.amount is not None and polygons is not None:
        raise InputError("--polygons outlines classes; this model gives amounts: leave it out, or name --totals")
    if map is not None:
        refuse_idle(pixels, settings)
        maps = [possible(path, "--map") for path in maps_of(map)]
        check_pair(maps, fitted)
        if len(maps) == 2 and fitted is not None:
            pair = open_pair((maps[0], maps[1]), time=time)
            return Written(write_pair(pair, of_model(fitted, is_map=True), out, Wanted(polygons, region, areas)))
        time = wanted_time(maps[0], fitted, time)
        found = clusters(maps, classes, seed, time) if fitted is None else of_model(fitted, is_map=True)
        return Written(write(maps, found, out, Wanted(polygons, region, areas, time)))
    check_pair([], fitted)
    if time is not None:
        raise InputError(f"--time {time} is of a map with a time axis; name one with --map")
    wanted_time(None, fitted, None)
    assert region is not None
    store = work_path(out) / "map.zarr"
    overwrite, maker = settings.get("overwrite", False), encoder if model is None else model
    opened_source = opened(needed(pixels, "segment"), region, store, overwrite, maker)
    tokens = settings.pop("tokens", None)
    if tokens is not None and fitted is not None:
        raise InputError(f"--tokens {tokens} is decided by --model, which was fitted on its own; leave it out")
    encoder, opened_source = with_tokens(encoder, opened_source, tokens or JOINT)
    opened_source = opened_source if fitted is None else known_sensors(opened_source, fitted)
    weights = EncoderFile.portable(encoder).cut(dims) if model is None else EncoderFile.open(model)
    with workspace(out):
        dtype = "float16" if fitted is None or fitted.amount is None else "float32"
        maps = run.embed_map(region, opened_source, weights.path, store, progress, **{"dtype": dtype, **settings})
        found = clusters(maps, classes, seed) if fitted is None else of_model(fitted, is_map=False)
        if fitted is None:
            save_clusters(found, weights, out)  # before the classes, which stand for all
        return Written(write(maps, found, out, Wanted(polygons, region, areas)))


def maps_of(map: Any) -> tuple[str | Path, ...]:
    """One map, or two."""
    return tuple(map) if isinstance(map, tuple | list) else () if map is None else (map,)


def check_pair(maps: list[Path], model: Segmenter | None) -> None:
    """Refuse one map for a model of change, and two for any other.

    Raises:
        InputError: Which.
    """
    needs_two = model is not None and bool(model.spec.arguments.get("pair"))
    if needs_two and len(maps) != 2:
        raise InputError("--model tells change between two maps; use geossl change BEFORE AFTER --model")
    if len(maps) > 1 and not needs_two:
        raise InputError("--model answers for one map; fit one of change with geossl finetune --pair BEFORE AFTER")


def areas_of(totals: str | Path | gpd.GeoDataFrame | None, region: grid.Aoi | None, model: Segmenter | None) -> Any:
    """Polygons to sum amounts over: those asked for, or the region.

    Raises:
        InputError: If there are no amounts to sum, or the file holds no polygons.
    """
    if totals is None:
        return None if region is None else gpd.GeoDataFrame({"name": ["region"]}, geometry=[region.geometry], crs=4326)
    if model is None or model.amount is None:
        raise InputError("--totals sums amounts, and this map has classes, whose hectares are in the area table")
    name = "the GeoDataFrame" if isinstance(totals, gpd.GeoDataFrame) else f"--totals {totals}"
    found = read_features(totals, "--totals")
    grid.from_frame(found, name)
    return found


def check(
    aoi: Any, model: Any, map: Any, classes: int | None, out: Path, polygons: str | Path | None, overwrite: bool
) -> None:
    """Refuse what cannot be done; nothing is written yet."""
    if (model is None) == (classes is None):
        raise InputError("say what the classes are: --model FILE from geossl finetune, or --classes N for k-means")
    if classes is not None and not 2 <= classes <= 100:
        raise InputError(f"--classes {classes} is not possible; ask for 2 to 100")
    if aoi is None and map is None:
        raise InputError("--aoi is missing; name the region, or classify a finished map with --map")
    for path in maps_of(map):
        if possible(path, "--map").suffix != ".zarr":
            raise InputError(f"--map {path} must be a .zarr embedding map, which knows what each patch was made from")
        if not Path(path).exists():
            raise MissingFileError(f"--map {path} does not exist")
    check_outputs(out, None if polygons is None else output_path(polygons, "--polygons"), overwrite, map is not None)


def check_outputs(out: Path, polygons: Path | None, overwrite: bool, is_map: bool) -> None:
    """Refuse outputs that cannot be, or are there."""
    is_begun = is_unfinished(out) and not is_map
    check_output(out, (".tif",), overwrite=overwrite or is_begun, makes_folder=True)
    if polygons is not None:
        check_output(polygons, (".gpkg", ".parquet"), option="--polygons")
    if out.with_suffix("").exists() and not overwrite and not is_begun:  # for a region over several UTM zones
        raise InputError(f"--out {out.with_suffix('')} exists; choose another name, or --overwrite")
