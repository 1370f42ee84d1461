"""Novelty of places: how far spectra, patches or embeddings lie off what an auto-encoder learned."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
import xarray as xr

from geossl import grid
from geossl.api.embed import Paths, source_of
from geossl.errors import InputError
from geossl.inference.engine import run
from geossl.inference.engine.source import Source
from geossl.inference.outputs.cog import Block, blocks, write_blocks
from geossl.inference.outputs.raster import clipped, open_map
from geossl.models.encoders.score_autoencoder import PatchAutoencoder, VectorAutoencoder
from geossl.models.files import load_encoder, save_encoder
from geossl.models.heads.novelty import LAYERS, novelty_map


def anomaly(
    aoi: str | Path | gpd.GeoDataFrame | None = None,
    *,
    encoder: str | Path,
    map: str | Path | None = None,
    date: str | None = None,
    catalog: str = "planetary-computer",
    composite: str = "clearest",
    sensors: Sequence[str] = ("s1", "s2"),
    max_cloud: float = 80,
    mask: str = "scl",
    s1: Paths | None = None,
    s2: Paths | None = None,
    s2_offset: int | None = None,
    out: str | Path = "anomaly.tif",
    overwrite: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> Path:
    """Say of every patch how unlike the training data it is.

    Bands of the raster: ``score_norm`` (length of the learned gradient of the log density), ``energy`` (minus the log
    density, against the most central training vector) and ``p_value``: the share of held-out training vectors with a
    longer score, which is the one to threshold. A patch may be rare and yet lie on the learned surface; ``score_norm``
    does not see that, ``energy`` a little.

    Args:
        aoi: Region. May be left out with ``map``.
        encoder: Weight file of ``geossl pretrain regularized_ae``.
        map: Embedding map, for an auto-encoder of embeddings; otherwise pixels as in ``embed_map``.
        date: As there, and so on to ``s2_offset``.
        catalog: As there.
        composite: As there.
        sensors: As there.
        max_cloud: As there.
        mask: As there.
        s1: As there.
        s2: As there.
        s2_offset: As there.
        out: ``.tif``, float32, NaN where nothing can be said.
        overwrite: Replace ``out``.
        progress: Called with (shards done, shards in all, square kilometres).
        settings: As in ``embed_map``: ``scheduler``, ``batch_size``, ``shard_cells``, ``crs``.

    Returns:
        The raster; for a region over several UTM zones the folder with one for each.

    Raises:
        InputError: If arguments or files do not fit; nothing was written.
    """
    out = Path(out)
    work = out.with_name(f"{out.name}.build")
    if out.suffix != ".tif":
        raise InputError(f"--out {out} must end in .tif")
    if out.exists() and not overwrite and not work.exists():
        raise InputError(f"--out {out} exists; choose another name, or --overwrite")
    region = None if aoi is None else grid.read_aoi(aoi)
    found = load_encoder(encoder)
    if map is not None:
        if not isinstance(found, VectorAutoencoder):
            raise InputError(f"--encoder {encoder} is not an auto-encoder of embeddings; train one on {map} itself")
        embeddings = inside(open_map(map), region)
        return write(out, embeddings, of_embeddings(embeddings, found, Path(map)))
    if not isinstance(found, PatchAutoencoder):
        raise InputError(f"--encoder {encoder} is not an auto-encoder of pixels from geossl pretrain regularized_ae")
    if region is None:
        raise InputError("--aoi is missing; name the region, or an embedding map with --map")
    request: dict[str, Any] = {"date": date, "catalog": catalog, "composite": composite, "sensors": sensors}
    request |= {"max_cloud": max_cloud, "mask": mask}
    source = source_of(region, work / "map.zarr", (s1, s2, s2_offset), request, overwrite)
    maps = novelty_maps(region, source, found, work, progress, {"overwrite": overwrite, **settings})
    written = []
    for path in maps:
        target = out if len(maps) == 1 else out.with_suffix("") / f"{path.stem}.tif"
        target.parent.mkdir(parents=True, exist_ok=True)
        layers = inside(open_map(path), region)
        written.append(write(target, layers, blocks(layers)))
    return written[0] if len(maps) == 1 else out.with_suffix("")


def novelty_maps(
    region: grid.Aoi,
    source: Source,
    found: PatchAutoencoder,
    work: Path,
    progress: Callable[[int, int, float], None] | None,
    settings: dict[str, Any],
) -> list[Path]:
    """The three layers per patch, made by the map engine; killed, the same call goes on."""
    if missing := set(found.spec.sensors) - set(source.sensors):
        raise InputError(f"the auto-encoder learned from {', '.join(found.spec.sensors)}; give {missing.pop()}, too")
    is_new = not work.exists()
    work.mkdir(parents=True, exist_ok=True)
    weights = work / "novelty.safetensors"
    save_encoder(weights, novelty_map(found), {})
    try:
        return run.embed_map(region, source, weights, work / "map.zarr", progress, **{"dtype": "float32", **settings})
    except InputError:
        if is_new:
            shutil.rmtree(work)
        raise


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
    return out
