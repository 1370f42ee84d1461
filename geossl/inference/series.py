"""An image series and an encoder to one vector per patch, window by window, on the lattice of all maps of a zone."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import shapely
import torch
from jaxtyping import Float, Int
from odc.geo.geobox import GeoBox

from geossl.grid import Lattice
from geossl.inference.blocks import Block
from geossl.models.encoder import DenseSpec
from geossl.models.series_vit import SeriesViT

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
    encoder: SeriesViT,
    read: Read,
    days: Int[np.ndarray, " t"],
    extent: Extent,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Block]:
    """Embeddings cell by cell, ``(embedding, y, x)`` each; NaN where a patch is usable on no date.

    Every cell is the middle of a window of its own and runs alone, so its values depend neither on the region nor on
    other cells. Memory is that of one window.

    Args:
        encoder: In evaluation mode.
        read: Gives reflectance on a grid.
        days: Since 1 January 2015, one per date.
        extent: What to embed.
        device: Where to run.
        progress: Called with (cells done, cells in all).
    """
    lattice, spec = extent.lattice, encoder.spec
    keep, edge = lattice.cell_patches, spec.margin_px // spec.patch_px
    day = torch.from_numpy(np.asarray(days, dtype=np.float32))[None].to(device)
    for number in range(extent.rows * extent.columns):
        r, c = divmod(number, extent.columns)
        pixels = read(lattice.pixels(extent.row + r, extent.column + c, 1, 1, spec.margin_px))
        with torch.inference_mode():
            tokens = encoder.tokens(torch.from_numpy(pixels)[None].to(device), day)[0].float().cpu().numpy()
        middle = tokens[edge : edge + keep, edge : edge + keep].transpose(2, 0, 1)
        yield (slice(r * keep, (r + 1) * keep), slice(c * keep, (c + 1) * keep)), np.ascontiguousarray(middle)
        if progress:
            progress(number + 1, extent.rows * extent.columns)
