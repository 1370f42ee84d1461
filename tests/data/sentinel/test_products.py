"""Sentinel products as people have them: SAFE folders, a file per band, several pixel sizes, VV alone."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

import geossl
from geossl.data.sentinel.aligned import SceneFolder, aligned_scenes
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.sentinel.collect import collect, report
from geossl.data.sentinel.rasters import LocalRasters
from geossl.errors import BandError, GridError, Note
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster

SIZES = {"B01": 60, "B05": 20, "B06": 20, "B07": 20, "B8A": 20, "B09": 60, "B11": 20, "B12": 20}
SAFE = "S2A_MSIL2A_20240611T100601_N0510_R022_T31TCJ_20240611T160000.SAFE"
IMAGES = f"{SAFE}/GRANULE/L2A_T31TCJ_A046852_20240611T101204/IMG_DATA"
SIDE = 120


def blocks(band, gsd):
    """A ramp in numbers with +1000, means of squares where pixels are large; the first columns have no data."""
    whole = optical((SIDE, SIDE), add=1000)[S2_BANDS.index(band)]
    n = gsd // 10
    return whole.reshape(SIDE // n, n, SIDE // n, n).mean(axis=(1, 3)).astype(np.uint16)


def write_safe(folder, sizes=(10, 20, 60)):
    """A product folder as ESA delivers it, JPEG 2000 without loss, every band in all sizes it comes in."""
    for band in S2_BANDS:
        for gsd in sizes:
            if gsd < SIZES.get(band, 10):
                continue
            path = folder / IMAGES / f"R{gsd}m/T31TCJ_20240611T100601_{band}_{gsd}m.jp2"
            path.parent.mkdir(parents=True, exist_ok=True)
            numbers = blocks(band, gsd)
            profile = {"driver": "JP2OpenJPEG", "count": 1, "dtype": "uint16", "crs": "EPSG:32631", "QUALITY": "100"}
            shape = {"height": len(numbers), "width": len(numbers), "REVERSIBLE": "YES"}
            with rasterio.open(
                path, "w", transform=Affine(gsd, 0, 500_000, 0, -gsd, 4_600_000), **profile, **shape
            ) as file:
                file.write(numbers, 1)
    picture = folder / IMAGES / "R10m/T31TCJ_20240611T100601_TCI_10m.jp2"
    picture.write_bytes((picture.parent / "T31TCJ_20240611T100601_B02_10m.jp2").read_bytes())
    return folder / SAFE


def grid(top=0, left=0, height=SIDE, width=SIDE):
    return GeoBox((height, width), Affine(10, 0, 500_000 + 10 * left, 0, -10, 4_600_000 - 10 * top), "EPSG:32631")


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    return write_safe(tmp_path_factory.mktemp("product") / "s2")


@pytest.mark.parametrize("level", [0, 1])
def test_a_product_folder_gives_reflectance_of_every_band_from_its_finest_file(safe, level):
    source = LocalRasters({"s2": [[safe, safe.parent][level]]})
    (file,) = source.files["s2"]
    assert (file.offset, file.date, file.level, file.geobox.shape) == (-1000, "20240611", "L2A", (SIDE, SIDE))
    values = source.load(grid())["s2"].values
    fine = (blocks("B04", 10).astype(np.float32) - 1000) / 10000
    np.testing.assert_array_equal(values[S2_BANDS.index("B04")], fine)
    coarse = (blocks("B11", 20).astype(np.float64) - 1000) / 10000
    between = np.sum(coarse[4:6, 5:7] * np.outer([0.25, 0.75], [0.75, 0.25]))  # a quarter of a large pixel off
    assert values[S2_BANDS.index("B11"), 10, 11] == pytest.approx(between, rel=1e-5)


def test_a_value_does_not_depend_on_how_much_is_read(safe):
    source = LocalRasters({"s2": [safe]})
    whole = source.load(grid())["s2"].values
    for top, left, height, width in ((0, 0, 17, 100), (13, 29, 40, 41), (119, 119, 1, 1)):
        part = source.load(grid(top, left, height, width))["s2"].values
        np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])


def test_a_product_lacking_bands_has_the_others_and_one_lying_elsewhere_is_one_line(tmp_path, safe):
    short = LocalRasters({"s2": [write_safe(tmp_path / "a", sizes=(10, 20))]})
    assert short.bands_of("s2") == tuple(band for band in S2_BANDS if band not in ("B01", "B09"))
    whole = LocalRasters({"s2": [safe]}).load(grid())["s2"]
    found = short.load(grid())["s2"]
    np.testing.assert_array_equal(found, whole.sel(s2_band=list(short.bands_of("s2"))))
    both = LocalRasters({"s2": [tmp_path / "a", safe]}).load(grid())["s2"]
    assert both.sel(s2_band=["B01", "B09"]).isnull().all()  # the first wins; what it lacks is never another band
    folder = tmp_path / "b"
    for band in S2_BANDS:
        left = 500_000 if band != "B12" else 501_000
        write_raster(folder / f"scene_{band}.tif", blocks(band, 10)[None], left=left)
    with pytest.raises(GridError, match="files of scene scene are not on one grid"):
        LocalRasters({"s2": [folder]}, -1000)


@pytest.mark.parametrize("name", ["{band}.tif", "scene.{band}.tiff", "x_20240611_{band}_10m.tif"])
def test_a_file_per_band_is_a_stack_of_them(tmp_path, name):
    stack = write_raster(tmp_path / "stack.tif", optical((SIDE, SIDE), add=1000), BOA_ADD_OFFSET="-1000")
    for band, numbers in zip(S2_BANDS, optical((SIDE, SIDE), add=1000), strict=True):
        write_raster(tmp_path / "d" / name.format(band=band), numbers[None])
    write_raster(tmp_path / "d/SCL.tif", np.ones((1, SIDE, SIDE), np.uint8))
    found = LocalRasters({"s2": [tmp_path / "d"]}, -1000)
    np.testing.assert_array_equal(found.load(grid())["s2"], LocalRasters({"s2": [stack]}).load(grid())["s2"])
    with pytest.raises(BandError, match=r"whether Sentinel-2 numbers carry the \+1000"):
        LocalRasters({"s2": [tmp_path / "d"]})


def test_a_stack_whose_name_ends_like_a_band_stays_a_stack(tmp_path):
    stack = write_raster(tmp_path / "all_B12.tif", optical((SIDE, SIDE)), BOA_ADD_OFFSET="0")
    assert LocalRasters({"s2": [stack]}).files["s2"][0].bands == tuple(range(1, 13))


def test_pretraining_reads_products_bands_and_vv_alone(tmp_path, safe):
    folder = tmp_path / "scenes"
    (folder / "s2").mkdir(parents=True)
    (folder / "s2" / SAFE).symlink_to(safe)
    numbers = radar((SIDE, SIDE))
    write_raster(folder / "s1/a_VV.tif", numbers[:1])
    with pytest.warns(Note, match="1 of 1 s1 files have no VH, which is left empty there"):
        data = SentinelChips(folder, 24, 4, 2)
    batch = next(iter(data.train_dataloader()))
    assert batch["valid"].all()
    assert torch_finite(batch["s1"][:, 0])
    assert not torch_finite(batch["s1"][:, 1:]).any()
    found = collect(folder, ("s1", "s2"))
    assert "1 without VH, which is left empty" in report(found)
    assert "s2        1 files taken (L2A 1)" in report(found)
    (folder / "s1/a_VV.tif").unlink()
    for band, layer in zip(("VV", "VH"), numbers, strict=True):
        write_raster(folder / f"s1/a_{band}.tif", layer[None])
    scenes = aligned_scenes(SceneFolder(folder))
    np.testing.assert_array_equal(scenes[0].chip(0, 0, 0, 16)["s1"].numpy(), numbers[:, :16, :16])


def torch_finite(x):
    return np.isfinite(x.numpy()).all() if x.shape[1:2] != (1,) else np.isfinite(x.numpy())


def test_a_map_of_a_product_is_that_of_its_stack(tmp_path, safe):
    cube = geossl.cube(grid(), geossl.Rasters(s2=safe))
    assert list(cube["s2_band"].values) == list(S2_BANDS)
    assert np.isfinite(cube["s2"].values).all()
