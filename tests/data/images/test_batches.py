import numpy as np
import pytest
import torch
from PIL import Image

import geossl
from geossl import recipe
from geossl.data.images.batches import Crops, RGBImages, crop
from geossl.data.images.folders import ImageFolder
from geossl.data.statistics import streaming_statistics
from geossl.errors import InputError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        smooth = np.kron(rng.integers(0, 255, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(smooth).save(tmp_path / f"{number}.png")
    return tmp_path


def test_every_picture_comes_once_per_round_in_a_new_order(folder):
    crops = Crops(ImageFolder(folder), 16, None, seed=0)
    means = [round(float(crops[i]["rgb"].mean()), 5) for i in range(10)]
    assert len(set(means[:5])) == 5
    assert sorted(means[:5]) == sorted(means[5:])
    assert means[:5] != means[5:]


def test_a_draw_depends_on_seed_and_number_only(folder):
    one, two = (Crops(ImageFolder(folder), 24, (0.2, 1.0), seed=3) for _ in range(2))
    first = {i: one[i]["rgb"] for i in (0, 7, 3)}
    assert all(torch.equal(two[i]["rgb"], first[i]) for i in (3, 0, 7))
    assert not torch.equal(Crops(ImageFolder(folder), 24, (0.2, 1.0), seed=4)[0]["rgb"], first[0])


def test_crops_have_their_share_of_the_area():
    picture = torch.rand(3, 100, 150)
    shares = [crop(picture, (0.2, 0.5), np.random.default_rng(i))[0].numel() / 15000 for i in range(200)]
    assert 0.19 < min(shares) < 0.25
    assert 0.45 < max(shares) < 0.51
    assert crop(torch.rand(3, 4, 400), (1.0, 1.0), np.random.default_rng(0)).shape[1] <= 4


def test_batches_are_pictures_of_one_size_and_all_usable(folder):
    data = RGBImages(folder, 32, 4, 3, crop_share=(0.5, 1.0))
    batches = list(data.train_dataloader())
    assert [b["rgb"].shape for b in batches] == [(4, 3, 32, 32)] * 3
    assert all(b["valid"].all() and b["rgb"].min() >= 0 and b["rgb"].max() <= 1 for b in batches)
    data.start_step = 2
    assert torch.equal(next(iter(data.train_dataloader()))["rgb"], batches[2]["rgb"])
    mean, _ = streaming_statistics(data.survey())["rgb"]
    assert mean == pytest.approx(np.mean([p.mean((1, 2)).numpy() for p in data.images], axis=0), abs=0.02)


def test_a_masked_autoencoder_learns_from_a_folder_of_pictures(folder, tmp_path):
    changes = ["encoder={kind: conv, size: nano, sensors: {rgb: all}, statistics: data}", f"data.source={folder}"]
    changes += ["data.crop_px=null", "data.holdout=0", "data.crop_share=[0.5, 1]", "data.chip_px=32"]
    changes += ["data.batch_size=2", "train.max_steps=1", f"out={tmp_path}/run"]
    run = geossl.pretrain(recipe.load("mae", changes))
    encoder = geossl.load_encoder(run / "encoder.safetensors")
    assert encoder.spec.sensors["rgb"].mean != (0.485, 0.456, 0.406)
    assert encoder.pooled({"rgb": torch.rand(2, 3, 64, 64)}).isfinite().all()
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    plain = ["encoder.statistics=published", f"out={tmp_path}/y"]
    for _ in range(2):  # the second time is not told that there is a run: it had no step
        with pytest.raises(InputError, match=r"0\.png cannot be read as an image"):
            geossl.pretrain(recipe.load("mae", [*changes, *plain, "data.batch_size=5"]))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="does not hold images"):
        geossl.pretrain(recipe.load("mae", [*changes, f"data.source={empty}", f"out={tmp_path}/x"]))
