"""The lattice for any region: cells cover it, lie where every other map has them, and leave no gap."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geossl.grid import Aoi, Lattice, by_zone

lattices = st.builds(
    Lattice,
    epsg=st.sampled_from([32631, 32718]),
    patch_px=st.sampled_from([4, 8, 16]),
    gsd_m=st.sampled_from([2.5, 10.0, 20.0, 30.0]),
    cell_patches=st.integers(1, 12),
)
cells = st.tuples(st.integers(-3000, 3000), st.integers(-3000, 3000))


@st.composite
def places(draw):
    """A lattice and a convex region of 0.02 to 12 cells a side, some with a corner on the lattice."""
    lattice = draw(lattices)
    row, column = draw(cells)
    x, y = ((n + draw(st.sampled_from([0, 0.25, 0.999]))) * lattice.cell_m for n in (column, row))
    w, h = (draw(st.floats(0.02, 12)) * lattice.cell_m for _ in "xy")
    square = shapely.box(x, y, x + w, y + h)
    return lattice, draw(st.sampled_from([square, shapely.Polygon([(x, y), (x + w, y), (x, y + h)])]))


def outline(lattice, row, column, rows, columns):
    return shapely.box(
        *lattice.box(row + rows - 1, column).bounds[:2], *lattice.box(row, column + columns - 1).bounds[2:]
    )


@given(places())
def test_cells_around_a_region_cover_it_and_none_is_too_many(place):
    lattice, area = place
    row, column, rows, columns = lattice.around(area)
    assert outline(lattice, row, column, rows, columns).buffer(1e-6 * lattice.cell_m).covers(area)
    left, bottom, right, top = area.bounds
    for side, length in ((rows, top - bottom), (columns, right - left)):
        assert side * lattice.cell_m < length + 2 * lattice.cell_m


@given(places())
def test_touched_cells_cover_the_region_and_share_area_with_it(place):
    lattice, area = place
    row, column, rows, columns = lattice.around(area)
    touched = lattice.touched(area, row, column, rows, columns)
    boxes = {(r, c): lattice.box(row + r, column + c) for r in range(rows) for c in range(columns)}
    shared = {at: area.intersection(box).area for at, box in boxes.items()}
    tolerance = 1e-9 * lattice.cell_m**2
    assert sum(shared[r, c] for r, c in np.argwhere(touched).tolist()) == pytest.approx(area.area, rel=1e-6)
    assert all(touched[at] for at, size in shared.items() if size > tolerance)
    assert all(shared[r, c] > 0 or size_of_touch(area, boxes[r, c]) for r, c in np.argwhere(touched).tolist())


def size_of_touch(area, box):
    """Whether rounding alone decides: the region comes within a millimetre of the cell."""
    return area.distance(box) < 1e-3


@given(places(), st.integers(1, 5))
def test_a_square_of_cells_is_touched_where_one_of_its_cells_is(place, step):
    lattice, area = place
    row, column, rows, columns = lattice.around(area)
    fine = lattice.touched(area, row, column, rows, columns)
    coarse = lattice.touched(area, row, column, rows, columns, step=step)
    assert coarse.shape == (math.ceil(rows / step), math.ceil(columns / step))
    for r, c in np.ndindex(*coarse.shape):
        assert coarse[r, c] == fine[r * step : (r + 1) * step, c * step : (c + 1) * step].any()


@given(lattices, cells)
def test_a_cell_is_anchored_at_the_origin_of_the_crs(lattice, cell):
    left, bottom, right, top = lattice.box(*cell).bounds
    assert (left, top) == (cell[1] * lattice.cell_m, -cell[0] * lattice.cell_m)
    assert lattice.around(lattice.box(*cell)) == (*cell, 1, 1)
    assert (right - left, top - bottom) == (lattice.cell_m, lattice.cell_m)


@given(lattices, cells)
def test_neighbours_share_a_border_and_nothing_else(lattice, cell):
    row, column = cell
    here = lattice.box(row, column)
    for other in (lattice.box(row + 1, column), lattice.box(row, column + 1)):
        shared = here.intersection(other)
        assert (shared.area, shared.length) == (0, lattice.cell_m)
    assert here.intersection(lattice.box(row + 1, column + 1)).geom_type == "Point"


@given(lattices, cells, st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_a_cell_has_the_same_pixels_in_whatever_block_it_is_read(lattice, cell, rows, columns, margin):
    (row, column), side = cell, lattice.cell_patches * lattice.patch_px
    block = lattice.pixels(row, column, rows, columns, margin)
    alone = lattice.pixels(row + rows - 1, column + columns - 1, 1, 1, margin)
    y, x = (rows - 1) * side, (columns - 1) * side
    inside = block[y : y + side + 2 * margin, x : x + side + 2 * margin]
    assert inside.shape == alone.shape
    np.testing.assert_allclose(np.array(inside.affine), np.array(alone.affine), rtol=0, atol=1e-6)


@given(lattices, cells, st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_patches_fill_their_cells_at_any_fineness(lattice, cell, rows, columns, phases):
    grid = lattice.patches(*cell, rows, columns, phases)
    assert grid.shape == (rows * lattice.cell_patches * phases, columns * lattice.cell_patches * phases)
    assert grid.resolution.x * phases == lattice.patch_px * lattice.gsd_m
    np.testing.assert_allclose(grid.extent.boundingbox.bbox, outline(lattice, *cell, rows, columns).bounds, atol=1e-6)


@given(st.floats(-179, 160), st.floats(-80, 80), st.floats(0.01, 18), st.floats(0.01, 3))
def test_zones_share_a_region_out_without_loss_or_overlap(west, south, width, height):
    region = shapely.box(west, south, west + width, south + height)
    parts = by_zone(Aoi(region, "x"))
    assert shapely.union_all([p.geometry for p in parts.values()]).area == pytest.approx(region.area)
    assert sum(p.geometry.area for p in parts.values()) == pytest.approx(region.area)
    for epsg, part in parts.items():
        middle = 6 * (epsg % 100) - 183
        assert part.geometry.bounds[0] >= middle - 4.5 - 1e-9
        assert part.geometry.bounds[2] <= middle + 4.5 + 1e-9
