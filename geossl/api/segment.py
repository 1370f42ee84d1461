"""Class maps: by a fitted model, or by k-means without labels."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, UInt64
from threadpoolctl import threadpool_limits

from geossl import grid
from geossl.api.settings import MAP, checked_settings, refuse_idle
from geossl.api.source import Catalog, Rasters, given, needed, opened
from geossl.api.tokens import JOINT, with_tokens
from geossl.data.labels.colours import palette
from geossl.data.resampling import apply
from geossl.data.splits import epsg_code, hash_priority
from geossl.errors import InputError, MissingFileError, Note, possible
from geossl.evaluation.heads import fit_kmeans
from geossl.inference.engine import run
from geossl.inference.engine.source import OnlySensors, Source
from geossl.inference.outputs import class_maps as rasters
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.description import arrays, store_attributes
from geossl.inference.outputs.raster import open_map, words_of
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile, save_encoder
from geossl.models.heads.segmenter import Heads, Segmenter, build
from geossl.models.kinds import require_image_encoder
from geossl.outputs import check_output, is_unfinished, output_path, work_path, workspace
from geossl.progress import Progress
from geossl.sensors import PAIR

DEFAULT_ENCODER = "croma_tiny"
KMEANS_SAMPLE = 50_000  # patches; smaller maps are clustered whole
Drawn = tuple[UInt64[np.ndarray, " _"], Float[np.ndarray, "_ d"]]  # priorities and embeddings


@dataclass(frozen=True)
class Classifier:
    """What names the cells of a map.

    Args:
        heads: By sensors, for embedding maps; None where the map holds classes already.
        legend: Names and colours.
        metadata: What it was made with.
    """

    heads: Heads | None
    legend: rasters.Legend
    metadata: Mapping[str, Any]


def segment(
    aoi: str | Path | gpd.GeoDataFrame | None = None,
    source: Catalog | Rasters | Source | None = None,
    *,
    model: str | Path | None = None,
    classes: int | None = None,
    map: str | Path | None = None,
    encoder: str | Path | DenseEncoder = DEFAULT_ENCODER,
    out: str | Path = "classes.tif",
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Classify a region: a class raster, its confidence and an area table.

    Either ``model`` (from ``finetune``) says the classes, or ``classes`` asks k-means for as many, without labels.
    Pixels come from a catalogue or from files as in ``embed_map``, or embeddings from a finished ``map``.

    Args:
        aoi: Region; the classes end with it. May be left out with ``map``.
        source: Where pixels come from: ``geossl.Catalog(date=...)`` or ``geossl.Rasters(s1=..., s2=...)``.
        model: File written by ``finetune``, or by ``segment`` with ``classes`` (``..._model.safetensors``).
        classes: Number of clusters.
        map: Embedding map (.zarr) to classify, in place of pixels.
        encoder: For ``classes``: name, file or encoder, as in ``embed_map``.
        out: ``.tif``: COG of class numbers with colour table, names and nodata 255. Beside it ``..._confidence.tif``
            in percent, ``..._area.csv`` in hectares, and a figure of both (``.png``).
        progress: Called after every part (shards); see ``geossl.progress``.
        settings: ``polygons`` (also write outlines, ``.gpkg`` or ``.parquet``), ``seed`` (of k-means), ``dims`` and
            ``tokens`` (with ``classes``, as in ``embed_map``), ``overwrite`` (replace ``out``, and what it was made
            from if that was begun with other settings), and those of ``embed_map``: ``scheduler``, ``batch_size``,
            ``shard_cells``, ``crs``, ``gsd_m`` ...

    Returns:
        The class raster; for a region over several UTM zones the folder with one for each.

    Raises:
        InputError: If arguments do not fit together, or nothing can be classified.
    """
    pixels = given(source, settings, "segment")
    settings = checked_settings(settings, ("polygons", "seed", "dims", "tokens", *MAP), "segment")
    dims = settings.pop("dims", None)
    if dims is not None and (model or map):
        raise InputError("--dims is for --classes and pixels; a model and a map have theirs already: leave it out")
    polygons, seed, out = settings.pop("polygons", None), settings.pop("seed", 0), output_path(out)
    check(aoi, model, map, classes, out, polygons, settings.get("overwrite", False))
    if str(encoder) != DEFAULT_ENCODER and (model is not None or map is not None):
        raise InputError(f"--encoder does nothing beside --{'model' if model is not None else 'map'}; leave it out")
    region = None if aoi is None else grid.read_aoi(aoi)
    fitted = None if model is None else read_model(Path(model))
    if map is not None:
        refuse_idle(pixels, settings)
        maps = [possible(map, "--map")]
        found = clusters(maps, classes, seed) if fitted is None else of_model(fitted, is_map=True)
        return write(maps, found, out, polygons, region)
    assert region is not None
    store = work_path(out) / "map.zarr"
    opened_source = opened(needed(pixels, "segment"), region, store, settings.get("overwrite", False))
    tokens = settings.pop("tokens", None)
    if tokens is not None and fitted is not None:
        raise InputError(f"--tokens {tokens} is decided by --model, which was fitted on its own; leave it out")
    encoder, opened_source = with_tokens(encoder, opened_source, tokens or JOINT)
    opened_source = opened_source if fitted is None else known_sensors(opened_source, fitted)
    weights = EncoderFile.portable(encoder).cut(dims) if model is None else EncoderFile.open(model)
    with workspace(out):
        maps = run.embed_map(region, opened_source, weights.path, store, progress, **{"dtype": "float16", **settings})
        found = clusters(maps, classes, seed) if fitted is None else of_model(fitted, is_map=False)
        if fitted is None:
            save_clusters(found, weights, out)  # before the classes, which stand for all
        return write(maps, found, out, polygons, region)


def write(
    maps: Sequence[Path], found: Classifier, out: Path, polygons: str | Path | None, region: grid.Aoi | None
) -> Path:
    """The rasters of all maps, and their outlines; the class raster comes last, so that it stands for all."""
    targets = [out] if len(maps) == 1 else [out.with_suffix("") / f"{path.stem}.tif" for path in maps]
    for path, target in zip(maps, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        outlines = None if polygons is None else Path(polygons)
        if outlines is not None and len(maps) > 1:
            outlines = outlines.with_name(f"{outlines.stem}_{path.stem}{outlines.suffix}")
        write_one(path, found, target, region, outlines)
    return out if len(maps) == 1 else targets[0].parent


def summary(out: Path) -> str:
    """Where the outputs are, and hectares per class, as text."""
    lines = []
    for path in [out] if out.is_file() else sorted(out.glob("*.tif")):
        if path.stem.endswith("_confidence"):
            continue
        table = pd.read_csv(rasters.area_path(path))
        lines += [f"classes     {path}", f"confidence  {rasters.confidence_path(path)}"]
        lines += [f"picture     {path.with_suffix('.png')}"]
        lines += [f"area        {rasters.area_path(path)}", table.to_string(index=False)]
    return "\n".join(lines)


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
    if map is not None and possible(map, "--map").suffix != ".zarr":
        raise InputError(f"--map {map} must be a .zarr embedding map, which knows what each patch was made from")
    if map is not None and not Path(map).exists():
        raise MissingFileError(f"--map {map} does not exist")
    check_outputs(out, None if polygons is None else output_path(polygons, "--polygons"), overwrite, map is not None)


def check_outputs(out: Path, polygons: Path | None, overwrite: bool, is_map: bool) -> None:
    """Refuse outputs that cannot be, or are there."""
    is_begun = is_unfinished(out) and not is_map
    check_output(out, (".tif",), overwrite=overwrite or is_begun, makes_folder=True)
    if polygons is not None:
        check_output(polygons, (".gpkg", ".parquet"), option="--polygons")
    if out.with_suffix("").exists() and not overwrite and not is_begun:  # for a region over several UTM zones
        raise InputError(f"--out {out.with_suffix('')} exists; choose another name, or --overwrite")


def read_model(path: Path) -> Segmenter:
    """A model that gives classes."""
    found = EncoderFile.open(path).encoder
    if not isinstance(found, Segmenter):
        raise InputError(f"--model {path} is an encoder, not a classifier; fit one with geossl finetune")
    return found


def of_model(model: Segmenter, is_map: bool) -> Classifier:
    """A model as classifier: its heads for an embedding map, nothing more for what it has classified itself."""
    arguments = model.spec.arguments
    legend = rasters.Legend(arguments["classes"], arguments["colours"])
    metadata = {"model": model.spec.name, "encoder_sha256": arguments["encoder_sha256"]}
    if not is_map:
        return Classifier(None, legend, metadata)
    if "any" in model.tops:
        raise InputError(f"{model.spec.name} classifies pixels; it needs --s1 and --s2, or --date, instead of --map")
    return Classifier(dict(model.tops.items()), legend, metadata)  # type: ignore[arg-type]


def sensor_layer(path: Path) -> xr.DataArray:
    """What every patch of a map was made from."""
    found = arrays(checked(path), str(path), chunks=None)
    if "sensors" not in found:
        raise InputError(f"--map {path} is not an embedding map written by geossl embed (no layer 'sensors')")
    return found["sensors"].assign_attrs(names=store_attributes(path).get("geossl:sensors", PAIR))


def known_sensors(source: Source, model: Segmenter) -> Source:
    """A source without sensors the model was not fitted with.

    Raises:
        InputError: If nothing is left, or the model cannot do with what is left.
    """
    names = tuple(name for name in source.sensors if name in model.spec.sensors)
    heads = [name for name in model.tops if name != "any"]
    if not names or (heads and "+".join(sorted(names)) not in heads):
        known = " or ".join(heads) or ", ".join(model.spec.sensors)
        raise InputError(f"--model was fitted on {known} and cannot do with {', '.join(source.sensors)}; give those")
    if names == source.sensors:
        return source
    left = ", ".join(name for name in source.sensors if name not in names)
    warnings.warn(f"--model was fitted on {', '.join(names)} alone; {left} is not used", Note, stacklevel=3)
    return OnlySensors(source, names)


def clusters(maps: Sequence[Path], count: int | None, seed: int) -> Classifier:
    """K-means of a sample of all maps' patches, of those made from the commonest set of sensors.

    Maps are read once, block by block. The sample, and so the clusters, do not depend on how they are cut in shards.
    """
    assert count is not None
    drawn: dict[str, Drawn] = {}
    total: dict[str, int] = {}
    for path in maps:
        layer, embeddings = sensor_layer(path), open_map(path)
        box = embeddings.odc.geobox
        for where, values in blocks(embeddings):
            made = np.where(np.isfinite(values).all(axis=0), np.asarray(layer[where]), 0)
            for name in sorted({*layer.names, "+".join(sorted(layer.names))}, key=lambda name: ("+" in name, name)):
                rows, columns = np.nonzero(np.isin(made, rasters.flags_of(name)))
                total[name] = total.get(name, 0) + len(rows)
                places = np.column_stack(apply(box[where].transform, columns + 0.5, rows + 0.5))
                found = hash_priority(places, epsg_code(box), seed), values[:, rows, columns].T
                drawn[name] = lowest([*([drawn[name]] if name in drawn else []), found])
    name = max(total, key=lambda n: total[n])
    sample = drawn[name][1] if drawn else np.zeros((0, 0))
    if len(sample) < count:
        raise InputError(f"--classes {count} is more than the {len(sample)} patches with pixels in {maps[0]}")
    if others := sum(total.values()) - total[name]:
        share = 100 * others / sum(total.values())
        text = f"clusters are of patches made from {name}; {share:.0f} % were made from other sensors and stay empty"
        warnings.warn(text, Note, stacklevel=3)
    with threadpool_limits(1):  # sums of several threads would differ in the last bits
        head = fit_kmeans(sample, count, seed)
    names = [f"cluster {i + 1}" for i in range(count)]
    metadata = {"model": "k-means", "sample": len(sample), "seed": seed}
    return Classifier({name: head}, rasters.Legend(names, palette(count)), metadata)


def lowest(parts: Sequence[Drawn]) -> Drawn:
    """The rows with the lowest priorities, in their order: a sample of everything seen so far, in constant memory."""
    priority, rows = (np.concatenate(p) for p in zip(*parts, strict=True))
    kept = np.argsort(priority, kind="stable")[:KMEANS_SAMPLE]
    return priority[kept], rows[kept]


def save_clusters(found: Classifier, weights: EncoderFile, out: Path) -> None:
    """Keep the clusters as a model, so that another region can be given the same classes."""
    assert found.heads is not None
    encoder, legend = require_image_encoder(weights.encoder), found.legend
    sensors = [name for key in found.heads for name in key.split("+")]
    model = build(encoder, found.heads, sensors, legend.names, legend.colours, weights.sha256)
    save_encoder(out.with_name(f"{out.stem}_model.safetensors"), model, dict(found.metadata))


def write_one(path: Path, found: Classifier, target: Path, region: grid.Aoi | None, outlines: Path | None) -> None:
    """The class raster of one map, and outlines."""
    embeddings = open_map(path)
    if found.heads is None:
        geobox, parts = rasters.stored_classes(embeddings)
    else:
        encoder = str(store_attributes(path).get("geossl:encoder_sha256"))
        if found.metadata.get("encoder_sha256", encoder) != encoder:
            raise InputError(f"--map {path} was made by another encoder than --model was fitted on; embed it again")
        geobox, parts = rasters.classified(embeddings, sensor_layer(path), found.heads)
    area = None if region is None else region.to_crs(str(embeddings.odc.crs))
    metadata = {**found.metadata, "dates": words_of(path, "").dates}
    rasters.write_classes(target, geobox, parts, found.legend, area, metadata, outlines)
