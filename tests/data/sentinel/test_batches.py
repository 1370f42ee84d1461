import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from affine import Affine
from odc.geo.geobox import GeoBox

from geossl.api.pretrain.images import measured_sensors, scene_sensors
from geossl.data.batches import ChipDataset, StepBatches, one_ahead, resized, turned, usable
from geossl.data.labels.ground_truth import label_values, majority
from geossl.data.labels.tags import class_names
from geossl.data.sentinel import aligned as sentinel
from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.sentinel.batches import SentinelChips
from geossl.errors import Note
from geossl.sensors import S2_BANDS, SENSORS
from tests.data.conftest import optical, radar, write_raster

TAGGED = {"names": S2_BANDS, "BOA_ADD_OFFSET": "0"}


def batches(data):
    return [{k: v.nan_to_num(7) for k, v in b.items()} for b in data.train_dataloader()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


@pytest.mark.parametrize(("method", "workers"), [("spawn", 1), ("fork", 2)])  # a spawned one imports torch again
def test_workers_change_nothing_even_after_reading_in_the_parent(folder, method, workers, monkeypatch):
    monkeypatch.setattr(sentinel, "IN_MEMORY_BYTES", 0)
    data = SentinelChips(folder, 32, 4, 3)
    alone = batches(data)
    loader = torch.utils.data.DataLoader(
        ChipDataset(data.source, 32), batch_sampler=data.train_dataloader().batch_sampler, num_workers=workers,
        multiprocessing_context=method,
    )  # fmt: skip
    assert same([{k: v.nan_to_num(7) for k, v in b.items()} for b in loader], alone)


def test_a_resumed_loader_goes_on_with_the_same_batches(folder):
    whole = batches(SentinelChips(folder, 32, 4, 5))
    resumed = SentinelChips(folder, 32, 4, 5)
    resumed.start_step = 3
    assert same(batches(resumed), whole[3:])


def test_the_next_batch_is_made_while_one_is_used():
    begun = threading.Event()

    def items():
        for number in range(3):
            if number == 1:
                begun.set()
            yield number

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert begun.wait(5)
    assert list(ahead) == [1, 2]


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
    metadata = data.describe()
    assert metadata["scenes"] == 7
    assert metadata["s2_offsets"]["433D_629L_3_1_20200408.tif"] == [-1000.0, "tag BOA_ADD_OFFSET"]
    (train_images, train_labels), (_, held_labels) = data.labelled_chips()
    assert train_images["s2"].shape[1:] == (12, 48, 48)
    assert (train_labels > 0).sum() > 3000
    assert set(held_labels.unique().tolist()) == {0, 1, 2, 4, 5, 9} - ({0} if (held_labels > 0).all() else set())
    assert class_names(sorted((SAMPLE / "labels").glob("*.tif")))[4] == "crops"
    assert sum(p.stat().st_size for p in SAMPLE.rglob("*")) <= 4.5e6


def test_scenes_without_a_folder_of_labels_are_not_labelled(folder):
    assert not (folder / "labels").exists()
    for chips in SentinelChips(folder, 32, 4, 1, holdout=0.25).labelled_chips():
        assert not chips.labels.any()


def test_the_majority_of_a_patch_is_its_class():
    labels = np.zeros((8, 24), dtype=np.uint8)
    labels[:, :8] = 3
    labels[:5, 8:16] = 2
    labels[:2, 16:] = 9
    assert majority(labels, 8).tolist() == [[3, 2, 0]]


def test_ranks_share_the_draws_of_a_step(folder):
    data = SentinelChips(folder, 24, 2, 3)
    draws = [list(StepBatches(2, 0, 3, rank, 2)) for rank in (0, 1)]
    assert sorted(n for rank in draws for batch in rank for n in batch) == list(range(12))
    assert list(StepBatches(2, 1, 3, 1, 2)) == draws[1][1:]
    alone = list(data.train_dataloader().batch_sampler)
    assert alone == [[0, 1], [2, 3], [4, 5]]


def test_a_scene_without_enough_valid_pixels_gives_its_best_chip(tmp_path):
    holed = radar((40, 40))
    holed[:, :, :30] = np.nan
    write_raster(tmp_path / "s1/a.tif", holed)
    write_raster(tmp_path / "s2/a.tif", optical((40, 40)), **TAGGED)
    batch = next(iter(SentinelChips(tmp_path, 32, 4, 1).train_dataloader()))
    assert batch["valid"].float().mean((1, 2)).min() > 0.2


def test_resizing_ignores_unusable_pixels():
    x = torch.full((1, 40, 40), -12.0)
    x[:, 7, 9] = torch.nan
    assert torch.allclose(resized({"s1": x}, 20)["s1"], torch.tensor(-12.0))


def test_labels_of_half_a_pixel_offset_are_the_nearest(tmp_path):
    labels = np.repeat(np.arange(1, 13, dtype=np.uint8), 8)[None, None].repeat(16, axis=1)
    write_raster(tmp_path / "a.tif", labels, nodata=0)
    geobox = GeoBox((16, 16), Affine(10, 0, 500_003.0, 0, -10, 4_600_000.0), "EPSG:32631")
    assert label_values(tmp_path, geobox)[0].tolist() == [1] * 8 + [2] * 8
    away = GeoBox((16, 16), Affine(10, 0, 500_000.0, 0, -10, 4_700_000.0), "EPSG:32631")
    assert not label_values(tmp_path, away).any()


def test_survey_sees_every_training_pixel_once():
    data = SentinelChips("sample", 8, 4, 1, holdout=0.5)
    assert sum(1 for _ in data.survey()) == 3 * 28 * 14 + 4 * 15 * 7


@pytest.mark.parametrize("holes", ["none", "in all bands", "band by band"])
def test_resizing_is_a_weighted_mean_whatever_is_known_of_the_holes(holes):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 37, 37, generator=draw)
    where = torch.rand(3 if holes == "band by band" else 1, 37, 37, generator=draw) < 0.3
    x = x if holes == "none" else torch.where(where, torch.nan, x)
    total, weight = (
        F.interpolate(layer[None], (20, 20), mode="bilinear", antialias=True)[0]
        for layer in (x.nan_to_num(0), x.isfinite().float())
    )
    want = torch.where(weight >= 0.5, total / weight, torch.nan)
    assert torch.equal(resized({"s1": x}, 20, whole=holes == "none")["s1"].nan_to_num(9), want.nan_to_num(9))


def test_a_band_that_a_sensor_lacks_does_not_make_a_chip_unusable():
    x = torch.ones(2, 4, 4)
    x[0, 0, 0], x[1] = torch.nan, torch.nan
    assert usable({"s1": x, "s2": torch.ones(3, 4, 4)}).sum() == 15
    assert not usable({"s1": torch.full((2, 4, 4), torch.nan)}).any()


def test_bands_that_some_file_lacks_are_optional_for_the_encoder_and_keep_published_statistics(tmp_path):
    ten = [band for band in S2_BANDS if band not in ("B01", "B09")]
    short = optical((64, 64))[[S2_BANDS.index(band) for band in ten]]
    write_raster(tmp_path / "s1/a.tif", radar((64, 64))[:1], names=["VV"])
    write_raster(tmp_path / "s2/a.tif", short, names=ten, BOA_ADD_OFFSET="0")
    with pytest.warns(Note) as said:
        data = SentinelChips(tmp_path, 32, 4, 2)
    texts = [str(note.message) for note in said]
    assert "1 of 1 s1 files have no VH, which is left empty there" in texts
    assert "1 of 1 s2 files have no B01, B09, which is left empty there" in texts
    known = scene_sensors(data)
    assert {name: sensor.optional for name, sensor in known.items()} == {"s1": ("VH",), "s2": ("B01", "B09")}
    measured = measured_sensors(known, data)
    assert measured["s2"].mean[0] == SENSORS["s2"].spec.mean[0]
    assert measured["s2"].mean[1] == pytest.approx(short[0].mean() / 10000, rel=0.05)
    for batch in data.train_dataloader():
        assert batch["valid"].float().mean() > 0.9
        assert batch["s2"][:, [0, 9]].isnan().all()


@pytest.mark.parametrize("hole", [False, True])
def test_chips_of_several_sensors_are_those_of_each_alone(hole):
    class Pixels:
        def read(self, number, attempt):
            draw = torch.Generator().manual_seed(number)
            side = int(torch.randint(20, 60, (), generator=draw))
            chip = {name: torch.randn(bands, side, side, generator=draw) for name, bands in (("s1", 2), ("s2", 12))}
            if hole:
                chip["s2"][:, 3:9, 3:9] = torch.nan
            return {**chip, "valid": usable(chip)}

    found = ChipDataset(Pixels(), 32)
    for number in range(12):
        chip, rng = Pixels().read(number, 0), np.random.default_rng((0, number, 20))
        turn = int(rng.integers(4)), bool(rng.integers(2))
        alone = {name: turned(resized({name: chip[name]}, 32), *turn)[name] for name in ("s1", "s2")}
        for name, x in alone.items():
            assert torch.equal(found[number][name].nan_to_num(9), x.nan_to_num(9))
        assert torch.equal(found[number]["valid"], usable(alone))
        assert found[number]["valid"].all() != hole
