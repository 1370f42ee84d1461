import json
import warnings

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from PIL import Image

import geossl
from geossl.cli import main
from geossl.data.datasets.base import ClassificationDataset, Places
from geossl.errors import BandError, GridError, InputError, Note
from geossl.evaluation.baselines import BandStatistics
from geossl.evaluation.features import EMBEDDERS
from geossl.models.encoder import DenseSpec, Encoder, EncoderSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import save_encoder
from geossl.sensors import RGB

L1C = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
L2A = [b for b in L1C if b != "B10"]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


def images(n=60, bands=L2A, side=16, seed=0):
    """Two classes that differ in near infrared, at places far from each other."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.integers(500, 1500, (n, len(bands), side, side))
    x[:, bands.index("B08")] += 2500 * y[:, None, None]
    lon, lat = rng.uniform(-8, 20, n), rng.uniform(40, 55, n)
    names = np.array(["bare", "green"])
    return {"x": x.astype(np.uint16), "y": y, "bands": np.array(bands), "class_names": names, "lon": lon, "lat": lat}


@pytest.fixture
def npz(tmp_path):
    def write(**changes):
        path = tmp_path / "set.npz"
        np.savez(path, **{k: v for k, v in {**images(), **changes}.items() if v is not None})
        return path

    return write


@pytest.fixture
def weights(encoder, tmp_path):
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    return tmp_path / "e.safetensors"


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_a_page_and_its_numbers_are_written(weights, npz, tmp_path):
    out = tmp_path / "r.html"
    result = run(
        "evaluate", weights, npz(), "--protocol", "all", "--seeds", 2, "--label-fractions", "0.3", "--out", out
    )
    assert result.exit_code == 0, result.output
    found = json.loads(out.with_suffix(".json").read_text())
    assert list(found["scores"]) == ["knn", "linear", "mlp", "kmeans", "finetune"]
    for name, scores in found["scores"].items():
        low, high = scores["intervals"]["accuracy"]
        assert low <= scores["values"]["accuracy"] <= high, name
    assert found["scores"]["linear"]["values"]["accuracy"] > 0.9
    assert found["split"] == "blocked"
    assert set(found["label_fractions"]["linear"]) == {"0.3", "1.0"}
    assert len(found["chosen"]["croma_tiny / s2 / linear"]) == 2
    assert "| linear" in result.output
    assert out.read_text().count("<img") == 7  # scores, the curve, and a confusion matrix each


def test_the_same_call_gives_the_same_numbers(encoder, npz, tmp_path):
    path = npz()
    one, two = (
        geossl.evaluate(
            encoder, path, protocol=("linear", "mlp", "finetune"), epochs=2, out=tmp_path / f"{i}.html"
        ).scores
        for i in range(2)
    )
    assert {k: v.to_dict() for k, v in one.items()} == {k: v.to_dict() for k, v in two.items()}


def changed_test_part(path, tmp_path, encoder):
    """The same data set with wild pixels and labels in the test part of seed 0."""
    from geossl.data.datasets.find import read_set

    part = read_set(path).parts("auto", 0)
    arrays = dict(np.load(path))
    x, y = arrays["x"].copy(), arrays["y"].copy()
    x[part == 2] = np.random.default_rng(1).integers(1, 9000, x[part == 2].shape)
    np.savez(tmp_path / "wild.npz", **{**arrays, "x": x, "y": y, "part": part})
    np.savez(tmp_path / "tame.npz", **{**arrays, "part": part})
    return tmp_path / "tame.npz", tmp_path / "wild.npz"


def test_test_pixels_cannot_change_what_is_chosen_or_trained(encoder, npz, tmp_path):
    tame, wild = changed_test_part(npz(), tmp_path, encoder)
    protocols = ("knn", "linear", "mlp", "finetune")
    metadata = []
    for path in (tame, wild):
        found = geossl.evaluate(encoder, path, protocol=protocols, split="official", epochs=2, out=tmp_path / "r.html")
        metadata.append((json.loads((tmp_path / "r.json").read_text())["chosen"], found.scores))
    assert metadata[0][0] == metadata[1][0]  # k, C, learning rate, epoch and validation score
    assert metadata[0][1]["finetune"].to_dict() != metadata[1][1]["finetune"].to_dict()


def test_missing_bands_other_units_and_levels_are_said(encoder, npz, tmp_path):
    ten = [b for b in L2A if b not in ("B01", "B09")]
    data = images(bands=ten)
    with pytest.raises(BandError, match="set has no s2 band B01, B09, which croma_tiny needs"):
        geossl.evaluate(encoder, npz(x=data["x"], bands=np.array(ten)), out=tmp_path / "r.html")
    decibel = np.random.default_rng(0).normal(-15, 1, (60, 2, 16, 16)) - np.array([0, 6])[:, None, None]
    radar = npz(x=decibel.astype(np.float32), bands=np.array(["VV", "VH"]))
    with pytest.raises(BandError, match="sensors s2: set and croma_tiny share s1"):
        geossl.evaluate(encoder, radar, sensors="s2", out=tmp_path / "r.html")
    l1c = images(bands=L1C)
    with pytest.warns(Note, match="set is L1C, but croma_tiny was trained on L2A"):
        geossl.evaluate(encoder, npz(x=l1c["x"], bands=np.array(L1C)), protocol="knn", out=tmp_path / "r.html")
    assert not (tmp_path / "s.html").exists()


def test_a_random_split_is_noted_and_its_leak_counted(encoder, npz, tmp_path):
    near = npz(lon=np.full(60, 3.0), lat=np.full(60, 41.5))
    with pytest.warns(
        Note, match="a random split of set leaks: 100 % of test samples have a training sample within 5 km"
    ):
        geossl.evaluate(encoder, near, protocol="knn", split="random", out=tmp_path / "r.html")
    with pytest.warns(Note, match="set does not say where its samples lie, so it is split at random"):
        geossl.evaluate(encoder, npz(lon=None), protocol="knn", out=tmp_path / "r.html")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        geossl.evaluate(encoder, npz(), protocol="knn", out=tmp_path / "r.html")


def test_blocks_keep_neighbours_together():
    xy = np.repeat(np.arange(40)[:, None] * [50_000.0, 20_000.0], 5, axis=0) + np.tile(
        np.arange(5)[:, None] * 300.0, (40, 1)
    )
    data = ClassificationDataset(
        "s", range(200), np.arange(200) % 2, ("a", "b"), places=Places(xy, np.full(200, 32631))
    )
    part = data.parts("auto", 0)
    assert (part.reshape(40, 5) == part.reshape(40, 5)[:, :1]).all()
    assert data.warn_of_leaks("blocked", part) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--protocol", "forest"], "--protocol 'forest' is not known; use knn, linear"),
        (["--split", "mine"], "--split 'mine' is not known; use auto, official, blocked, random"),
        (["--split", "official"], "set has no official split; use --split blocked or random"),
        (["--label-fractions", "1.5"], "--label-fractions 1.5 is not a share between 0 and 1"),
        (["--label-fractions", "half"], "--label-fractions 'half' is not a list of numbers"),
        (["--seeds", "0"], "--seeds 0 is too small"),
        (["--image-px", "20"], "--image-px 20 is not a multiple of the encoder's 8 px patch"),
        (["--out", "r.pdf"], "--out r.pdf must end in .html"),
        (["--out", "nowhere/r.html"], "folder 'nowhere' does not exist; create it"),
    ],
)
def test_mistakes_are_one_line(weights, npz, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", weights, npz(), *args)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.strip().splitlines()[-1].startswith("geossl: ")
    assert not list(tmp_path.glob("*.html"))


def test_images_that_are_no_whole_patches_are_resized_on_request(encoder, npz, tmp_path):
    odd = npz(x=images(side=20)["x"])
    with pytest.raises(GridError, match="an image is 20 x 20 px.*use image_px=16"):
        geossl.evaluate(encoder, odd, protocol="knn", out=tmp_path / "r.html")
    geossl.evaluate(encoder, odd, protocol="knn", image_px=24, out=tmp_path / "r.html")


def test_geotiffs_by_class_are_read_with_their_places(encoder, tmp_path):
    data = images(30)
    for i, (x, y) in enumerate(zip(data["x"], data["y"], strict=True)):
        folder = tmp_path / "tifs" / str(data["class_names"][y])
        folder.mkdir(parents=True, exist_ok=True)
        transform = rasterio.Affine(10, 0, 400000 + 20000 * i, 0, -10, 4600000)
        profile = {"driver": "GTiff", "count": 12, "width": 16, "height": 16, "dtype": "uint16", "crs": 32631}
        with rasterio.open(folder / f"{i}.tif", "w", transform=transform, **profile) as file:
            file.write(x)
            file.descriptions = L2A
            file.update_tags(BOA_ADD_OFFSET="0")
    found = geossl.evaluate(encoder, tmp_path / "tifs", protocol="linear", out=tmp_path / "r.html")
    assert found.scores["linear"].values["accuracy"] > 0.9
    assert json.loads((tmp_path / "r.json").read_text())["split"] == "blocked"


def test_pictures_need_an_encoder_of_pictures(encoder, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(tmp_path / "p" / name / f"{i}.png")
    with pytest.raises(BandError, match="p has rgb; croma_tiny needs one of s1, s2"):
        geossl.evaluate(encoder, tmp_path / "p", out=tmp_path / "r.html")


def test_an_encoder_of_pictures_is_scored_clean_and_perturbed(tmp_path):
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 120)):
        (tmp_path / "p" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(rng.integers(low, low + 120, (16, 16, 3), dtype=np.uint8)).save(
                tmp_path / f"p/{name}/{i}.png"
            )
    spec = DenseSpec(
        name="brightness",
        architecture="stand_in",
        arguments={},
        dim=6,
        source="test",
        licence="MIT",
        sensors={"rgb": RGB},
        patch_px=8,
        gsd_m=1.0,
        window_px=16,
        margin_px=0,
    )
    swap = {"same": lambda item, i: item, "inverted": lambda item, i: {"rgb": 1 - item["rgb"]}}
    with pytest.warns(Note, match="split at random"):
        found = geossl.evaluate(
            BandStatistics(spec),
            tmp_path / "p",
            protocol=("knn", "linear"),
            perturbations=swap,
            out=tmp_path / "r.html",
        )
    clean, same, inverted = (
        found.scores[name].values["auc"] for name in ("linear", "linear / same", "linear / inverted")
    )
    assert clean == same == 1
    assert inverted < 0.1
    assert list(found.scores) == ["knn", "knn / same", "knn / inverted", "linear", "linear / same", "linear / inverted"]


def test_vectors_of_many_items_are_kept_until_the_report_is_there(encoder, npz, tmp_path, monkeypatch):
    monkeypatch.setattr("geossl.api.evaluate.settings.STORED_FROM", 10)
    path, out = npz(), tmp_path / "r.html"
    whole = geossl.evaluate(encoder, path, protocol="linear", batch_size=16, out=out).scores["linear"].to_dict()
    assert not (tmp_path / "r.html.build").exists()
    monkeypatch.setattr("geossl.api.evaluate.runner.Runner.probe", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        geossl.evaluate(encoder, path, protocol="linear", batch_size=16, out=out)
    assert len(list((tmp_path / "r.html.build").rglob("*.npy"))) == 4
    monkeypatch.undo()
    monkeypatch.setattr("geossl.api.evaluate.settings.STORED_FROM", 10)
    monkeypatch.setattr(CROMAEncoder, "pooled", lambda *a: 1 / 0)  # no image needs to be embedded again
    again = geossl.evaluate(encoder, path, protocol="linear", batch_size=16, out=out)
    assert again.scores["linear"].to_dict() == whole
    assert not (tmp_path / "r.html.build").exists()


def test_rows_may_be_nodes_of_one_graph(monkeypatch, tmp_path):
    """A stand-in for any other kind of encoder: one function, and all probes work."""

    class Nodes(Encoder):
        def __init__(self):
            super().__init__()
            self.spec = EncoderSpec(name="nodes", architecture="nodes", arguments={}, dim=3, source="", licence="")

    monkeypatch.setitem(EMBEDDERS, Nodes, lambda encoder, items: torch.cat(items))
    y = np.arange(60) % 3
    graph = torch.from_numpy(np.eye(3, dtype=np.float32)[y]) + 0.01
    data = ClassificationDataset("cora", [graph], y, ("a", "b", "c"), part=np.repeat([0, 1, 2], 20))
    found = geossl.evaluate(Nodes(), data, protocol=("knn", "linear", "mlp", "kmeans"), out=tmp_path / "r.html")
    assert all(scores.values["accuracy"] == 1 for scores in found.scores.values())
    with pytest.raises(InputError, match="cora has several labels per item; protocol finetune needs one each"):
        geossl.evaluate(Nodes(), data, protocol="finetune", out=tmp_path / "r.html")


def test_damaged_and_foreign_files_are_one_line(encoder, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    for name, message in (("bad", "is damaged"), ("objects", "holds Python objects"), ("gone", "does not exist")):
        with pytest.raises(InputError, match=message):
            geossl.evaluate(encoder, tmp_path / f"{name}.npz", out=tmp_path / "r.html")
