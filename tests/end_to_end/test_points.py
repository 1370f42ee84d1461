"""Scans in, rasters and classified scans out, as a user calls it."""

import json

import laspy
import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner

import geossl
from geossl.cli import main
from geossl.errors import InputError, WeightsError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec
from geossl.models.files import save_encoder
from tests.scans import BOTTOM, LEFT, SIDE, scene, write_scan


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    settings = {"groups": 16, "group_size": 8, "width": 24, "depth": 3, "heads": 4}
    clouds = Clouds(points=128, features=("last",), block_m=12.0, voxel_m=0.25, ground="auto")
    spec = point_spec("tiny", clouds, **settings)
    path = tmp_path_factory.mktemp("encoder") / "e.safetensors"
    save_encoder(path, PointTransformer(spec), {})
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """The scene in two files, cut at no round number."""
    folder = tmp_path_factory.mktemp("scans")
    x, y, z, classes = scene()
    for name, rows in (("west", x < LEFT + 21.3), ("east", x >= LEFT + 21.3)):
        write_scan(folder / f"{name}.laz", x[rows], y[rows], z[rows], classes[rows])
    return folder


def embedded(scans, encoder, path, **settings):
    with rasterio.open(geossl.points.embed(scans, encoder, out=path, picture=False, **settings)) as file:
        return file.read(), file.transform, file.crs


def test_a_scan_becomes_a_raster_on_the_lattice_of_the_crs(scans, encoder, tmp_path):
    told = []
    out = geossl.points.embed(
        scans,
        encoder,
        out=tmp_path / "e.tif",
        cell_m=6.0,
        progress=lambda *count: told.append(count[:2]),
    )
    found = geossl.open(out)
    box = found.odc.geobox
    assert box.crs.epsg == 2154
    assert (box.resolution.x, box.resolution.y) == (6, -6)
    assert box.transform.c % 6 == box.transform.f % 6 == 0
    left, top = box.boundingbox.left, box.boundingbox.top
    assert left <= LEFT < left + 6
    assert top - 6 < BOTTOM + SIDE <= top
    assert found.shape[0] == 24
    assert np.isfinite(found.values).all(axis=0).mean() > 0.7
    assert told[-1][0] == told[-1][1]
    assert out.with_suffix(".png").is_file()
    with rasterio.open(out) as file:
        assert json.loads(file.tags()["GEOSSL_SCANS"]) == ["east.laz", "west.laz"]


def test_chunks_batches_and_other_cells_around_do_not_change_values(scans, encoder, tmp_path):
    whole, transform, _ = embedded(scans, encoder, tmp_path / "a.tif", cell_m=3.0)
    parts, again, _ = embedded(scans, encoder, tmp_path / "b.tif", cell_m=3.0, chunk_m=12.0, batch_size=3)
    assert transform == again
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)
    assert np.isnan(whole[0]).sum() == np.isnan(parts[0]).sum()


def test_a_cell_is_the_mean_of_the_points_in_it(scans, encoder, tmp_path):
    fine, at, _ = embedded(scans, encoder, tmp_path / "f.tif", cell_m=6.0)
    coarse, over, _ = embedded(scans, encoder, tmp_path / "c.tif", cell_m=12.0)
    row, column = round((over.f - at.f) / 6), round((at.c - over.c) / 6)
    assert (row, column) in {(0, 0), (1, 0), (0, 1), (1, 1)}
    block = fine[:, 2 - row : 4 - row, 2 - column : 4 - column].reshape(24, 4)
    assert (coarse[:, 1, 1] <= block.max(axis=1) + 1e-5).all()
    assert (coarse[:, 1, 1] >= block.min(axis=1) - 1e-5).all()


@pytest.fixture(scope="module")
def model(scans, encoder, tmp_path_factory):
    """The split of this seed has points of each class in both parts."""
    out = tmp_path_factory.mktemp("model") / "m.safetensors"
    return geossl.points.finetune(scans, encoder, out=out, max_steps=100, batch_size=8, seed=3)


def test_classes_are_learned_and_judged_on_other_ground(model):
    metadata = json.loads(model.with_suffix(".json").read_text())
    assert metadata["classes"] == {"ground": [2], "high vegetation": [5], "building": [6]}
    assert np.sum(metadata["confusion"]) == metadata["points"]["test"]
    assert metadata["points"]["train"] + metadata["points"]["test"] == len(scene()[0])
    assert metadata["test"]["balanced_accuracy"] > 0.8


def test_classified_files_hold_the_classes_and_everything_else(scans, model, tmp_path):
    hidden = tmp_path / "hidden"
    for path in scans.glob("*.laz"):
        points = laspy.read(path)
        points.classification = np.where(np.asarray(points.classification) == 2, 2, 1)  # ground is known, as usual
        hidden.mkdir(exist_ok=True)
        points.write(hidden / path.name)
    written = geossl.points.classify(hidden, model, out=tmp_path / "out")
    assert [p.name for p in written] == ["east.laz", "west.laz"]
    right = total = 0
    for path in written:
        truth, found = laspy.read(scans / path.name), laspy.read(path)
        assert np.array_equal(truth.x, found.x)
        known = np.asarray(found.confidence) > 0
        assert known.mean() > 0.95
        right += (np.asarray(truth.classification) == np.asarray(found.classification))[known].sum()
        total += known.sum()
    assert right / total > 0.85


def test_a_points_class_does_not_depend_on_how_files_are_cut(scans, model, tmp_path):
    x, y, z, classes = scene()
    whole = laspy.read(write_scan(tmp_path / "in" / "whole.laz", x, y, z, classes))
    one = laspy.read(geossl.points.classify(tmp_path / "in", model, out=tmp_path / "whole.laz")[0])
    two = [laspy.read(p) for p in geossl.points.classify(scans, model, out=tmp_path / "parts")]
    assert len(whole.points) == len(one.points)
    west = x < LEFT + 21.3
    cut = np.concatenate([np.asarray(f.classification) for f in two])
    joined = np.concatenate([np.asarray(one.classification)[~west], np.asarray(one.classification)[west]])
    assert (cut == joined).mean() > 0.98  # the random return numbers of the two sets of files differ


def test_what_does_not_fit_is_refused_and_nothing_is_written(scans, encoder, model, tmp_path):
    objects = PointTransformer(point_spec("tiny", Clouds(points=64), groups=8, group_size=4))
    images = CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=8))
    out = tmp_path / "x.tif"
    for wrong, message in (
        (objects, "trained on whole objects"),
        (images, "takes images, not point clouds"),
    ):
        with pytest.raises(WeightsError, match=message):
            geossl.points.embed(scans, wrong, out=out)
    with pytest.raises(WeightsError, match="gives no classes of points"):
        geossl.points.classify(scans, encoder, out=tmp_path / "c")
    with pytest.raises(InputError, match=r"must end in .tif"):
        geossl.points.embed(scans, encoder, out=tmp_path / "x.png")
    with pytest.raises(InputError, match="does not go with the encoder's 6 m steps"):
        geossl.points.embed(scans, encoder, out=out, cell_m=5.987)
    with pytest.raises(InputError, match="cell_m=.* is not possible; expected metres, above 0"):
        geossl.points.embed(scans, encoder, out=out, cell_m=-1.0)
    with pytest.raises(InputError, match="min_points=100000 points; lower it"):
        geossl.points.embed(scans, encoder, out=out, min_points=100_000)
    with pytest.raises(InputError, match=r"is one file, but there are 2 scans"):
        geossl.points.classify(scans, model, out=tmp_path / "one.laz")
    with pytest.raises(InputError, match="is an input of this call, too"):
        geossl.points.classify(scans, model, out=scans)
    with pytest.raises(InputError, match="no setting 'steps'"):
        geossl.points.finetune(scans, encoder, out=tmp_path / "m.safetensors", steps=3)
    with pytest.raises(InputError, match="must name every LAS class"):
        geossl.points.finetune(scans, encoder, out=tmp_path / "m.safetensors", classes={"a": [2], "b": [2]})
    with pytest.raises(InputError, match="class 'water' has no points"):
        geossl.points.finetune(scans, encoder, out=tmp_path / "m.safetensors", classes={"a": [2], "water": [9]})
    assert list(tmp_path.iterdir()) == []


def objects(path, n=20):
    """Balls and rods, three fifths for training."""
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(2 * n, 60, 3)) * np.where(np.arange(2 * n) % 2, 1.0, 0.1)[:, None, None] ** [0, 1, 1]
    y, cut = np.arange(2 * n) % 2, n
    names = ["rod", "ball"]
    np.savez(path, x_train=clouds[:cut], y_train=y[:cut], x_test=clouds[cut:], y_test=y[cut:], class_names=names)
    return path


def test_encoders_of_points_are_judged_like_others(tmp_path):
    torch.manual_seed(0)
    encoder = PointTransformer(
        point_spec("tiny", Clouds(points=48), groups=8, group_size=8, width=24, depth=3, heads=4)
    )
    data, out = objects(tmp_path / "o.npz"), tmp_path / "r.html"
    found = geossl.evaluate(encoder, data, protocol=["knn", "linear"], out=out, baselines=True)
    assert out.is_file()
    best = max(score.values["accuracy"] for score in found.scores.values())
    assert best > 0.8  # rods and balls: even random weights tell them apart
    protocols = ["svm", "2-way-4-shot", "finetune"]
    tasks = geossl.evaluate(encoder, data, protocol=protocols, epochs=6, out=out).scores
    assert list(tasks) == protocols
    assert tasks["svm"].values["accuracy"] > 0.8
    assert tasks["2-way-4-shot"].values["accuracy"] > 0.65
    assert tasks["finetune"].values["accuracy"] > 0.9  # after a dozen updates: batch norms keep up
    again = geossl.evaluate(encoder, data, protocol=protocols, epochs=6, out=out).scores
    assert {k: v.to_dict() for k, v in again.items()} == {k: v.to_dict() for k, v in tasks.items()}
    with pytest.raises(InputError, match="3-way-4-shot needs 3 classes"):
        geossl.evaluate(encoder, data, protocol="3-way-4-shot", out=out)
    with pytest.raises(InputError, match="'5-way' is not known; use .*, svm, .*all, or episodes such as 5-way-10-shot"):
        geossl.evaluate(encoder, data, protocol="5-way", out=out)
    np.savez(tmp_path / "same.npz", x=np.random.default_rng(0).random((4, 9, 3)), y=[0] * 4, class_names=["a", "b"])
    with pytest.raises(InputError, match="same holds samples of one class only"):
        geossl.evaluate(encoder, tmp_path / "same.npz", out=out)
    np.savez(tmp_path / "plain.npz", x=np.zeros((4, 9, 3)))
    with pytest.raises(InputError, match="does not hold two classes"):
        geossl.evaluate(encoder, tmp_path / "plain.npz", out=out)


def run(*arguments):
    return CliRunner().invoke(main, ["points", *map(str, arguments)])


def test_the_command_line_embeds_learns_and_classifies(scans, encoder, tmp_path):
    done = run("embed", scans, "--encoder", encoder, "--out", tmp_path / "e.tif", "--cell", 6)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "e.png").exists()
    with rasterio.open(tmp_path / "e.tif") as file:
        values, *_ = embedded(scans, encoder, tmp_path / "f.tif", cell_m=6.0)
        np.testing.assert_array_equal(file.read(), values)
    names = ["--class", "ground=2", "--class", "up=5,6"]
    model = tmp_path / "m.safetensors"
    done = run("finetune", scans, "--encoder", encoder, *names, "--max-steps", 3, "--out", model)
    assert done.exit_code == 0, done.output
    assert "ground" in done.output
    assert "mIoU" in done.output
    assert json.loads(model.with_suffix(".json").read_text())["classes"] == {"ground": [2], "up": [5, 6]}
    done = run("classify", scans, "--model", model, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = {int(c) for path in (tmp_path / "out").iterdir() for c in laspy.read(path).classification}
    assert found <= {2, 5, 6}
    learn = ("finetune", "--encoder", encoder, *names, "--max-steps", 3)
    outs = {"embed": tmp_path / "e.tif", "finetune": model, "classify": tmp_path / "out"}
    for verb, *rest in (("embed", "--encoder", encoder), ("classify", "--model", model), learn):
        out = outs[verb]
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        done = run(verb, scans, *rest, "--out", out)
        assert done.exit_code == 2
        assert "exists; choose another name, or --overwrite" in done.stderr
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        assert run(verb, scans, *rest, "--out", out, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embd"], "no command 'embd' in `geossl points`; did you mean 'embed'?"),
        (["embed", "SCANS"], "Missing option '--encoder'"),
        (["embed", "nowhere", "--encoder", "ENCODER"], "nowhere"),
        (["embed", "SCANS", "--encoder", "ENCODER", "--out", "x.png"], r"must end in .tif"),
        (["embed", "SCANS", "--encoder", "ENCODER", "--cell", "0"], "cell"),
        (["finetune", "SCANS", "--encoder", "ENCODER", "--class", "roof"], "'roof' is not NAME=CODES"),
        (["finetune", "SCANS", "--encoder", "ENCODER", "--class", "roof=x"], "'roof=x' is not NAME=CODES"),
        (["finetune", "SCANS", "--encoder", "ENCODER", "--class", "=2"], "'=2' is not NAME=CODES"),
        (["finetune", "SCANS", "--encoder", "ENCODER", "--class", "a=2", "--class", "a=3"], "names 'a' twice"),
        (
            ["finetune", "SCANS", "--encoder", "ENCODER", "--lr", "nan"],
            "lr=nan is not possible; expected a learning rate above 0",
        ),
        (["finetune", "SCANS", "--encoder", "ENCODER", "--class", "sea=9"], "sea"),
        (["classify", "SCANS", "--model", "ENCODER"], "gives no classes of points"),
    ],
)
def test_what_points_cannot_do_is_one_line(scans, encoder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*({"SCANS": scans, "ENCODER": encoder}.get(a, a) for a in arguments))
    assert done.exit_code == 2, done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert message.replace("\\", "") in done.stderr
    assert not any(tmp_path.iterdir())


def test_interrupted_points_do_not_promise_to_go_on(scans, encoder, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("geossl.cli.points.line", lambda _: stop)
    done = run("embed", scans, "--encoder", encoder, "--out", tmp_path / "e.tif")
    assert done.exit_code == 130
    assert "--overwrite replaces them" in done.stderr
    assert "run the same command again" not in done.stderr
    assert not any(tmp_path.iterdir())
