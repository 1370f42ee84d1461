"""An image series and an encoder to one vector per patch, window by window, on the lattice of all maps of a zone."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import shapely
import torch
from jaxtyping import Float, Int
from odc.geo.geobox import GeoBox

from geossl.grid import Lattice
from geossl.inference.outputs.cog import Block
from geossl.models.encoder import DenseSpec, SeriesEncoder
from geossl.models.layers.dates import date_names
from geossl.progress import Progress

READ_PX = 128  # side of a block that is read at once
Read = Callable[[GeoBox], Float[np.ndarray, "t c h w"]]  # pixels of a grid, NaN = not usable


class Extent(NamedTuple):
    """Cells of a lattice: first row and column, and how many of each."""

    lattice: Lattice
    row: int
    column: int
    rows: int
    columns: int

    @property
    def geobox(self) -> GeoBox:
        """Grid of the patches."""
        return self.lattice.patches(*self[1:])


def extent_of(spec: DenseSpec, area: shapely.Geometry, epsg: int) -> Extent:
    """Cells around an area given in the CRS ``epsg``; a cell is what a window keeps."""
    lattice = Lattice(epsg, spec.patch_px, spec.gsd_m, (spec.window_px - 2 * spec.margin_px) // spec.patch_px)
    return Extent(lattice, *lattice.around(area))


def series_blocks(
    encoder: SeriesEncoder,
    read: Read,
    days: Int[np.ndarray, " t"],
    extent: Extent,
    dates: str = "mean",
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[Block]:
    """Embeddings block by block, ``(embedding, y, x)`` each; NaN where a patch is usable on no date.

    Every cell is the middle of a window of its own and runs alone, and blocks lie on the lattice, so values depend
    neither on the region nor on other cells. Memory is that of one block.

    Args:
        encoder: In evaluation mode.
        read: Gives reflectance on a grid.
        days: Since 1 January 2015, one per date.
        extent: What to embed.
        dates: How dates become one vector; see ``geossl.models.layers.dates.join_dates``.
        device: Where to run.
        progress: Called after every part (blocks); see ``geossl.progress``.
    """
    lattice, spec = extent.lattice, encoder.spec
    keep, step = lattice.cell_patches, lattice.cell_patches * spec.patch_px
    day = torch.from_numpy(np.asarray(days, dtype=np.float32))[None].to(device)
    side, width = max(1, READ_PX // step), len(date_names(dates, spec.dim, [""] * len(days)))
    tops, lefts = aligned(extent.row, extent.rows, side), aligned(extent.column, extent.columns, side)
    for number, (top, left) in enumerate(product(tops, lefts)):
        pixels = torch.from_numpy(read(lattice.pixels(top, left, side, side, spec.margin_px)))
        rows = range(max(top, extent.row), min(top + side, extent.row + extent.rows))
        columns = range(max(left, extent.column), min(left + side, extent.column + extent.columns))
        values = np.empty((width, len(rows) * keep, len(columns) * keep), np.float32)
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            y, x = (row - top) * step, (column - left) * step
            window = pixels[None, :, :, y : y + spec.window_px, x : x + spec.window_px].to(device)
            found = middle(encoder, window, day, dates)
            values[:, i * keep : (i + 1) * keep, j * keep : (j + 1) * keep] = found
        y, x = (rows.start - extent.row) * keep, (columns.start - extent.column) * keep
        yield (slice(y, y + values.shape[1]), slice(x, x + values.shape[2])), values
        if progress:
            progress(number + 1, len(tops) * len(lefts), "blocks")


def aligned(first: int, count: int, side: int) -> range:
    """Starts of the blocks of ``side`` cells, counted from the lattice's origin, that hold some of ``count`` cells."""
    return range(first // side * side, first + count, side)


@torch.inference_mode()
def middle(
    encoder: SeriesEncoder, window: Float[torch.Tensor, "1 t c h w"], day: Float[torch.Tensor, "1 t"], dates: str
) -> Float[np.ndarray, "e k k"]:
    """What is kept of a window."""
    edge = encoder.spec.margin_px // encoder.spec.patch_px
    tokens = encoder.tokens(window, day, dates)[0].float().cpu().numpy()
    return tokens[edge : len(tokens) - edge, edge : tokens.shape[1] - edge].transpose(2, 0, 1)
