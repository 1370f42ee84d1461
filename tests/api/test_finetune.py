import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch

import geossl
from geossl.api.finetune import fitting
from geossl.api.finetune.task import Task
from geossl.data.labels.blocks import BlockSplit, assign_blocks
from geossl.data.labels.ground_truth import read_labels
from geossl.data.labels.patches import PatchSamples
from geossl.data.sentinel.rasters import LocalRasters
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError, Note
from geossl.models.files import EncoderFile, load_encoder
from tests.api.conftest import FIELD, LEFT, NAMES, SIDE, TOP
from tests.processes import kill_when, start

DECODER = {"max_steps": 8, "check_every": 4, "chip_px": 64, "batch_size": 2, "lr": 3e-3}


def finetune(scene, encoder, out, labels=None, sensors=("s1", "s2"), **settings):
    pixels = {name: scene / f"{name}.tif" for name in sensors}
    labels = scene / "parcels.gpkg" if labels is None else labels
    return geossl.finetune(labels, geossl.Rasters(**pixels), column="crop", encoder=encoder, out=out, **settings)


def report(model):
    return json.loads(model.with_suffix(".json").read_text())


def tensors(model):
    return load_encoder(model).state_dict()


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.fixture(scope="module")
def linear(scene, encoder, tmp_path_factory):
    return finetune(scene, encoder, tmp_path_factory.mktemp("linear") / "m.safetensors")


def finetune_decoder(scene, encoder, out, labels=None):
    return finetune(scene, encoder, out, labels, head="unet", **DECODER)


@pytest.fixture(scope="module")
def decoder(scene, encoder, tmp_path_factory):
    return finetune_decoder(scene, encoder, tmp_path_factory.mktemp("decoder") / "m.safetensors")


def test_light_heads_learn_fields_that_can_be_told_apart(linear):
    found = report(linear)
    assert sorted(found["scores"]) == ["s1", "s1+s2", "s1+s2 side by side", "s2"]
    for name, scores in found["scores"].items():
        assert scores["values"]["miou"] > 0.8, name
        low, high = scores["intervals"]["miou"]
        assert low <= scores["values"]["miou"] <= high
    assert found["classes"] == list(NAMES)
    assert sum(found["blocks"].values()) >= 40
    assert sorted(p.name for p in linear.parent.iterdir()) == ["m.html", "m.json", "m.safetensors"]


def test_the_test_pixels_of_a_report_are_those_of_the_test_blocks(linear, fields):
    split = assign_blocks(read_labels(fields, "crop"), 8, 10.0, 0)
    tested = sum(part == SPLIT_NAMES.index("test") for part in split.parts.values())
    pixels = np.array(report(linear)["scores"]["s1+s2"]["confusion"]).sum()
    assert pixels == tested * (split.side_m / 10) ** 2


def test_a_geodataframe_a_file_and_a_raster_are_the_same_labels(scene, encoder, fields, tmp_path):
    from_file, from_frame = (
        finetune(scene, encoder, tmp_path / f"{name}.safetensors", labels, sensors=("s2",))
        for name, labels in (("file", scene / "parcels.gpkg"), ("frame", fields))
    )
    grid = np.array([NAMES.index(c) + 1 for c in fields["crop"]], np.uint8).reshape(SIDE // FIELD, -1)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "width": SIDE, "height": SIDE, "crs": "EPSG:32631"}
    transform = rasterio.transform.from_origin(LEFT, TOP, 10, 10)
    with rasterio.open(tmp_path / "labels.tif", "w", transform=transform, **profile) as file:
        file.write(grid.repeat(FIELD, 0).repeat(FIELD, 1), 1)
    pixels = geossl.Rasters(s2=scene / "s2.tif")
    from_raster = geossl.finetune(tmp_path / "labels.tif", pixels, encoder=encoder, out=tmp_path / "raster.safetensors")
    assert same(tensors(from_file), tensors(from_frame))
    assert same(tensors(from_file), tensors(from_raster))


@pytest.mark.parametrize("kind", ["knn", "forest", "mlp"])
def test_every_head_can_be_fitted_from_one_sensor(scene, encoder, tmp_path, kind):
    found = report(finetune(scene, encoder, tmp_path / "m.safetensors", sensors=("s2",), head=kind))
    assert list(found["scores"]) == ["s2"]
    assert found["scores"]["s2"]["values"]["miou"] > 0.8


@pytest.mark.parametrize(("kind", "train_encoder"), [("linear-upsample", False), ("unet", True)])
def test_a_decoder_learns_and_leaves_a_frozen_encoder_alone(scene, encoder, tmp_path, kind, train_encoder):
    settings = {**DECODER, "max_steps": 40, "check_every": 20}
    path = finetune(scene, encoder, tmp_path / "m.safetensors", head=kind, train_encoder=train_encoder, **settings)
    before, after = load_encoder(encoder).state_dict(), load_encoder(path).encoder.state_dict()
    assert same(before, after) != train_encoder
    assert report(path)["scores"]["s1+s2"]["values"]["miou"] > 0.35
    assert report(path)["best_step"] in (20, 40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.html", "m.json", "m.safetensors"]


def test_a_killed_training_goes_on_to_the_same_model(scene, encoder, decoder, tmp_path):
    out = tmp_path / "killed.safetensors"
    checkpoint = tmp_path / "killed.safetensors.build/last.ckpt"
    kill_when(start(finetune_decoder, scene, encoder, out), checkpoint.exists)
    assert not out.exists()
    assert same(tensors(decoder), tensors(finetune_decoder(scene, encoder, out)))


def test_work_that_was_begun_with_other_labels_is_not_mixed_in(scene, encoder, fields, tmp_path):
    work = tmp_path / "m.safetensors.build"
    work.mkdir()
    (work / "settings.json").write_text('{"labels": {}}')
    with pytest.raises(InputError, match="begun with another .*labels"):
        finetune(scene, encoder, tmp_path / "m.safetensors", head="unet", **DECODER)
    assert work.exists()


def without_test_blocks(fields, seed=0):
    """Labels in which every pixel of a test block has another class; blocks of the parts are whole fields here."""
    labels = read_labels(fields, "crop")
    split = assign_blocks(labels, 8, 10.0, seed)
    middle = fields.geometry.representative_point()
    part = split.part(np.column_stack([middle.x, middle.y]), 32631)
    return part == SPLIT_NAMES.index("test"), split


def spoilt(scene, folder, hidden, sensor):
    """The scene with noise where ``hidden`` fields lie."""
    with rasterio.open(scene / f"{sensor}.tif") as file:
        data, profile, names, tags = file.read(), file.profile, file.descriptions, file.tags()
    mask = hidden.reshape(SIDE // FIELD, -1).repeat(FIELD, 0).repeat(FIELD, 1)
    data[:, mask] = np.random.default_rng(5).permutation(data[:, mask].ravel()).reshape(data[:, mask].shape)
    with rasterio.open(folder / f"{sensor}.tif", "w", **profile) as file:
        file.write(data)
        file.descriptions = names
        file.update_tags(**tags)


@pytest.fixture
def apart(fields, monkeypatch):
    """The split of the true labels, whatever the test blocks are said to hold."""
    hidden, split = without_test_blocks(fields)
    monkeypatch.setattr("geossl.api.finetune.run.assign_blocks", lambda *_: split)
    changed = fields.assign(crop=np.where(hidden, "water", fields["crop"]))
    return hidden, changed


def test_labels_of_test_blocks_change_no_setting_and_no_decoder(scene, encoder, linear, decoder, apart, tmp_path):
    _, changed = apart
    one, two = report(linear), report(finetune(scene, encoder, tmp_path / "linear.safetensors", changed))
    assert one["scores"] != two["scores"]
    assert one["chosen"] == two["chosen"]
    other = finetune_decoder(scene, encoder, tmp_path / "unet.safetensors", changed)
    one, two = report(decoder), report(other)
    assert one["scores"] != two["scores"]
    assert (one["best_step"], one["validation_miou"]) == (two["best_step"], two["validation_miou"])
    assert same(tensors(decoder), tensors(other))


def test_features_of_test_blocks_do_not_reach_normalisation_or_settings(scene, encoder, fields, monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    x = (rng.normal(size=(900, 6)) + y[:, None]).astype(np.float32)
    part = np.arange(900) % 3
    counts = np.eye(3, dtype=np.int64)[y] * 64
    block = np.column_stack([part, np.arange(900) // 60, part])
    priority = np.arange(900, dtype=np.uint64)
    seen = []
    fit = fitting.fit_head
    monkeypatch.setattr(fitting, "fit_head", lambda *a: seen.append(fit(*a)) or seen[-1])

    source = LocalRasters({"s1": [scene / "s1.tif"]})
    labels = read_labels(fields, "crop")
    task = Task(labels, source, EncoderFile.open(encoder), BlockSplit(320.0, {}), scene, 0, None, "best")
    for shift in (0, 1000):
        moved = x + shift * (part == SPLIT_NAMES.index("test"))[:, None].astype(np.float32)
        fitting.fitted("linear", PatchSamples(moved, counts, part, block, priority), task)
    (one, setting), (two, other) = seen
    assert setting == other
    assert same(one.state_dict(), two.state_dict())


def test_pixels_without_data_are_neither_learned_nor_judged(scene, encoder, fields, tmp_path):
    with rasterio.open(scene / "s1.tif") as file:
        data, profile = file.read(), file.profile
    data[:, :, SIDE // 2 :] = np.nan
    with rasterio.open(tmp_path / "s1.tif", "w", **profile) as file:
        file.write(data)
    found = report(finetune(tmp_path, encoder, tmp_path / "m.safetensors", fields, ("s1",), head="unet", **DECODER))
    split = assign_blocks(read_labels(fields, "crop"), 8, 10.0, 0)
    west = [b for b, part in split.parts.items() if part == 2 and (b[2] + 0.5) * split.side_m < LEFT + 5 * SIDE]
    assert np.array(found["scores"]["s1"]["confusion"]).sum() == len(west) * (split.side_m / 10) ** 2


def test_a_sensor_that_does_not_reach_the_labels_gets_no_head(scene, encoder, fields, tmp_path):
    with rasterio.open(scene / "s2.tif") as file:
        data, profile, names, tags = file.read(), file.profile, file.descriptions, file.tags()
    profile["transform"] = rasterio.transform.from_origin(LEFT + 20_000, TOP, 10, 10)
    with rasterio.open(tmp_path / "s2.tif", "w", **profile) as file:
        file.write(data)
        file.descriptions = names
        file.update_tags(**tags)
    with pytest.warns(Note, match="no head for s2 alone"):
        model = geossl.finetune(
            fields,
            column="crop",
            source=geossl.Rasters(s1=scene / "s1.tif", s2=tmp_path / "s2.tif"),
            encoder=encoder,
            out=tmp_path / "m.safetensors",
        )
    assert "s1" in report(model)["scores"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "svm"}, "head 'svm' is not known; use linear"),
        ({"max_steps": 5}, "max_steps belong to decoders"),
        ({"head": "unet", "steps": 5}, "finetune with head='unet' has no setting 'steps'; did you mean 'max_steps'"),
        ({"head": "unet", "max_steps": 0}, "max_steps=0 is not possible"),
        ({"head": "unet", "chip_px": 20}, "chip_px=20 must be a multiple of the 8 px patch"),
        ({"out": "model.pt"}, "must end in .safetensors"),
    ],
)
def test_settings_that_are_not_possible_are_refused(scene, encoder, tmp_path, changes, message):
    out = tmp_path / changes.pop("out", "m.safetensors")
    with pytest.raises(InputError, match=message):
        finetune(scene, encoder, out, **changes)
    assert not list(tmp_path.iterdir())


def test_too_few_labels_are_refused_with_what_would_help(scene, encoder, fields, tmp_path):
    small = fields.iloc[[0, 5, 40, 44, 90, 99]].copy()
    small.geometry = small.geometry.representative_point().buffer(90)
    with pytest.raises(InputError, match="patches of 80 m are at least half labelled.*expected 30"):
        finetune(scene, encoder, tmp_path / "m.safetensors", gpd.GeoDataFrame(small))
    assert not list(tmp_path.iterdir())
