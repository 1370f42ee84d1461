"""Embedding rasters of airborne laser scans."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geossl.api.points.scans import Scans, block_settings, of_scans
from geossl.api.settings import checked_settings
from geossl.data.points.blocks import Block, BlockSettings, grown, lattice_blocks
from geossl.data.points.las import Bounds, LasFile, common_epsg, find_files, read_scan, survey
from geossl.errors import InputError
from geossl.grid import Lattice
from geossl.inference.outputs import raster
from geossl.inference.outputs.cog import Block as RasterBlock
from geossl.inference.outputs.cog import write_blocks
from geossl.inference.outputs.quicklook import quicklook
from geossl.inference.outputs.styles import write_vector_style
from geossl.inference.points import cell_means, cell_numbers, inner_vectors
from geossl.models.encoder import Encoder, PointEncoder
from geossl.models.files import load_encoder
from geossl.outputs import check_output
from geossl.progress import Progress
from geossl.rules import check_values
from geossl.viewer.shown import Written


@dataclass(frozen=True)
class ScanSettings:
    """Further settings of ``points.embed``.

    Args:
        min_points: Blocks with fewer are nodata.
        batch_size: Blocks at a time; does not change values.
        chunk_m: Side of the squares that are held in memory at a time; does not change values.
    """

    min_points: int = 64
    batch_size: int = 32
    chunk_m: float = 1000.0


SETTINGS = tuple(field.name for field in fields(ScanSettings))


def embed_points(
    laz: Scans,
    encoder: str | Path | Encoder,
    *,
    out: str | Path = "embedding.tif",
    cell_m: float | None = None,
    crs: int | None = None,
    picture: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Embed an airborne scan into a raster: per cell the mean vector of its points.

    A point's vector is interpolated between the three nearest of the encoder's groups. Blocks and cells lie on
    lattices anchored at the CRS origin, so neighbouring maps fit each other, and blocks reach across the rims of files.
    Only intensity is scaled file by file, since files are not calibrated.

    Args:
        laz: A LAS or LAZ file, a folder of them, a list, or ``sample`` (bundled).
        encoder: Weight file or loaded encoder, pretrained on blocks of scans.
        out: ``.tif`` (COG, float32); ``geossl.open`` reads it.
        cell_m: Side of a cell in metres; by default half the encoder's block.
        crs: EPSG code, for files that do not say.
        picture: Also write a false-colour picture beside the output.
        overwrite: Replace an output.
        progress: Called after every part (chunks); see ``geossl.progress``.
        settings: ``min_points`` (64; blocks with fewer are nodata), ``batch_size`` (32 blocks at a time), ``chunk_m``
            (1000, side of the squares that are held in memory at a time); the last two do not change values.

    Raises:
        MissingFileError: If there is no scan.
        GridError: If the CRS is not known, not in metres, or differs between files.
        WeightsError: If the encoder is of another kind.
        InputError: If a value does not fit; nothing was written.
    """
    chosen = ScanSettings(**checked_settings(settings, SETTINGS, "points.embed"))
    out = check_output(out, (".tif",), overwrite=overwrite)
    check_values(cell_m=cell_m, crs=crs)
    model = of_scans(encoder if isinstance(encoder, Encoder) else load_encoder(encoder))
    blocks = block_settings(model.spec, chosen.min_points)
    cell = blocks.block_m / 2 if cell_m is None else float(cell_m)
    side = chunk_side(blocks.block_m / 2, cell, chosen.chunk_m)
    files = [survey(path) for path in find_files(laz)]
    lattice = Lattice(common_epsg(files, crs), patch_px=1, gsd_m=cell, cell_patches=1)
    row, column, rows, columns = lattice.around(shapely.union_all([shapely.box(*file.bounds) for file in files]))
    filled = 0

    def parts() -> Iterator[RasterBlock]:
        nonlocal filled
        chunks = list(chunks_over(lattice.cell_m, row, column, rows, columns, side))
        for number, (where, bounds) in enumerate(chunks):
            values = chunk_vectors(model, files, blocks, bounds, (where, (row, column)), cell, chosen.batch_size)
            if values is not None:
                filled += int(np.isfinite(values[0]).sum())
                yield where, values
            if progress:
                progress(number + 1, len(chunks), "chunks")

    tags = {
        "GEOSSL_ENCODER": json.dumps(model.spec.name),
        "GEOSSL_SCANS": json.dumps([file.path.name for file in files]),
        "GEOSSL_BLOCK_M": json.dumps(blocks.block_m),
    }
    d = model.spec.dim // 2
    names = [f"e{i:03d}" for i in range(d)]
    geobox = lattice.patches(row, column, rows, columns)
    write_blocks(out, geobox, parts(), count=d, dtype="float32", nodata=np.nan, names=names, tags=tags)
    if not filled:
        out.unlink()
        raise InputError(f"no block of {blocks.block_m:g} m has min_points={chosen.min_points} points; lower it")
    write_vector_style(out)
    if picture:
        quicklook(raster.open_map(out), out.with_suffix(".png"))
    return Written(out)


def chunk_vectors(
    model: PointEncoder,
    files: Sequence[LasFile],
    settings: BlockSettings,
    bounds: Bounds,
    place: tuple[tuple[slice, slice], tuple[int, int]],
    cell_m: float,
    batch_size: int,
) -> np.ndarray | None:
    """Mean vectors of a chunk's cells, or None where no block has points enough."""
    scan = read_scan(files, model.spec.features, grown(bounds, settings.halo_m))
    (rows, columns), (row, column) = place
    found = [
        inner_vectors(model, np.stack([b.points for b in batch]), np.array([b.centre for b in batch]), batch[0].scale_m)
        for batch in batched(lattice_blocks(scan, bounds, settings), batch_size)
    ]
    if not found:
        return None
    vectors, xy = (np.concatenate(column) for column in zip(*found, strict=True))
    cells = cell_numbers(xy, cell_m, (row + rows.start, column + columns.start))
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    inside = ((cells >= 0) & (cells < shape)).all(axis=1)
    return cell_means(vectors[inside], cells[inside], shape)


def chunks_over(
    cell_m: float, row: int, column: int, rows: int, columns: int, side: int
) -> Iterator[tuple[tuple[slice, slice], Bounds]]:
    """Squares of ``side`` cells anchored at the CRS origin, cut to a raster: where in it, and bounds in metres."""
    for top in range(row // side * side, row + rows, side):
        for left in range(column // side * side, column + columns, side):
            a, b = max(top, row), min(top + side, row + rows)
            c, d = max(left, column), min(left + side, column + columns)
            bounds = (c * cell_m, -b * cell_m, d * cell_m, -a * cell_m)
            yield (slice(a - row, b - row), slice(c - column, d - column)), bounds


def chunk_side(step_m: float, cell_m: float, chunk_m: float) -> int:
    """Cells per side of a chunk, which holds whole cells and whole block steps.

    Raises:
        InputError: If no such chunk is of reasonable size.
    """
    step, cell = round(step_m * 1000), round(cell_m * 1000)
    common = math.lcm(step, cell) if cell else 0
    if not common or common > 100_000 * max(1.0, step_m):
        raise InputError(f"cell_m={cell_m:g} does not go with the encoder's {step_m:g} m steps; use {step_m:g}")
    return max(1, round(chunk_m * 1000 / common)) * common // cell


def batched(blocks: Iterator[Block], size: int) -> Iterator[list[Block]]:
    """Blocks in lists of ``size``."""
    batch: list[Block] = []
    for block in blocks:
        batch.append(block)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
