import geopandas as gpd
import libpysal.graph
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from geossl.api.graphs.build import graph_from_geodataframe, graph_from_raster
from geossl.data.graphs.files import read_graph
from geossl.data.graphs.geometry import neighbours
from geossl.data.graphs.superpixels import image_graphs, majorities, segments, touching, union_of
from geossl.errors import GridError, InputError, Note

SQUARES = [shapely.box(x, y, x + 100, y + 100) for y in (0, 100) for x in (500_000, 500_100)]


def frame_of(places=SQUARES, crs=32633, **columns):
    places = list(places)
    columns = columns or {"a": np.arange(len(places), dtype=float)}
    return gpd.GeoDataFrame(columns, geometry=places, crs=crs)


def pairs(graph):
    return sorted((int(a), int(b)) for a, b in graph.edge_index.T if a < b)


def raster_of(values, size_m=100.0, crs="EPSG:32633", left=500_000, top=200):
    values = np.asarray(values, dtype=np.float32)
    box = GeoBox(values.shape[1:], Affine(size_m, 0, left, 0, -size_m, top), crs)
    names = [f"b{i}" for i in range(len(values))]
    return xr.DataArray(values, dims=("band", "y", "x"), coords={"band": names, **xr_coords(box, dims=("y", "x"))})


def test_four_squares_touch_at_sides_and_at_the_corner():
    assert pairs(graph_from_geodataframe(frame_of())) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs(graph_from_geodataframe(frame_of(), edges="rook")) == [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_outlines_that_cross_themselves_have_neighbours_too():
    bow = shapely.Polygon([(500_100, 100), (500_200, 200), (500_200, 100), (500_100, 200)])  # a triangle at either side
    graph = graph_from_geodataframe(frame_of([*SQUARES[:3], bow]), edges="rook")
    assert pairs(graph) == [(0, 1), (0, 2), (2, 3)]


def test_gaps_are_bridged_when_asked_and_told_when_not():
    apart = frame_of([shapely.box(x * 10.001, 0, x * 10.001 + 10, 10) for x in range(4)])
    with pytest.warns(Note, match="100 % of 4 nodes have no neighbour by edges='contiguity'; gaps are bridged"):
        assert pairs(graph_from_geodataframe(apart)) == []
    assert pairs(graph_from_geodataframe(apart, edges="contiguity:0.01")) == [(0, 1), (1, 2), (2, 3)]


def test_distances_are_metres_between_outlines_also_for_points_and_lines():
    places = [
        shapely.Point(500_000, 0),
        shapely.LineString([(500_400, 0), (500_900, 0)]),
        shapely.box(501_500, 0, 501_600, 9),
    ]
    frame = frame_of(places)
    assert pairs(graph_from_geodataframe(frame, edges="distance:500")) == [(0, 1)]
    assert pairs(graph_from_geodataframe(frame, edges="distance:600")) == [(0, 1), (1, 2)]
    assert pairs(graph_from_geodataframe(frame.to_crs(4326), edges="distance:500")) == [(0, 1)]


@pytest.fixture
def scattered():
    rng = np.random.default_rng(0)
    return frame_of([shapely.Point(*p) for p in rng.uniform(0, 1000, (40, 2)) + np.array([500_000, 0])])


def of_libpysal(graph):
    return sorted({tuple(sorted((int(a), int(b)))) for a, b in graph.adjacency.index if a != b})


@pytest.mark.parametrize("k", [1, 5])
def test_nearest_neighbours_equal_libpysal(scattered, k):
    ours = graph_from_geodataframe(scattered, edges=f"knn:{k}")
    assert pairs(ours) == of_libpysal(libpysal.graph.Graph.build_knn(scattered, k=k))


@pytest.mark.parametrize("is_rook", [True, False])
def test_contiguity_equals_libpysal(scattered, is_rook):
    cells = frame_of(shapely.voronoi_polygons(scattered.union_all()).geoms)
    ours = graph_from_geodataframe(cells, edges="rook" if is_rook else "contiguity")
    assert pairs(ours) == of_libpysal(libpysal.graph.Graph.build_contiguity(cells, rook=is_rook))


def test_columns_and_labels():
    frame = frame_of(a=[1.0, 2, 3, 4], b=[5, 6, 7, 8], crop=["rye", "oats", None, "rye"])
    graph = graph_from_geodataframe(frame, labels="crop")
    assert graph.x.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert graph.names == ("a", "b")
    assert graph.y.tolist() == [1, 0, -1, 1]
    assert graph.classes == ("oats", "rye")
    assert graph_from_geodataframe(frame, ["b"]).x.tolist() == [[5], [6], [7], [8]]
    assert len(read_graph(graph).frame) == 4


def test_smoothing_averages_a_node_and_its_neighbours():
    graph = graph_from_geodataframe(frame_of(), edges="rook", smooth=1)
    assert graph.x.flatten().tolist() == pytest.approx([1, 4 / 3, 5 / 3, 2])


def test_a_raster_is_averaged_under_every_place():
    raster = raster_of([[[10, 20], [30, 40]], [[1, 2], [3, 4]]])
    graph = graph_from_geodataframe(frame_of(), raster)
    assert graph.x.tolist() == [[30, 3], [40, 4], [10, 1], [20, 2]]
    assert graph.names == ("b0", "b1")
    wide = frame_of([shapely.box(500_000, 0, 500_200, 100), shapely.box(500_000, 100, 500_100, 200)])
    assert graph_from_geodataframe(wide, raster).x[:, 0].tolist() == [35, 10]
    tiny = frame_of([shapely.box(500_110, 110, 500_112, 112), shapely.Point(500_050, 20)])
    assert graph_from_geodataframe(tiny, raster, "distance:9999").x[:, 0].tolist() == [20, 30]
    degrees = frame_of().to_crs(4326)
    assert graph_from_geodataframe(degrees, raster).x.tolist() == graph.x.tolist()


def test_cells_without_data_are_left_out_and_places_without_cells_refused():
    raster = raster_of([[[np.nan, 20], [30, 40]]])
    left = [shapely.box(500_000, 0, 500_100, 200), shapely.box(500_100, 0, 500_200, 200)]
    assert graph_from_geodataframe(frame_of(left), raster).x.flatten().tolist() == [30, 30]
    with pytest.raises(InputError, match=r"1 of 4 places \(row 2 first\) have no valid cell"):
        graph_from_geodataframe(frame_of(), raster)


@pytest.mark.parametrize(
    ("frame", "settings", "error", "message"),
    [
        (frame_of(crs=None), {}, GridError, "has no CRS, so its distances mean nothing"),
        (frame_of([]), {}, GridError, "has no rows"),
        (frame_of([SQUARES[0], None]), {}, GridError, "row 1 of the GeoDataFrame has no geometry"),
        (frame_of(), {"edges": "touch"}, InputError, "edges='touch' is not understood; expected contiguity"),
        (frame_of(), {"edges": "knn"}, InputError, "not understood"),
        (frame_of(), {"edges": "knn:4"}, InputError, "needs more than 4 places"),
        (frame_of(), {"edges": "distance:-5"}, InputError, "not understood"),
        (frame_of(), {"edges": "distance:near"}, InputError, "not understood"),
        (frame_of([shapely.Point(0, 0)]), {}, InputError, "points do not touch; use knn:K"),
        (frame_of(), {"features": ["z"]}, InputError, "name 'z', which is not a column; there are a"),
        (frame_of(a=list("wxyz")), {"features": "a"}, InputError, "holds no numbers"),
        (frame_of(a=list("wxyz")), {}, InputError, "no attribute of numbers"),
        (frame_of(a=[1, 2, 3, np.nan]), {}, InputError, "column 'a' is missing or infinite in 1 of 4 rows"),
        (frame_of(a=[1j, 2, 3, 4]), {"features": "a"}, InputError, "holds no numbers"),
        (frame_of().rename(columns={"a": 7}), {"features": "z"}, InputError, "are 7"),
        (pd.concat([frame_of(), frame_of()[["a"]]], axis=1), {}, InputError, "several columns 'a'"),
        (frame_of([shapely.Point(500_000, 0)], crs=4326), {}, GridError, "no UTM zone fits.*those of WGS 84?"),
        (frame_of(), {"edges": "knn:2.7"}, InputError, "not understood"),
        (frame_of(), {"edges": "knn:nan"}, InputError, "not understood"),
        (frame_of(), {"edges": "distance:inf"}, InputError, "not understood"),
        (frame_of(), {"labels": "crop"}, InputError, "labels name 'crop', which is not a column"),
    ],
)
def test_what_makes_no_graph_is_refused(frame, settings, error, message):
    with pytest.raises(error, match=message):
        graph_from_geodataframe(frame, **settings)


def quarters(size=24):
    """Four fields of different brightness, with a little noise."""
    rng = np.random.default_rng(0)
    field = np.kron([[0.1, 0.4], [0.7, 1.0]], np.ones((size // 2, size // 2)))
    return raster_of([field + rng.normal(0, 0.01, field.shape), 1 - field], size_m=10, top=240)


def test_superpixels_cover_the_image_and_follow_the_fields():
    pixels = quarters()
    graph = graph_from_raster(pixels, segment_px=36, compactness=0.05)
    assert 8 <= graph.num_nodes <= 32
    assert float(graph.frame.area.sum()) == 240 * 240
    inside = graph.frame.area.groupby((10 * graph.x[:, 0]).round().int().numpy()).sum()
    assert inside.to_dict() == {1: 14400, 4: 14400, 7: 14400, 10: 14400}
    assert graph.names == ("b0 mean", "b1 mean", "b0 std", "b1 std")
    assert float(graph.x[:, 2].max()) < 0.03


def test_neighbours_of_superpixels_are_those_whose_pixels_touch():
    graph = graph_from_raster(quarters(), segment_px=36)
    ids = segments(quarters().values, 36, 0.1)
    table = set()
    for a, b in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        table |= {tuple(sorted((int(i), int(j)))) for i, j in zip(a[a != b], b[a != b], strict=True)}
    order = {number: i for i, number in enumerate(np.unique(ids))}
    assert pairs(graph) == sorted((order[i], order[j]) for i, j in table)


def test_pairs_that_touch_are_written_down_and_equal_those_of_outlines():
    ids = np.array([[0, 0, 1], [2, 0, 1], [2, 2, -1]])
    assert touching(ids).tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    graph = graph_from_raster(quarters(), segment_px=20)
    by_outline = neighbours(graph.frame.geometry.to_numpy(), "rook")
    assert sorted(zip(*by_outline.tolist(), strict=True)) == sorted(zip(*graph.edge_index.tolist(), strict=True))


def test_images_become_graphs_of_their_own():
    images = [torch.from_numpy(quarters(size).values.astype(np.float32)) for size in (24, 12)]
    graph = image_graphs(images, segment_px=36)
    assert graph.batch.unique().tolist() == [0, 1]
    assert torch.equal(graph.batch[graph.edge_index[0]], graph.batch[graph.edge_index[1]])
    alone = image_graphs(images[1:], segment_px=36)
    assert torch.equal(graph.x[graph.batch == 1], alone.x)
    whole = graph_from_raster(quarters(), segment_px=36)
    torch.testing.assert_close(graph.x[graph.batch == 0], whole.x)
    with pytest.raises(InputError, match="no pixel of the image is usable"):
        image_graphs([images[0] * torch.nan])


def test_pixels_without_data_belong_to_no_superpixel():
    pixels = quarters()
    pixels[0, :6, :6] = np.nan
    graph = graph_from_raster(pixels, segment_px=36)
    assert float(graph.frame.area.sum()) == 240 * 240 - 3600
    with pytest.raises(InputError, match="no pixel of the image is usable"):
        graph_from_raster(pixels * np.nan)
    with pytest.raises(InputError, match="in degrees; superpixels need metres"):
        graph_from_raster(raster_of(quarters().values, 1e-4, "EPSG:4326", 15, 50))


def test_a_superpixel_gets_the_commonest_class():
    ids = np.array([[0, 0, 0, 1], [0, 1, 1, 1], [2, 2, 2, -1]])
    labels = np.array([[3, 3, 1, 2], [3, 2, 0, 0], [0, 0, 1, 9]], dtype=np.uint8)
    assert majorities(labels, ids, 3).tolist() == [2, -1, -1]


def test_places_of_several_zones_are_one_graph_without_edges_between():
    one = graph_from_geodataframe(frame_of())
    other = graph_from_geodataframe(frame_of(crs=32634))
    both = union_of([one, other])
    assert both.batch.tolist() == [0] * 4 + [1] * 4
    assert pairs(both) == pairs(one) + [(a + 4, b + 4) for a, b in pairs(one)]
    assert both.frame.crs == "EPSG:4326"
    assert torch.equal(both.x[:4], one.x)
