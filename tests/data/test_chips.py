import random

import numpy as np
import pytest
import shapely
import torch

from geossl.data import sentinel
from geossl.data.bands import S2_BANDS
from geossl.data.chips import ChipDataset, resized, turned
from geossl.data.datamodule import SentinelChips
from geossl.data.labels import class_names, majority
from geossl.data.samplers import GridChips, RandomChips, split
from geossl.data.sentinel import SAMPLE, aligned_scenes
from geossl.data.ssl4eo import SSL4EO
from geossl.data.statistics import BandStatistics, streaming_statistics
from geossl.errors import GridError, InputError, MissingFileError
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
    write_raster(folder / "s2/a_20200101.tif", optical(), epsg=4326, left=3.0, top=41.5, gsd=1e-4, **TAGGED)
    with pytest.raises(GridError, match="is in degrees; warp it to UTM first"):
        aligned_scenes(folder)


def queries(sampler):
    return [(c.scene, c.row, c.top, c.left, c.size) for c in sampler]


def test_draws_depend_on_seed_and_number_only(folder):
    scenes = aligned_scenes(folder)
    whole = queries(RandomChips(scenes, 32, 40, seed=3))
    random.seed(1)
    torch.manual_seed(1)
    assert queries(RandomChips(scenes, 32, 40, seed=3)) == whole
    assert queries(RandomChips(scenes, 32, 40, seed=4)) != whole
    assert queries(RandomChips(scenes, 32, 40, seed=3, start=25)) == whole[25:]
    ranks = [queries(RandomChips(scenes, 32, 40, seed=3, rank=r, world_size=2)) for r in (0, 1)]
    assert [ranks[i % 2][i // 2] for i in range(40)] == whole
    assert len(RandomChips(scenes, 32, 41, rank=1, world_size=2)) == 20


def test_chips_lie_inside_the_polygon_not_its_bounding_box(folder):
    scenes = aligned_scenes(folder)
    x, y = 500_000, 4_600_000
    triangle = shapely.Polygon([(x, y), (x + 1200, y), (x, y - 960)])
    for chip in RandomChips(scenes, 24, 100, roi=[[triangle]]):
        square = shapely.box(x + 10 * chip.left, y - 10 * (chip.top + 24), x + 10 * (chip.left + 24), y - 10 * chip.top)
        assert triangle.buffer(0.02).covers(square)


def test_chips_cover_the_whole_footprint(folder):
    seen = np.zeros((96, 120))
    for c in RandomChips(aligned_scenes(folder), 32, 600):
        seen[c.top : c.top + 32, c.left : c.left + 32] += 1
    assert (seen[5:, 5:] > 0).mean() > 0.99


def test_a_chip_larger_than_every_scene_is_refused(folder):
    with pytest.raises(InputError, match="no scene holds a chip of 104 px: the largest usable part is 9[56] px"):
        RandomChips(aligned_scenes(folder), 104, 1)


def test_grid_chips_are_unique_and_do_not_overshoot(folder):
    found = queries(GridChips(aligned_scenes(folder), 32, 16))
    assert len(set(found)) == len(found)
    assert max(c[2] + 32 for c in found) <= 96
    assert max(c[3] + 32 for c in found) <= 120


def test_training_and_held_out_chips_share_no_pixel(folder):
    scenes = aligned_scenes(folder)
    train, held = split(scenes, 0.3)
    assert max(c.left + 32 for c in RandomChips(scenes, 32, 200, roi=train)) <= 84
    assert min(c.left for c in GridChips(scenes, 32, 8, roi=held)) >= 84


def batches(data):
    return [{k: v.nan_to_num(7) for k, v in b.items()} for b in data.train_dataloader()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_change_nothing_even_after_reading_in_the_parent(folder, method, monkeypatch):
    monkeypatch.setattr(sentinel, "IN_MEMORY_BYTES", 0)
    data = SentinelChips(folder, 32, 4, 3)
    alone = batches(data)
    loader = torch.utils.data.DataLoader(
        ChipDataset(data.source, 32), batch_sampler=data.train_dataloader().batch_sampler, num_workers=2,
        multiprocessing_context=method,
    )  # fmt: skip
    assert same([{k: v.nan_to_num(7) for k, v in b.items()} for b in loader], alone)


def test_a_resumed_loader_goes_on_with_the_same_batches(folder):
    whole = batches(SentinelChips(folder, 32, 4, 5))
    resumed = SentinelChips(folder, 32, 4, 5)
    resumed.start_step = 3
    assert same(batches(resumed), whole[3:])


def test_a_mostly_empty_chip_is_drawn_again(tmp_path):
    holed = radar((64, 256))
    holed[:, :, :128] = np.nan
    write_raster(tmp_path / "s1/a.tif", holed)
    write_raster(tmp_path / "s2/a.tif", optical((64, 256)), **TAGGED)
    for batch in SentinelChips(tmp_path, 32, 8, 4).train_dataloader():
        assert batch["valid"].float().mean((1, 2)).min() >= 0.5
        assert torch.equal(batch["valid"], torch.isfinite(batch["s1"]).all(1))


def test_both_sensors_are_turned_alike():
    x = torch.arange(64.0).view(1, 8, 8)
    for quarters in range(4):
        for flip in (False, True):
            out = turned({"s1": x, "s2": x.expand(3, -1, -1)}, quarters, flip)
            assert torch.equal(out["s1"][0], out["s2"][2])
    assert torch.equal(turned({"s1": x}, 1, False)["s1"][0, 0], x[0, :, -1])


def test_resizing_keeps_means_and_lost_pixels():
    x = torch.full((2, 40, 40), -12.0)
    x[:, :, :20] = torch.nan
    out = resized({"s1": x}, 20)["s1"]
    assert torch.isnan(out[:, :, :10]).all()
    assert torch.equal(out[:, :, 10:], torch.full((2, 20, 10), -12.0))


def test_crops_of_any_size_become_chips(folder):
    batch = next(iter(SentinelChips(folder, 32, 6, 1, crop_px=(16, 80)).train_dataloader()))
    assert batch["s1"].shape == (6, 2, 32, 32)
    assert batch["s2"].shape == (6, 12, 32, 32)


def test_bundled_scenes_have_seven_pairs_labels_and_stated_offsets():
    data = SentinelChips("sample", 48, 4, 1, holdout=0.25)
    facts = data.describe()
    assert facts["scenes"] == 7
    assert facts["s2_offsets"]["433D_629L_3_1_20200408.tif"] == [-1000.0, "tag BOA_ADD_OFFSET"]
    (train_images, train_labels), (_, held_labels) = data.labelled_chips()
    assert train_images["s2"].shape[1:] == (12, 48, 48)
    assert (train_labels > 0).sum() > 3000
    assert set(held_labels.unique().tolist()) == {0, 1, 2, 4, 5, 9} - ({0} if (held_labels > 0).all() else set())
    assert class_names(SAMPLE / "labels")[4] == "crops"
    assert sum(p.stat().st_size for p in SAMPLE.rglob("*")) < 8e6


def test_the_majority_of_a_patch_is_its_class():
    labels = np.zeros((8, 24), dtype=np.uint8)
    labels[:, :8] = 3
    labels[:5, 8:16] = 2
    labels[:2, 16:] = 9
    assert majority(labels, 8).tolist() == [[3, 2, 0]]


@pytest.fixture
def ssl4eo(tmp_path):
    for place in ("0000001", "0000002"):
        for season in range(4):
            for band, data in zip(("VV", "VH"), radar((64, 64), season), strict=True):
                write_raster(tmp_path / f"s1/{place}/S1A_2020{season}/{band}.tif", data[None])
            for i, band in enumerate(S2_BANDS):
                step = {"B01": 6, "B09": 6}.get(band, 1 if band in ("B02", "B03", "B04", "B08") else 2)
                side = -(-64 // step)
                data = np.full((1, side, side), 1000 * (i + 1) + season, dtype=np.uint16)
                name = f"B{band[1:].lstrip('0')}"
                write_raster(tmp_path / f"s2a/{place}/2020{season}_T31/{name}.tif", data, gsd=10.0 * step)
    return tmp_path


def test_ssl4eo_pairs_seasons_and_brings_bands_to_ten_metres(ssl4eo):
    source = SSL4EO(ssl4eo, (32, 32))
    seasons = set()
    for number in range(40):
        chip = source.read(number, 0)
        season = round(float(chip["s2"][0, 0, 0]) * 10000) - 1000
        seasons.add(season)
        expected = (1000 * torch.arange(1, 13) + season) / 10000
        torch.testing.assert_close(chip["s2"].mean((1, 2)), expected, atol=1e-6, rtol=0)
        scene = radar((64, 64), season)
        assert np.isin(chip["s1"].numpy(), scene).all()
    assert seasons == {0, 1, 2, 3}


def test_ssl4eo_feeds_the_loader(ssl4eo):
    data = SentinelChips(ssl4eo, 24, 4, 2, crop_px=(16, 48))
    assert [b["s1"].shape for b in data.train_dataloader()] == [(4, 2, 24, 24)] * 2
    assert data.describe()["layout"] == "SSL4EO-S12"
    with pytest.raises(InputError, match="holdout"):
        SentinelChips(ssl4eo, 24, 4, 2, holdout=0.5)


def test_ssl4eo_refuses_unpaired_places(ssl4eo):
    import shutil

    shutil.rmtree(ssl4eo / "s1/0000001/S1A_20200")
    with pytest.raises(InputError, match="place 0000001 has 3 Sentinel-1 and 4 Sentinel-2 scenes"):
        SSL4EO(ssl4eo, (32, 32))


def test_statistics_do_not_depend_on_order_or_grouping():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, 8, 8, generator=g).double() * 5 + 1000
    x[2, 1] = torch.nan
    whole = BandStatistics(3)
    whole.add(x)
    parts = BandStatistics(3)
    for i in reversed(range(10)):
        parts.add(x[i])
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.std, whole.std, rtol=1e-9)
    rows = x.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(whole.mean, np.nanmean(rows, axis=1), rtol=1e-12)
    np.testing.assert_allclose(whole.std, np.nanstd(rows, axis=1), rtol=1e-9)


def test_statistics_of_a_constant_band_can_be_divided_by():
    stats = streaming_statistics([{"s1": torch.full((2, 4, 4), -10.0), "s2": torch.ones(12, 4, 4)}])
    assert stats["s1"] == ([-10.0, -10.0], [1e-6, 1e-6])
