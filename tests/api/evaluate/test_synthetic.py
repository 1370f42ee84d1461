import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geossl.api.evaluate import synthetic as detecting
from geossl.api.evaluate.run import evaluate
from geossl.cli import main
from geossl.data.sentinel.rasters import SAMPLE
from geossl.data.synthetic.build import generate
from geossl.data.synthetic.images import real_and_synthetic
from geossl.errors import BandError, InputError, Note, UnknownNameError, WeightsError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.exit_resnet import ExitResNet, exit_resnet_spec
from geossl.models.files import load_encoder, save_encoder
from geossl.training.calibration import CalibrationConfig


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A set of the bundled scenes by two generators that need no fitting."""
    return generate(tmp_path_factory.mktemp("set") / "pictures", generators=("phase", "detail"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    encoder = ExitResNet(exit_resnet_spec(10, width=4, stem="small", exits=()))
    save_encoder(path, encoder, {"recipe": {"data": {"unseen": ["detail"]}}})
    return path


def places(part):
    return {path.stem for path in part.paths}


def test_pictures_are_split_by_place_and_every_fake_has_its_real_one(pictures):
    parts = real_and_synthetic(pictures)
    assert set(parts) == {"train", "calibration", "test"}
    for one, other in (("train", "calibration"), ("train", "test"), ("calibration", "test")):
        assert places(parts[one]).isdisjoint(places(parts[other]))
    for part in parts.values():
        for number in (-1, 0, 1):
            assert places(part.where(part.generator == number)) == places(part)
    columns = {name: defaultdict(list) for name in parts}
    for name, part in parts.items():
        for path in part.paths:
            scene, _, left = path.stem.rsplit("_", 2)
            columns[name][scene].append(int(left))
    shared = columns["train"].keys() & columns["test"].keys()
    assert len(shared) >= 3
    assert all(max(columns["train"][s]) + 32 <= min(columns["test"][s]) for s in shared)  # no pixel in two parts


def test_a_fake_has_the_values_and_the_format_of_its_real_one(pictures):
    test = real_and_synthetic(pictures)["test"]
    real = {p.stem: p for p in test.where(test.generator == -1).paths}
    for path in test.where(test.generator >= 0).paths[::17]:
        with Image.open(path) as made, Image.open(real[path.stem]) as own:
            assert (made.format, made.mode, made.size, made.info) == (own.format, own.mode, own.size, own.info)
            values = [np.sort(np.asarray(x).reshape(-1, 3), axis=0) for x in (made, own)]
        np.testing.assert_array_equal(*values)
        assert path.parent.name == real[path.stem].parent.name  # same content


def test_single_values_do_not_give_the_answer_away(pictures):
    """A logistic regression on numbers that know nothing of arrangement is as good as chance."""
    parts = real_and_synthetic(pictures)

    def statistics(part):
        x = np.stack([part[i].reshape(3, -1) for i in range(len(part))])
        unique = [[len(np.unique(band)) for band in row] for row in x]
        return np.concatenate([x.min(2), x.max(2), x.mean(2), x.std(2), unique], axis=1)

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    model.fit(statistics(parts["train"]), parts["train"].origin)
    chance = model.predict_proba(statistics(parts["test"]))[:, 1]
    assert 0.45 <= roc_auc_score(parts["test"].origin, chance) <= 0.55


def test_test_images_do_not_reach_a_classifier(encoder, tmp_path):
    """The same folder with other test pictures gives the same detector, threshold and all."""
    rng = np.random.default_rng(0)
    for part in ("train", "calibration", "test"):
        for maker, top in (("real", 255), ("gan", 120)):
            (tmp_path / part / maker).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, top, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / maker / f"{i}.png")
    config = CalibrationConfig(max_steps=4, batch_size=4, hidden=8)
    before = detecting.image_classifier(load_encoder(encoder), tmp_path, config=config).state_dict()
    for path in tmp_path.glob("test/*/*.png"):
        Image.new("RGB", (32, 32), "red").save(path)
    after = detecting.image_classifier(load_encoder(encoder), tmp_path, config=config).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_same_seed_makes_the_same_files_whatever_else_is_made(tmp_path):
    for path in SAMPLE.glob("s?/433D*.tif"):
        (tmp_path / "scene" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "scene" / path.parent.name)
    both, again = (
        generate(tmp_path / "-".join(generators), source=tmp_path / "scene", generators=generators)
        for generators in (("phase", "detail"), ("phase",))
    )
    names = sorted(p.relative_to(again) for p in again.rglob("phase/*/*.png"))
    assert len(names) > 30
    assert names == sorted(p.relative_to(both) for p in both.rglob("phase/*/*.png"))
    assert all((both / n).read_bytes() == (again / n).read_bytes() for n in names)


def test_bad_wishes_are_one_line_and_write_nothing(pictures, tmp_path):
    with pytest.raises(InputError, match="exists; name a new folder"):
        generate(pictures)
    with pytest.raises(UnknownNameError, match="unknown generator 'fase'; did you mean 'phase'"):
        generate(tmp_path / "x", generators=("fase",))
    with pytest.raises(InputError, match="multiple of 8"):
        generate(tmp_path / "x", side_px=30)
    with pytest.raises(InputError, match="usable images of 104 px; they need larger scenes"):
        generate(tmp_path / "x", side_px=104, generators=("phase",))
    assert list(tmp_path.iterdir()) == []


def test_evaluate_reports_auc_and_balanced_accuracy_clean_and_perturbed(pictures, encoder, tmp_path, monkeypatch):
    config = CalibrationConfig(max_steps=15, hidden=16)
    monkeypatch.setattr(detecting, "CalibrationConfig", lambda seed: config)
    found = CliRunner().invoke(main, ["evaluate", str(encoder), str(pictures), "--out", str(tmp_path / "r.html")])
    assert found.exit_code == 0, found.output
    assert "real or generated, social network" in found.output
    numbers = json.loads((tmp_path / "r.json").read_text())
    assert numbers["not learned from"] == ["detail"]  # held out by pretraining
    assert {
        "real or generated, clean",
        "real or generated, JPEG 50",
        "generator detail, clean",
        "content crops, clean",
    } <= set(numbers["scores"])
    clean = numbers["scores"]["real or generated, clean"]["values"]
    model, test = (
        detecting.image_classifier(load_encoder(encoder), pictures, unseen=["detail"], config=config),
        real_and_synthetic(pictures)["test"],
    )
    with torch.inference_mode():
        chance = model.probabilities({"rgb": torch.from_numpy(np.stack([test[i] for i in range(len(test))]))})[:, 1]
    assert clean["auc"] == pytest.approx(roc_auc_score(test.origin, chance), abs=1e-3)
    assert clean["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(test.origin, chance >= 0.5), abs=1e-2)
    assert numbers["images"]["test"]["real"] == numbers["images"]["test"]["phase"] > 50


def test_a_calibrated_classifier_is_scored_as_it_is(pictures, encoder, tmp_path):
    model = detecting.image_classifier(
        load_encoder(encoder), pictures, config=CalibrationConfig(max_steps=10, hidden=16)
    )
    save_encoder(tmp_path / "detector.safetensors", model, {})
    test_only = tmp_path / "own"
    test_only.mkdir()
    (test_only / "test").symlink_to(pictures / "test")
    one, two = (evaluate(tmp_path / "detector.safetensors", d, out=tmp_path / "r.html") for d in (pictures, test_only))
    assert one.scores["real or generated, JPEG 75"].values == two.scores["real or generated, JPEG 75"].values
    which = detecting.image_classifier(
        load_encoder(encoder), pictures, track="generator", config=CalibrationConfig(max_steps=2)
    )
    assert which.classes == ("detail", "phase")
    with pytest.raises(WeightsError, match="expected a classifier of real or generated"):
        evaluate(which, pictures, out=tmp_path / "r.html")


def test_images_without_parts_are_split_with_a_note(pictures):
    whole = {"test": real_and_synthetic(pictures)["test"]}
    with pytest.warns(Note, match="split at random"):
        parts = detecting.assigned(whole, 0)
    assert sum(map(len, parts.values())) == len(whole["test"])
    with pytest.raises(InputError, match="have no calibration part"):
        detecting.assigned({"train": whole["test"], "test": whole["test"]}, 0)


def test_encoders_of_other_things_are_refused(pictures, tmp_path):
    radar = CROMAEncoder(croma_spec("tiny", dim=32, depth=2))
    with pytest.raises(
        BandError, match="takes 2 bands of s1 .dB., 12 bands of s2 .reflectance., but the images have 3"
    ):
        evaluate(radar, pictures, out=tmp_path / "r.html")
