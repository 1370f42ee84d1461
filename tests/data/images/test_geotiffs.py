import warnings

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from rasterio.transform import from_origin
from rasterio.windows import Window

import geossl
from geossl import recipe
from geossl.cli import main
from geossl.data.datasets.find import read_set
from geossl.data.images.geotiffs import BandChips, BandImages, RandomWindows, read_window
from geossl.data.statistics import streaming_statistics
from geossl.errors import BandError, InputError, MissingFileError, Note


def write(path, pixels, nodata=None, left=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype, "nodata": nodata}
    profile |= {"height": pixels.shape[1], "width": pixels.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", transform=from_origin(left, 0, 1, 1), crs="EPSG:32630", **profile) as file:
            file.write(pixels)
    return path


def smooth(seed, bands=5, side=64):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(100, 4000, (bands, side // 8, side // 8))
    return (np.kron(coarse, np.ones((1, 8, 8))) + rng.integers(0, 100, (bands, side, side))).astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        write(tmp_path / "set" / f"{i}.tif", smooth(i))
    return tmp_path / "set"


def test_pixels_are_as_stored_and_nan_where_there_is_nothing(tmp_path):
    pixels = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)
    pixels[0, 0, 0], pixels[1, 2, 3], pixels[1, 5, 5] = -9999, np.inf, np.nan
    found = read_window(write(tmp_path / "a.tif", pixels, nodata=-9999))
    hole = torch.zeros(2, 6, 8, dtype=torch.bool)
    hole[0, 0, 0] = hole[1, 2, 3] = hole[1, 5, 5] = True
    assert torch.equal(found.isnan(), hole)
    assert torch.equal(found[~hole], torch.from_numpy(pixels)[~hole])
    part = read_window(tmp_path / "a.tif", Window(2, 1, 3, 4))
    assert torch.equal(part.nan_to_num(-1), found[:, 1:5, 2:5].nan_to_num(-1))


def test_windows_lie_anywhere_in_the_training_part_and_nowhere_else(tmp_path):
    columns = np.broadcast_to(np.arange(80, dtype=np.int16), (1, 40, 80))
    rows = np.broadcast_to(np.arange(40, dtype=np.int16)[:, None], (1, 40, 80))
    images = BandImages(write(tmp_path / "a.tif", np.concatenate([columns, rows])))
    source = RandomWindows(images, (8, 20), 0, 0.25)
    windows = [source.read(i, 0)["bands"] for i in range(300)]
    assert {w.shape[-1] for w in windows} == set(range(8, 21))
    assert (min(int(w[0].min()) for w in windows), max(int(w[0].max()) for w in windows)) == (0, 59)
    assert (min(int(w[1].min()) for w in windows), max(int(w[1].max()) for w in windows)) == (0, 39)
    assert all((w[0].diff(dim=1) == 1).all() and (w[1].diff(dim=0) == 1).all() for w in windows)
    assert torch.equal(source.read(7, 0)["bands"], windows[7])
    assert not torch.equal(source.read(7, 1)["bands"][:, :8, :8], windows[7][:, :8, :8])


def test_larger_images_are_drawn_from_more_often(tmp_path):
    write(tmp_path / "a.tif", np.zeros((1, 32, 32), np.uint8))
    write(tmp_path / "b.tif", np.ones((1, 96, 96), np.uint8))
    source = RandomWindows(BandImages(tmp_path), (8, 8), 0, 0.0)
    share = np.mean([float(source.read(i, 0)["bands"].mean()) for i in range(400)])
    assert share == pytest.approx(0.9, abs=0.05)


def test_batches_are_square_and_say_what_is_usable(tmp_path):
    holes = smooth(0)
    holes[:, :, :20] = 0
    write(tmp_path / "a.tif", holes, nodata=0)
    data = BandChips(tmp_path, 32, 4, 3, crop_px=(24, 40))
    batches = list(data.train_dataloader())
    assert [b["bands"].shape for b in batches] == [(4, 5, 32, 32)] * 3
    assert all(torch.equal(b["valid"], b["bands"].isfinite().all(1)) for b in batches)
    assert all(b["valid"].flatten(1).float().mean(1).min() >= 0.4 for b in batches)  # redrawn where mostly empty
    data.start_step = 2
    assert torch.equal(next(iter(data.train_dataloader()))["bands"].nan_to_num(), batches[2]["bands"].nan_to_num())


def test_statistics_are_those_of_the_training_part(folder):
    data = BandChips(folder, 16, 2, 1, holdout=0.25)
    mean, std = streaming_statistics(data.survey())["bands"]
    pixels = np.stack([read_window(p)[:, :, :48].numpy() for p in data.images.paths])
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=0.06)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=0.06)


def test_folders_that_cannot_be_used_are_one_line(folder, tmp_path):
    with pytest.raises(MissingFileError, match="does not exist; expected a folder of GeoTIFFs"):
        BandImages(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no GeoTIFF \(\*\.tif, \*\.tiff\)"):
        BandImages(tmp_path / "empty")
    with pytest.raises(InputError, match="no image of .* holds a window of 60 px: the largest usable part is 48 px"):
        RandomWindows(BandImages(folder), (60, 60), 0, 0.25)
    write(folder / "small.tif", smooth(0, side=16))
    with pytest.warns(Note, match="1 of 5 images hold no window of 32 px and are left out"):
        BandChips(folder, 32, 2, 1)
    other = write(folder / "z.tif", smooth(0, bands=4))
    with pytest.raises(BandError, match=r"z\.tif has 4 bands, .*0\.tif has 5; expected the same in all images"):
        BandImages(folder)
    other.write_bytes(b"no tiff")
    with pytest.raises(InputError, match=r"z\.tif cannot be read .*; delete it or write it again"):
        BandImages(folder)
    other.unlink()
    write(folder / "c.tif", np.zeros((5, 64, 64), np.complex64))
    with pytest.raises(InputError, match=r"c\.tif holds complex numbers"):
        BandImages(folder)
    write(tmp_path / "blank" / "1.tif", np.zeros((2, 64, 64), np.uint8), nodata=0)
    with pytest.raises(InputError, match="no pixel of .* is usable in all 2 bands; check their nodata"):
        list(BandChips(tmp_path / "blank", 32, 2, 1).survey(20))


SMALL = ["data.batch_size=2", "data.chip_px=32", "data.crop_px=[24, 40]", "train.max_steps=2", "train.log_every=1"]
SMALL += ["encoder.size=nano", "encoder.position=sincos", "encoder.window_px=32", "encoder.halo_px=8"]
DECODER = ["objective.decoder_dim=32", "objective.decoder_depth=1", "objective.decoder_heads=2"]


def pretrain(method, folder, *changes):
    bands = ["encoder.sensors={bands: all}", f"data.source={folder}"]
    return geossl.pretrain(recipe.load(method, [*SMALL, *bands, *changes])) / "encoder.safetensors"


@pytest.mark.filterwarnings("ignore:features of teacher", "ignore:attention of teacher")
def test_any_bands_are_learned_imitated_and_judged(folder, tmp_path):
    """From a folder of GeoTIFFs to a student of two teachers made of the same folder, and a score."""
    mae = pretrain("mae", folder, *DECODER, f"out={tmp_path}/mae")
    spec = geossl.load_encoder(mae).spec
    assert spec.sensors["bands"].bands == ("1", "2", "3", "4", "5")
    assert min(spec.sensors["bands"].mean) > 1000  # numbers as stored
    chosen = [*DECODER, "encoder.sensors={bands: [4, 2]}", f"teacher={{name: {mae}, layers: [2, -1]}}"]
    mr = pretrain("mr_mae", folder, *chosen, f"out={tmp_path}/mr")
    assert geossl.load_encoder(mr).spec.sensors["bands"].bands == ("4", "2")
    both = [f"teachers={{feature: {{name: {mae}}}, relation: {{name: {mae}}}}}", f"out={tmp_path}/hd"]
    student = pretrain("hybrid_distill", folder, *both)
    for name in ("a", "b"):
        for i in range(8):
            pixels = smooth(i, side=32) // (1 if name == "a" else 4)
            write(
                tmp_path / "classes" / name / f"{i}.tif", pixels, left=10_000 * i
            )  # so far apart, none is near another
    held = read_set(tmp_path / "classes")
    assert held.sensors["bands"].names == ("1", "2", "3", "4", "5")
    assert held.places.xy[:2].tolist() == [[16.0, -16.0], [10_016.0, -16.0]]
    for encoder in (mae, mr, student):
        found = geossl.evaluate(encoder, tmp_path / "classes", protocol="knn", out=tmp_path / "r.html")
        assert "1.0" in str(found)


def test_teachers_that_cannot_take_the_bands_are_refused_before_anything_is_written(folder, tmp_path):
    mae = pretrain("mae", folder, *DECODER, f"out={tmp_path}/mae")
    for i in range(2):
        write(tmp_path / "four" / f"{i}.tif", smooth(i, bands=4))
    with pytest.raises(BandError, match="band 5 of bands is needed; the images have 4 bands"):
        pretrain("mr_mae", tmp_path / "four", *DECODER, f"teacher={{name: {mae}}}", f"out={tmp_path}/x")
    never = f"teacher={{name: {tmp_path}/no.safetensors, recipe: croma}}"
    with pytest.raises(
        BandError, match="recipe croma makes one of s1, s2, but the data has bands; pretrain one on such"
    ):
        pretrain("mr_mae", folder, *DECODER, never, f"out={tmp_path}/x")
    with pytest.raises(BandError, match="bands has no band 6; known: 1, 2, 3, 4, 5"):
        pretrain("mae", folder, *DECODER, "encoder.sensors={bands: [1, 6]}", f"out={tmp_path}/x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.statistics=published", "statistics=published is known for s1, s2 and rgb only; use data"),
        ("encoder.sensors={bands: [B02]}", r"must be all, or numbers from 1, such as \[4, 3, 2\]"),
        ("encoder.sensors={bands: [0]}", "must be all, or numbers from 1"),
        ("encoder.sensors={bands: all, s2: all}", "must be {rgb: all} for RGB images, {bands: all} for GeoTIFFs"),
        ("data.source=sample", "data.source=sample has Sentinel scenes only; give a folder of your own"),
        ("data.s2_offset=0", "data.s2_offset is for Sentinel scenes, not for images of any bands"),
        ("teacher={kind: timm, name: test_vit, weights: a.pth}", r"teacher.bands is missing; say which .* \[3, 2, 1\]"),
        ("teacher={name: a, bands: [3, 2, 1]}", "teacher.bands is for timm networks and encoder.sensors={bands"),
    ],
)
def test_wrong_recipes_say_what_was_expected(override, message):
    with pytest.raises(InputError, match=message):
        recipe.load("mr_mae", ["encoder.sensors={bands: all}", "data.source=folder", override])


def test_a_folder_without_sentinel_layout_says_how_to_read_it(folder, tmp_path):
    result = CliRunner().invoke(main, ["pretrain", "mae", f"data.source={folder}", f"out={tmp_path}/r"])
    assert result.exit_code == 2
    assert "encoder.sensors={bands: all}" in result.output
    assert not (tmp_path / "r").exists()
