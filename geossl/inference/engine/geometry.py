"""How much an encoder sees at once in a map, and what of it is kept: windows, or large blocks with local attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geossl.errors import GridError
from geossl.models.encoder import DenseModel, DenseSpec, LocalModel

CELL = 16  # side of a cell in patches: what a region's border decides about
BLOCK = 8  # side of a block in cells: 1024 px for patches of 8 px
HALO = 24  # patches around a block that are encoded with it: three tiles; with two, classes change at its borders
MOST_HALO = 64  # of a map that is resumed; a plan that says more is damaged


@dataclass(frozen=True)
class Geometry:
    """Squares that are encoded at once; the same for the same place, whatever is asked for.

    Args:
        reach: Farthest patch a token attends to, in row and in column; None = the whole square.
        cell_px: Side of a lattice cell.
        block_cells: Side of the square that is kept, in cells.
        halo_px: Pixels around that square which are seen and not kept.
    """

    reach: int | None
    cell_px: int
    block_cells: int
    halo_px: int

    @property
    def block_px(self) -> int:
        """Side of what is kept of a square."""
        return self.cell_px * self.block_cells

    @property
    def window_px(self) -> int:
        """Side of what is seen."""
        return self.block_px + 2 * self.halo_px

    def describe(self) -> dict[str, Any]:
        """What a plan records; as geossl 0.1 wrote it where attention has no reach."""
        metadata: dict[str, Any] = {"window_px": self.window_px, "margin_px": self.halo_px}
        return metadata if self.reach is None else {**metadata, "reach": self.reach}


def geometry(spec: DenseSpec, reach: int | None, halo_px: int | None = None) -> Geometry:
    """Windows as the spec has them, or blocks for attention of some reach; with the halo of a map that was begun."""
    if reach is None:
        return Geometry(None, spec.window_px - 2 * spec.margin_px, 1, spec.margin_px)
    return Geometry(reach, CELL * spec.patch_px, BLOCK, halo_px or HALO * spec.patch_px)


def begun_halo(spec: DenseSpec, before: Mapping[str, Any]) -> int | None:
    """Halo in pixels that the plan of a map that was begun with local attention names; None if it names none."""
    halo_px = before.get("margin_px") if before.get("reach") else None
    is_possible = type(halo_px) is int and 0 < halo_px <= MOST_HALO * spec.patch_px and halo_px % spec.patch_px == 0
    return halo_px if is_possible else None


def own_geometry(spec: DenseSpec) -> Geometry:
    """The geometry an encoder maps with unless it is asked for another."""
    return geometry(spec, spec.reach)


def check_reach(encoder: DenseModel, reach: int | None) -> None:
    """Refuse a reach that an encoder cannot have.

    Raises:
        GridError: Says why, and what to do.
    """
    if reach is None:
        return
    if isinstance(reach, bool) or not isinstance(reach, int) or reach < 1:
        raise GridError(f"--reach {reach} is not a number of patches; use 1 or more, such as 7, or none")
    if not isinstance(encoder, LocalModel) or not encoder.has_relative_positions:
        raise GridError(
            f"--reach {reach} needs an encoder with relative positions only, such as CROMA; "
            f"{encoder.spec.name} maps with whole windows (--reach none)"
        )
