import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from torchgeo import samplers
from torchgeo.datasets import RasterDataset

from geossl import recipe
from geossl.api.pretrain.images import scene_folder
from geossl.data.sentinel import aligned as sentinel
from geossl.data.sentinel.aligned import AlignedScenes, Sentinel1, Sentinel2, aligned_scenes
from geossl.data.sentinel.bands import inspect
from geossl.data.sentinel.collect import in_metres
from geossl.errors import GridError, InputError, MissingFileError, Note
from geossl.sensors import PAIR, S2_BANDS
from tests.data.conftest import optical, radar, write_raster

TAGGED = {"names": S2_BANDS, "BOA_ADD_OFFSET": "0"}


def test_pairs_of_different_dates_and_half_pixels_are_aligned_to_the_optical_grid(folder):
    scene = aligned_scenes(folder)[0]
    found = scene[500_100:500_500, 4_599_400:4_599_900]
    np.testing.assert_array_equal(found["s2"].numpy(), optical()[:, 10:60, 10:50] / np.float32(10000))
    d = radar()
    expected = (d[:, 9:59, 9:49] + d[:, 10:60, 9:49] + d[:, 9:59, 10:50] + d[:, 10:60, 10:50]) / 4
    np.testing.assert_allclose(found["s1"].numpy(), expected, rtol=1e-5)
    assert found["valid"].all()
    assert found["bounds"].tolist() == [500_100, 4_599_400, 500_500, 4_599_900]


def test_a_query_that_hits_nothing_is_an_index_error(folder):
    with pytest.raises(IndexError, match="not found in index"):
        aligned_scenes(folder)[0][0:100, 0:100]


def test_memory_and_files_give_the_same_pixels(folder, monkeypatch):
    from_memory = aligned_scenes(folder)[0].chip(0, 8, 16, 48)
    monkeypatch.setattr(sentinel, "IN_MEMORY_BYTES", 0)
    scene = aligned_scenes(folder)[0]
    from_file = scene.chip(0, 8, 16, 48)
    assert scene.memory is None
    for key in ("s1", "s2", "valid"):
        assert torch.equal(from_memory[key].nan_to_num(9), from_file[key].nan_to_num(9))


def test_each_zone_is_a_dataset_of_its_own(folder):
    write_raster(folder / "s1/b.tif", radar(), epsg=32632)
    write_raster(folder / "s2/b.tif", optical(), epsg=32632, **TAGGED)
    assert sorted(s.crs.to_epsg() for s in aligned_scenes(folder)) == [32631, 32632]


def test_folders_that_cannot_be_used_say_why(folder, tmp_path):
    with pytest.raises(MissingFileError, match="has no folder s1/; it needs"):
        aligned_scenes(tmp_path / "none")
    write_raster(folder / "s1/a_20200105.tif", radar(), left=700_000.0)
    with pytest.raises(InputError, match="no Sentinel-1 file overlaps"):
        aligned_scenes(folder)


def test_scenes_in_degrees_are_cut_on_a_grid_of_metres(folder):
    path = folder / "s2/a_20200101.tif"
    write_raster(path, optical(), epsg=4326, left=3.0, top=41.5, gsd=1e-4, **TAGGED)
    file = in_metres(inspect(path, "s2"), 10.0)
    assert file.grid.crs == "EPSG:32631"
    assert file.grid.resolution.x == 10
    assert file.geobox.crs == "EPSG:4326"


def test_each_sensor_is_a_torchgeo_raster_dataset(folder):
    radar_files = Sentinel1(folder / "s1")
    assert isinstance(radar_files, RasterDataset)
    assert radar_files.res == (10, 10)
    sample = radar_files[500_005:500_205, 4_599_795:4_599_995]
    np.testing.assert_array_equal(sample["image"].numpy(), radar()[:, :20, :20])
    sampler = getattr(samplers, "RandomPatchSampler", None) or samplers.RandomGeoSampler  # the former from 0.10 on
    for query in sampler(Sentinel2(folder / "s2"), size=16, length=3):
        assert Sentinel2(folder / "s2")[query]["image"].shape == (12, 16, 16)


def test_a_torchgeo_query_selects_by_time(folder):
    write_raster(folder / "s2/a_20200601.tif", optical() + np.uint16(100), **TAGGED)
    dataset = Sentinel2(folder / "s2")
    x, y, _ = dataset.bounds
    june = dataset[x, y, pd.Timestamp(2020, 5, 1) : pd.Timestamp(2020, 7, 1)]["image"]
    np.testing.assert_array_equal(june.numpy(), (optical() + np.uint16(100)) / np.float32(10000))
    with pytest.raises(IndexError, match="not found in index"):
        dataset[x, y, pd.Timestamp(2021, 5, 1) : pd.Timestamp(2021, 7, 1)]


def test_files_of_another_zone_are_warped_with_gaps_as_nan_not_zero(folder):
    dataset = Sentinel1(folder / "s1", crs=32632)
    image = dataset[dataset.bounds[0], dataset.bounds[1]]["image"]
    assert 0.02 < image.isnan().float().mean() < 0.5
    assert image.nan_to_num(-12).max() < 0


def test_of_several_radar_files_the_one_nearest_in_date_wins(folder):
    write_raster(folder / "s1/a_20191001.tif", radar(seed=5))
    write_raster(folder / "s1/b_20200102.tif", radar(seed=6))
    scene = aligned_scenes(folder)[0]
    np.testing.assert_array_equal(scene.chip(0, 0, 0, 40)["s1"].numpy(), radar(seed=6)[:, :40, :40])


def test_a_query_is_answered_by_the_row_it_overlaps_most(folder):
    write_raster(folder / "s2/0_20200101.tif", optical(seed=9), left=500_000 - 1200, **TAGGED)
    write_raster(folder / "s1/c.tif", radar(), left=500_000 - 1200)
    scene = aligned_scenes(folder)[0]
    assert len(scene) == 2
    found = scene[500_000:500_200, 4_599_800:4_600_000]["s2"]
    np.testing.assert_array_equal(found.numpy(), optical()[:, :20, :20] / np.float32(10000))


def test_origins_that_are_no_multiple_of_ten_metres_are_copied_bit_exact():
    scene = next(s for s in aligned_scenes("sample") if s.crs.to_epsg() == 32718)
    path = scene.index.iloc[0].reference.path
    with rasterio.open(path) as file:
        expected = np.maximum(file.read().astype(np.float32) - 1000, 0) / np.float32(10000)
    assert scene.index.iloc[0].affine.c % 10 != 0
    chip = scene.chip(0, 0, 0, 224)
    np.testing.assert_array_equal(chip["s2"].numpy(), expected)
    x, y, _ = scene.bounds
    np.testing.assert_array_equal(scene[x, y]["s2"].numpy(), expected)


def test_pixels_held_in_memory_are_not_sent_to_workers(folder):
    scene = aligned_scenes(folder)[0]
    chip = scene.chip(0, 0, 0, 40)
    there = pickle.loads(pickle.dumps(scene))
    assert isinstance(there, AlignedScenes)
    assert "memory" in vars(scene)
    assert "memory" not in vars(there)
    torch.testing.assert_close(there.chip(0, 0, 0, 40), chip, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"gsd": 20.0}, "has pixels of 20 x 20 m on the ground; expected 10 m: warp it first"),
        ({"epsg": 2263, "left": 1_000_000.0, "top": 200_000.0}, "has pixels of 3.05 x 3.05 m on the ground"),
        ({"epsg": 3857, "left": 1_449_000.0, "top": 8_399_000.0}, "has pixels of 5 x 5 m on the ground"),
    ],
)
def test_training_scenes_have_the_pixels_of_their_sensor(tmp_path, place, message):
    write_raster(tmp_path / "s1/a.tif", radar(), **place)
    write_raster(tmp_path / "s2/a.tif", optical(), names=S2_BANDS, BOA_ADD_OFFSET="0", **place)
    with pytest.raises(GridError, match=message):
        aligned_scenes(tmp_path)


def test_stacks_without_names_are_read_as_the_recipe_states(folder, tmp_path):
    order = [*S2_BANDS[:8], *S2_BANDS[9:], "B8A"]  # files sorted by name
    shutil.copytree(folder, tmp_path / "scenes")
    for path in (tmp_path / "scenes" / "s2").glob("*.tif"):
        with rasterio.open(path) as file:
            data, profile, tags = file.read(), file.profile, file.tags()
        with rasterio.open(path, "w", **profile) as file:
            file.write(data[[S2_BANDS.index(band) for band in order]])
            file.update_tags(**tags)
    with pytest.raises(InputError, match=r"bands without names; .* \(recipe: data.s2_bands\)"):
        aligned_scenes(tmp_path / "scenes")
    page = recipe.load("croma", [f"data.source={tmp_path / 'scenes'}", f"data.s2_bands=[{','.join(order)}]"])
    found = aligned_scenes(scene_folder(page, PAIR))
    for one, right in zip(found, aligned_scenes(folder), strict=True):
        for row in range(len(right.index)):
            pixels = [scene.read(scene.index.iloc[row], scene.index.iloc[row].reference.grid) for scene in (one, right)]
            torch.testing.assert_close(pixels[0]["s2"], pixels[1]["s2"], equal_nan=True, rtol=0, atol=0)
    with pytest.raises(InputError, match="data.s2_bands 2 names no band of s2"):
        scene_folder(recipe.load("croma", ["data.s2_bands=['2']"]), PAIR)


def test_files_without_a_partner_are_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "scenes")
    write_raster(tmp_path / "scenes" / "s1" / "far.tif", radar(), left=700_000.0)
    write_raster(tmp_path / "scenes" / "s2" / "zone.tif", optical(), epsg=32650, **TAGGED)
    with pytest.warns(Note) as notes:
        found = aligned_scenes(tmp_path / "scenes")
    texts = [str(note.message) for note in notes]
    assert any(
        "1 of" in text and "s1 files overlap none of the other sensors and are left out: far.tif" in text
        for text in texts
    )
    assert any("s2 files overlap none of the other sensors and are left out: zone.tif" in text for text in texts)
    assert sum(len(scene.index) for scene in found) == sum(len(scene.index) for scene in aligned_scenes(folder))
