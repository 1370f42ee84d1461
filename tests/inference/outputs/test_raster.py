"""Maps opened: on finer cells, at coarser levels."""

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr_cm
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from scipy.ndimage import map_coordinates
from xarray.plot.utils import label_from_attrs

import geossl
from geossl.errors import GridError, InputError
from geossl.inference.engine.run import embed_map
from geossl.inference.outputs.raster import zoomed
from tests.inference.conftest import Memory
from tests.inference.engine.test_map import tree


def test_zoom_at_the_edges_repeats_the_outermost_cells():
    rng = np.random.default_rng(0)
    grid = GeoBox((6, 9), Affine(80, 0, 500_000, 0, -80, 4_600_000), "EPSG:32631")
    coarse = xr.DataArray(
        rng.normal(size=(3, 6, 9)).astype(np.float32),
        dims=("embedding", "y", "x"),
        coords={"embedding": np.arange(3), **xr_coords(grid)},
    )
    y, x = np.meshgrid(*((np.arange(4 * n) + 0.5) / 4 - 0.5 for n in (6, 9)), indexing="ij")
    expected = np.stack([map_coordinates(band, [y, x], order=1, mode="nearest") for band in coarse.values])
    for chunks in ({}, {"y": 2, "x": 5}, {"y": 1, "x": 1}):
        np.testing.assert_allclose(zoomed(coarse.chunk(chunks), 20.0).values, expected, atol=1e-6)


def test_zoom_is_bilinear_and_keeps_nodata_where_it_is(place):
    coarse, fine = geossl.open(place / "m.zarr"), geossl.open(place / "m.zarr", gsd_m=10.0)
    assert fine.chunks is not None
    assert fine.odc.geobox == coarse.odc.geobox.zoom_out(1 / 8)
    own = np.kron(np.isfinite(coarse.values[0]), np.ones((8, 8), bool))
    values = fine.values
    np.testing.assert_array_equal(np.isfinite(values[0]), own)
    inner = coarse.values[:, 4:16, 4:16]
    assert np.isfinite(inner).all()
    where = (np.arange(12 * 8) + 0.5) / 8 - 0.5
    y, x = np.meshgrid(where, where, indexing="ij")
    for band in (0, 7, 31):
        expected = map_coordinates(inner[band], [y, x], order=1, mode="nearest")
        np.testing.assert_allclose(values[band, 32:128, 32:128][8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-5)


def test_zoom_does_not_depend_on_chunks(place):
    whole = geossl.open(place / "m.zarr").compute()
    one = zoomed(whole.chunk(x=5, y=7), 20.0).values
    np.testing.assert_array_equal(one, zoomed(whole.chunk(x=40, y=40), 20.0).values)


@pytest.mark.parametrize("gsd_m", [30.0, 100.0, 0.0, -10.0])
def test_zoom_to_what_does_not_divide_is_refused(place, gsd_m):
    with pytest.raises(GridError, match="does not divide"):
        geossl.open(place / "m.zarr", gsd_m=gsd_m)


def test_written_by_rioxarray_a_map_says_what_its_bands_are(place, tmp_path):
    found = geossl.open(place / "m.zarr")
    found.rio.to_raster(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.descriptions[:2] == ("e000", "e001")
        assert np.isnan(file.nodata)
        assert {*file.tags()} == {"AREA_OR_POINT"}


def test_a_plot_of_one_band_does_not_name_all_of_them(place):
    found = geossl.open(place / "m.zarr")
    assert label_from_attrs(found.isel(embedding=0)) == "embedding"
    assert "e001" not in found._repr_html_()


def test_the_reference_system_is_a_coordinate_of_the_store(place):
    data = xr.open_zarr(place / "m.zarr")
    assert "spatial_ref" in data.coords
    assert data["embeddings"].rio.crs.to_epsg() == 32631


def test_bytes_without_a_sign_decode_to_the_same_as_int8(place, tmp_path):
    paths = [geossl.export(place / "m.zarr", tmp_path / f"{kind}.tif", dtype=kind) for kind in ("int8", "uint8")]
    signed, unsigned = (geossl.open(path) for path in paths)
    np.testing.assert_allclose(unsigned, signed, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(unsigned), np.isnan(signed))
    with rasterio.open(paths[1]) as file:
        assert (file.dtypes[0], file.nodata) == ("uint8", 255)
        numbers, known = file.read(1), file.read_masks(1) > 0
        assert numbers[known].max() <= 254
        expected = file.offsets[0] + file.scales[0] * numbers[known]
    np.testing.assert_allclose(expected, geossl.open(paths[0])[0].values[known], atol=1e-5)


def test_a_folder_of_zones_is_named(tmp_path):
    (tmp_path / "utm31n.zarr").mkdir()
    with pytest.raises(InputError, match=r"holds one map per UTM zone; open one of .*utm31n.zarr"):
        geossl.open(tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_overviews_are_means_of_what_is_there(region, croma_file, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("geossl.inference.engine.overviews.LEAST", 16)
    monkeypatch.setattr("geossl.inference.engine.overviews.BLOCK", 8)
    (path,) = embed_map(region, Memory(), croma_file, tmp_path / "m.zarr", shard_cells=3, dtype=dtype)
    (again,) = embed_map(region, Memory(), croma_file, tmp_path / "again.zarr", shard_cells=3, dtype=dtype)
    assert tree(path) == tree(again)
    base, half = geossl.open(path), geossl.open(path, level=1)
    assert half.shape == (32, -(-base.shape[1] // 2), -(-base.shape[2] // 2))
    assert half.odc.geobox.resolution.x == 160
    assert half.odc.geobox.transform.c == base.odc.geobox.transform.c
    blocks = base.values[:, :32, :40].reshape(32, 16, 2, 20, 2)
    with np.errstate(invalid="ignore"):
        expected = np.nansum(blocks, axis=(2, 4)) / np.isfinite(blocks[0]).sum((1, 3))
    both = np.isfinite(expected[0])
    np.testing.assert_array_equal(both, np.isfinite(half.values[0, :16, :20]))
    tolerance = 1e-5 if dtype == "float32" else np.nanmax(np.abs(expected)) / 127
    np.testing.assert_allclose(half.values[:, :16, :20][:, both], expected[:, both], atol=tolerance)
    _, found = zarr_cm.multiscales.extract(dict(xr.open_zarr(path).attrs))
    zarr_cm.multiscales.validate(found)
    assert [entry["asset"] for entry in found["layout"]] == [".", "overviews/1", "overviews/2"]
    with pytest.raises(InputError, match="has no overview 3"):
        geossl.open(path, level=3)
