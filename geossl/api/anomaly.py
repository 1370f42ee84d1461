"""Novelty of places: how far spectra, patches or embeddings lie off what an auto-encoder learned."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
import xarray as xr

from geossl import grid
from geossl.api.settings import MAP, checked_settings, refuse_idle
from geossl.api.source import Catalog, Rasters, given, needed, opened
from geossl.errors import InputError, possible
from geossl.inference.engine import run
from geossl.inference.engine.source import Source
from geossl.inference.outputs.cog import Block, blocks, write_blocks
from geossl.inference.outputs.raster import clipped, open_date, open_map
from geossl.inference.outputs.styles import write_value_style
from geossl.models.encoder import Encoder
from geossl.models.encoders.score_autoencoder import PatchAutoencoder, VectorAutoencoder
from geossl.models.files import EncoderFile, save_encoder
from geossl.models.heads.novelty import LAYERS, novelty_map
from geossl.outputs import check_output, output_path, work_folder, work_path
from geossl.progress import Progress
from geossl.viewer.shown import Written

RARE = 0.1  # p-value at which the style of the raster ends


def anomaly(
    aoi: str | Path | gpd.GeoDataFrame | None = None,
    source: Catalog | Rasters | Source | None = None,
    *,
    encoder: str | Path | Encoder,
    map: str | Path | None = None,
    out: str | Path = "anomaly.tif",
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Score how unlike the training data every patch is.

    Bands of the raster: ``score_norm`` (length of the learned gradient of the log density), ``energy`` (minus the log
    density, against the most central training vector) and ``p_value``: the share of holdout vectors with a
    longer score, which is the one to threshold. A patch may be rare and yet lie on the learned surface; ``score_norm``
    does not see that, ``energy`` a little.

    Args:
        aoi: Region. May be left out with ``map``.
        source: Where pixels come from: ``geossl.Catalog(date=...)`` or ``geossl.Rasters(s1=..., s2=...)``.
        encoder: Weight file of ``geossl pretrain regularized_ae``, or the encoder of one.
        map: Embedding map, for an auto-encoder of embeddings, in place of pixels.
        out: ``.tif``, float32, NaN where nothing can be said.
        progress: Called after every part (shards); see ``geossl.progress``.
        settings: ``overwrite`` (replace ``out``) and those of ``embed_map``: ``scheduler``, ``batch_size``,
            ``shard_cells``, ``crs`` ...

    Returns:
        The raster; for a region over several UTM zones the folder with one for each.

    Raises:
        InputError: If arguments or files do not fit; nothing was written.
    """
    pixels = given(source, settings, "anomaly")
    settings, out = checked_settings(settings, MAP, "anomaly"), output_path(out)
    overwrite = settings.get("overwrite", False)
    work = work_path(out)
    check_output(out, (".tif",), overwrite=overwrite or work.exists(), makes_folder=True)
    region = None if aoi is None else grid.read_aoi(aoi)
    found = EncoderFile.open(encoder).encoder
    if map is not None:
        if not isinstance(found, VectorAutoencoder):
            raise InputError(f"--encoder {encoder} is not an auto-encoder of embeddings; train one on {map} itself")
        refuse_idle(pixels, settings)
        embeddings = inside(open_date(map, None), region)
        return Written(write(out, embeddings, of_embeddings(embeddings, found, possible(map, "--map"))))
    if not isinstance(found, PatchAutoencoder):
        raise InputError(f"--encoder {encoder} is not an auto-encoder of pixels from geossl pretrain regularized_ae")
    if region is None:
        raise InputError("--aoi is missing; name the region, or an embedding map with --map")
    opened_source = opened(needed(pixels, "anomaly"), region, work / "map.zarr", overwrite)
    maps = novelty_maps(region, opened_source, found, work, progress, settings)
    written = []
    for path in maps:
        target = out if len(maps) == 1 else out.with_suffix("") / f"{path.stem}.tif"
        target.parent.mkdir(parents=True, exist_ok=True)
        layers = inside(open_map(path), region)
        written.append(write(target, layers, blocks(layers)))
    return Written(written[0] if len(maps) == 1 else out.with_suffix(""))


def novelty_maps(
    region: grid.Aoi,
    source: Source,
    found: PatchAutoencoder,
    work: Path,
    progress: Progress | None,
    settings: dict[str, Any],
) -> list[Path]:
    """The three layers per patch, made by the map engine; killed, the same call resumes."""
    if missing := set(found.spec.sensors) - set(source.sensors):
        raise InputError(f"the auto-encoder was trained on {', '.join(found.spec.sensors)}; give {missing.pop()}, too")
    weights = work / "novelty.safetensors"
    with work_folder(work):
        save_encoder(weights, novelty_map(found), {})
        return run.embed_map(region, source, weights, work / "map.zarr", progress, **{"dtype": "float32", **settings})


def inside(layers: xr.DataArray, region: grid.Aoi | None) -> xr.DataArray:
    """What lies in the region."""
    return layers if region is None else clipped(layers, region.to_crs(str(layers.odc.crs)))


def of_embeddings(embeddings: xr.DataArray, found: VectorAutoencoder, path: Path) -> Iterator[Block]:
    """Novelty of a map's vectors, block by block.

    Raises:
        InputError: If the auto-encoder learned from vectors of another length.
    """
    if embeddings.sizes["embedding"] != found.autoencoder.config.in_dim:
        raise InputError(
            f"{path} holds vectors of length {embeddings.sizes['embedding']}, the auto-encoder learned from "
            f"{found.autoencoder.config.in_dim}; train one on this map: data.source={path}"
        )

    def parts() -> Iterator[Block]:
        for where, values in blocks(embeddings):
            rows = torch.from_numpy(values.reshape(len(values), -1).T.copy())
            with torch.inference_mode():
                layers = torch.stack(found.autoencoder.novelty(rows)).numpy().reshape(3, *values.shape[1:])
            yield where, np.where(np.isfinite(values).all(axis=0), layers, np.nan)

    return parts()


def write(out: Path, grid_of: xr.DataArray, parts: Iterator[Block]) -> Path:
    """A COG of the three bands on the grid of a map."""
    write_blocks(out, grid_of.odc.geobox, parts, count=len(LAYERS), dtype="float32", nodata=np.nan, names=LAYERS)
    write_value_style(out, 0.0, RARE, "inferno_r", band=LAYERS.index("p_value") + 1)
    return out
