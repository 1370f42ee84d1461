import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from geossl.data.synthetic.batches import SyntheticViews, Views
from geossl.data.synthetic.calibration import TrackData, common_side
from geossl.data.synthetic.images import is_real_and_synthetic, read_bands, real_and_synthetic
from geossl.errors import InputError, MissingFileError


def put(path, value=100, side=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 10), ("test", 4)):
        for maker in ("Real", "gan", "texture"):
            for i in range(count):
                put(tmp_path / part / maker / ("sea" if i % 2 else "land") / f"{i}.png", i)
    return tmp_path


def test_folders_give_origin_generator_and_content(folder):
    parts = real_and_synthetic(folder)
    test = parts["test"]
    assert test.generators == ("gan", "texture")
    assert test.contents == ("land", "sea")
    assert np.bincount(test.generator + 1).tolist() == [4, 4, 4]
    assert [test.origin[i] for i, p in enumerate(test.paths) if "Real" in p.parts] == [0] * 4
    assert all(test.contents[c] == p.parent.name for c, p in zip(test.content, test.paths, strict=True))


def test_a_calibration_part_is_cut_from_training_and_shares_no_picture(folder):
    parts = real_and_synthetic(folder)
    assert np.bincount(parts["calibration"].generator + 1).tolist() == [2, 2, 2]
    assert set(parts["calibration"].paths).isdisjoint(parts["train"].paths)
    assert len(parts["calibration"]) + len(parts["train"]) == 30


def test_held_out_generators_are_left_out_and_numbers_stay(folder):
    train = real_and_synthetic(folder)["train"].without(["gan"])
    assert set(train.generator.tolist()) == {-1, 1}
    with pytest.raises(InputError, match="generator 'GAN' is not among gan, texture"):
        train.without(["GAN"])


def test_a_folder_without_parts_is_all_test(tmp_path):
    put(tmp_path / "real" / "1.png")
    put(tmp_path / "gan" / "1.png")
    assert set(real_and_synthetic(tmp_path)) == {"test"}
    assert is_real_and_synthetic(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has no folder real/"),
        (("train/gan/1.png",), "train has no folder real/"),
        (("test/real/1.png",), "test holds no generated images"),
        (("test/real/notes.txt", "test/gan/1.png"), "test holds no real images"),
    ],
)
def test_folders_that_cannot_be_used_are_one_line(tmp_path, files, message):
    for name in files:
        if name.endswith("png"):
            put(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=message):
        real_and_synthetic(tmp_path)
    with pytest.raises(MissingFileError, match="does not exist; expected one with real/"):
        real_and_synthetic(tmp_path / "none")


LIST = """./a/real, one.png,0,2,4,8
/a/x.png,1,0,1,3
a/y.png,1,3,3,7
"""


@pytest.fixture
def imaginet(tmp_path):
    for name in ("real, one", "x", "y"):
        put(tmp_path / "a" / f"{name}.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.txt").write_text(LIST)
    (tmp_path / "annotations" / "calibration.txt").write_text(LIST.splitlines()[1] + "\n")
    (tmp_path / "annotations" / "test_all.txt").write_text(LIST)
    return tmp_path


def test_imaginet_lists_are_read_from_the_right_and_calibration_leaves_training(imaginet):
    assert is_real_and_synthetic(imaginet)
    parts = real_and_synthetic(imaginet)
    assert [len(parts[p]) for p in ("train", "calibration", "test")] == [2, 1, 3]
    test = parts["test"]
    assert test.generator.tolist() == [-1, 1, 3]
    assert [test.contents[c] for c in test.content] == ["faces", "photos", "uncategorized"]
    assert [test.generators[g] for g in test.generator[1:]] == ["Stable Diffusion", "DALL-E 3"]
    assert test[0].shape == (3, 20, 20)


@pytest.mark.parametrize(
    "line", ["a/x.png,1,0,4,8", "a/x.png,0,0,0,8", "a/x.png,2,0,4,8", "a/x.png,1,7,1,3", "a/x.png,1"]
)
def test_unknown_codes_are_one_line(imaginet, line):
    (imaginet / "annotations" / "test_all.txt").write_text(LIST + line + "\n")
    with pytest.raises(InputError, match="test_all.txt line 4: .* is not path,origin,content,model,specific"):
        real_and_synthetic(imaginet)


def test_lists_of_other_data_sets_are_not_imaginets(tmp_path):
    (tmp_path / "train.txt").write_text("forest/1.jpg 3\n")
    assert not is_real_and_synthetic(tmp_path)


def test_listed_pictures_that_are_not_there_are_told(imaginet):
    (imaginet / "a" / "real, one.png").unlink()
    with pytest.raises(MissingFileError, match="is listed in .* but does not exist"):
        real_and_synthetic(imaginet)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"), [("uint8", 51, 0.2), ("uint16", 2000, 0.2), ("float32", 0.2, 0.2)]
)
def test_tiffs_have_any_number_of_bands(tmp_path, dtype, value, expected):
    path = tmp_path / "x.tif"
    settings = {"driver": "GTiff", "width": 5, "height": 4, "count": 12, "dtype": dtype}
    with rasterio.open(path, "w", **settings) as file:
        file.write(np.full((12, 4, 5), value, dtype))
    found = read_bands(path)
    assert found.shape == (12, 4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    path.write_text("no tiff")
    with pytest.raises(InputError, match="cannot be read as a TIFF"):
        read_bands(path)


def test_batches_are_half_real_and_depend_on_seed_and_draw_alone(folder):
    train = real_and_synthetic(folder)["train"]

    def batch(start=0, seed=0, workers=0):
        data = SyntheticViews(train, Views(16, 2), 8, 3, seed=seed, workers=workers)
        data.start_step = start
        return next(iter(data.train_dataloader()))

    one = batch()
    assert one["views"].shape == (8, 2, 3, 16, 16)
    assert (one["generator"] == -1).tolist() == [True, False] * 4
    assert torch.equal(one["views"], batch()["views"])
    assert torch.equal(one["views"], batch(workers=1)["views"])
    assert not torch.equal(one["views"], batch(seed=1)["views"])
    assert not torch.equal(one["views"], batch(start=1)["views"])
    with pytest.raises(InputError, match="training needs real and synthetic images, but all are of one kind"):
        SyntheticViews(train.where(train.origin == 0), Views(16), 8, 3)


def test_both_questions_have_their_pictures_and_classes(folder):
    parts = real_and_synthetic(folder)
    origin = TrackData("origin", parts["train"], parts["calibration"], "rgb", 16)
    which = TrackData("generator", parts["train"], parts["calibration"], "rgb", 16)
    assert (origin.classes, which.classes) == (("real", "generated"), ("gan", "texture"))
    assert len(which.of(parts["test"])) == 8
    assert which.labels(parts["test"]).tolist() == [0] * 4 + [1] * 4
    pixels, labels = next(origin.draws(6, 1))
    assert pixels.shape == (6, 3, 16, 16)
    assert labels.tolist() == [0, 1] * 3
    held, truth = origin.held()
    assert len(held) == len(truth) == 2 * len(parts["calibration"])
    assert common_side([parts["train"]]) == 20
    with pytest.raises(InputError, match="no two classes of generator"):
        TrackData("generator", parts["train"].without(["gan"]), parts["calibration"], "rgb", 16)
    with pytest.raises(InputError, match="track 'maker' is not known"):
        TrackData("maker", parts["train"], parts["calibration"], "rgb", 16)
