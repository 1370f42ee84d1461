"""Maps as GeoParquet tables."""

import json

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import geossl
from geossl.errors import InputError, Note
from geossl.inference.outputs.geoparquet import to_degrees
from tests.inference.conftest import features, square
from tests.schemas import check


def test_a_table_of_patches_can_be_read_by_place(place, tmp_path):
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet")
    stored, frame = geossl.open(place / "m.zarr"), gpd.read_parquet(out)
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_string() == "OGC:CRS84"
    assert len(frame) == np.isfinite(stored.values[0]).sum()
    row = frame.iloc[100]
    epsg, r, c = (int(n) for n in row["id"].split("/"))
    geobox = stored.odc.geobox
    y, x = r + round(geobox.transform.f / 80), c - round(geobox.transform.c / 80)
    np.testing.assert_array_equal(np.asarray(row["embedding"]), stored.values[:, y, x])
    patch = gpd.GeoSeries([row.geometry], crs=4326).to_crs(epsg)[0]
    np.testing.assert_allclose(patch.centroid.coords[0], [stored["x"][x], stored["y"][y]], atol=0.01)
    few = gpd.read_parquet(out, bbox=tuple(row.geometry.buffer(-1e-5).bounds))
    assert row["id"] in set(few["id"])
    assert len(few) <= 9


def test_a_row_per_cell_is_the_mean_of_its_patches(place, tmp_path):
    frame = gpd.read_parquet(geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="tile"))
    stored, valid = geossl.open(place / "m.zarr"), xr.open_zarr(place / "m.zarr")["valid"]
    row = frame[frame["n_patches"] == 16].iloc[3]
    _, r, c = (int(n) for n in row["id"].split("/"))
    y, x = 4 * r + round(stored.odc.geobox.transform.f / 80), 4 * c - round(stored.odc.geobox.transform.c / 80)
    part, weight = stored.values[:, y : y + 4, x : x + 4], valid.values[y : y + 4, x : x + 4] / 100
    np.testing.assert_allclose(np.asarray(row["embedding"]), (part * weight).sum((1, 2)) / weight.sum(), atol=1e-5)
    assert frame["n_patches"].sum() == np.isfinite(stored.values[0]).sum()


def test_a_row_per_feature_weighs_by_area_and_keeps_its_name(place, tmp_path):
    stored = geossl.open(place / "m.zarr")
    left, top = float(stored["x"][6]) - 40, float(stored["y"][9]) + 40
    half = shapely.box(left, top - 80, left + 80 + 40, top)  # one patch, and half of its neighbour
    far = shapely.box(0, 0, 10, 10)
    with pytest.warns(Note, match=r"1 of 2 features .* no row: field 0"):
        out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="aoi", aoi=features(tmp_path, far, half))
    frame = gpd.read_parquet(out)
    assert frame["id"].tolist() == ["field 1"]
    expected = (stored.values[:, 9, 6] + 0.5 * stored.values[:, 9, 7]) / 1.5
    np.testing.assert_allclose(np.asarray(frame["embedding"][0]), expected, atol=1e-3 * np.abs(expected).max())
    assert frame["n_patches"][0] == 2


def test_columns_of_features_are_kept_beside_their_vector(place, tmp_path):
    stored = geossl.open(place / "m.zarr")
    left, top = float(stored["x"][6]) - 40, float(stored["y"][9]) + 40
    shapes = [shapely.box(0, 0, 10, 10), shapely.box(left, top - 80, left + 80, top)]
    columns = {"crop": ["oat", "rye"], "yield_t": [1.5, 2.5], "id": [7, 8]}
    frame = gpd.GeoDataFrame(columns, geometry=shapes, crs=stored.odc.crs.to_wkt())
    with pytest.warns(Note, match="1 of 2 features"):
        out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="aoi", aoi=frame)
    found = gpd.read_parquet(out)
    assert found[["id", "crop", "yield_t"]].values.tolist() == [["8", "rye", 2.5]]
    with pytest.raises(InputError, match="has a column 'valid_fraction', which a result is called"):
        geossl.export(
            place / "m.zarr", tmp_path / "n.parquet", level="aoi", aoi=frame.rename(columns={"crop": "valid_fraction"})
        )


def test_small_and_curved_features_weigh_by_exact_area(place, tmp_path):
    stored, valid = geossl.open(place / "m.zarr"), xr.open_zarr(place / "m.zarr")["valid"].values / 100
    left, top = float(stored["x"][8]) + 40, float(stored["y"][8]) - 40  # where four patches meet
    disc = shapely.Point(left + 1.5, top - 0.5).buffer(2.5)
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="aoi", aoi=features(tmp_path, disc))
    cells = [
        (y, x, shapely.box(left - 80 * (9 - x), top - 80 * (y - 8), left + 80 * (x - 8), top + 80 * (9 - y)))
        for y in (8, 9)
        for x in (8, 9)
    ]
    areas = {(y, x): (box & disc).area for y, x, box in cells}
    assert sum(areas.values()) == pytest.approx(disc.area)
    weights = {at: area * valid[at] for at, area in areas.items()}
    expected = sum(w * stored.values[:, y, x] for (y, x), w in weights.items()) / sum(weights.values())
    (row,) = gpd.read_parquet(out).itertuples()
    np.testing.assert_allclose(np.asarray(row.embedding), expected, atol=5e-3 * np.abs(expected).max())
    assert row.n_patches == 4
    assert row.valid_fraction == pytest.approx(sum(weights.values()) / disc.area, rel=1e-3)


def test_a_table_can_be_clipped_to_a_polygon(place, tmp_path):
    area = square()
    frame = gpd.read_parquet(geossl.export(place / "m.zarr", tmp_path / "m.parquet", aoi=features(tmp_path, area)))
    tif = geossl.open(geossl.export(place / "m.zarr", tmp_path / "m.tif", aoi=tmp_path / "fields.geojson"))
    assert len(frame) == np.isfinite(tif.values[0]).sum() == 100
    assert area.buffer(41).contains(frame.to_crs(32631).union_all())


def test_a_table_keeps_to_its_standard(place, tmp_path):
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="tile")
    header = pq.read_schema(out)
    check(json.loads(header.metadata[b"geo"]), "https://geoparquet.org/v1.1.0/schema.json")
    assert json.loads(header.metadata[b"emb"])["geoemb:dimensions"] == 32
    assert header.field("embedding").type == pa.list_(pa.float32(), 32)


def test_patches_across_the_antimeridian_are_cut_there():
    grid = GeoBox((2, 2), Affine(80, 0, 166_000, 0, -80, 80), "EPSG:32601")  # 180 degrees lies at x = 166021 m
    (patch,) = to_degrees(np.array([grid[:1, :1].extent.geom]), grid)
    assert patch.geom_type == "MultiPolygon"
    assert all(part.bounds[2] - part.bounds[0] < 0.001 for part in patch.geoms)


def test_a_geotiff_gives_the_same_table_but_for_what_it_does_not_know(place, tmp_path):
    tif = geossl.export(place / "m.zarr", tmp_path / "m.tif")
    one, two = (gpd.read_parquet(geossl.export(m, tmp_path / f"{m.suffix}.parquet")) for m in (place / "m.zarr", tif))
    both = one.merge(two, on="id")
    assert len(both) == len(one) == len(two)
    np.testing.assert_array_equal(np.stack(both["embedding_x"]), np.stack(both["embedding_y"]))
    assert (two["valid_fraction"] == 1).all()
    with pytest.raises(InputError, match=r"level tile needs the .zarr map"):
        geossl.export(tif, tmp_path / "o.parquet", level="tile")
