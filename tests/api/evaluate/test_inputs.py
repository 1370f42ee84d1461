import numpy as np
import pytest
import torch
from PIL import Image

import geossl
from geossl.data.datasets.find import read_set
from geossl.errors import BandError, InputError
from geossl.evaluation.features import features
from geossl.models.encoders.series_vit import SeriesViT, series_spec
from geossl.models.spec import ImageGeometry
from geossl.sensors import SensorSpec

S2 = SensorSpec(("B04", "B08"), "reflectance", "L2A", (0.1, 0.3), (0.05, 0.1))
RGB = SensorSpec(("R", "G", "B"), "0..1", "8 bit", (0.5,) * 3, (0.25,) * 3)


def encoder(sensors, **changes):
    torch.manual_seed(0)
    shape = {"dim": 16, "depth": 1, "heads": 2, "patch_px": 4}
    return SeriesViT(series_spec(sensors, ImageGeometry(window_px=8), **(shape | changes))).eval()


def write_series(path, n=60, **changes):
    """Two classes that differ in when their near-infrared is high, not in how high it is."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=n)
    days = np.tile(np.array([60, 120, 180, 240], np.float32), (n, 1))
    high = np.where(y[:, None] == 1, days > 150, days < 150)
    x = rng.integers(900, 1100, size=(n, 4, 3, 8, 8)).astype(np.uint16)
    x[:, :, 2] += (2500 * high)[..., None, None].astype(np.uint16)
    values = {
        "x": x,
        "y": y,
        "days": days,
        "bands": ["B02", "B4", "B08"],
        "class_names": ["early", "late"],
        "offset": 0,
    }
    np.savez(path, **(values | changes))
    return path


def test_a_season_is_told_from_a_series_and_bands_are_found_by_name(tmp_path):
    found = geossl.evaluate(
        encoder({"s2": S2}), write_series(tmp_path / "fields.npz"), protocol="linear", out=tmp_path / "report.html"
    )
    (scores,) = found.scores.values()
    assert scores.values["accuracy"] > 0.9


def test_without_time_the_season_is_lost(tmp_path):
    found = geossl.evaluate(
        encoder({"s2": S2}, time="none"), write_series(tmp_path / "f.npz"), protocol="linear", out=tmp_path / "r.html"
    )
    (scores,) = found.scores.values()
    assert scores.values["accuracy"] < 0.8


def test_vectors_are_the_encoders_own_and_empty_pixels_are_missing(tmp_path):
    path = write_series(tmp_path / "f.npz", 8)
    arrays = dict(np.load(path))
    arrays["x"][3, 1] = 0
    np.savez(path, **arrays)
    data, model = read_set(path), encoder({"s2": S2})
    items = [{"clip": item["s2"][:, 1:], "days": item["days"]} for item in data.items]
    x = arrays["x"][:, :, 1:].astype(np.float32) / 10000
    x[3, 1] = np.nan
    with torch.no_grad():
        ours = model.pooled(torch.from_numpy(x), torch.from_numpy(arrays["days"])).numpy()
    np.testing.assert_allclose(features(model, items, batch_size=3), ours, atol=1e-6)


def write_videos(root, frames=6):
    """Two classes: squares that move right, and squares that move left."""
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = root / ("left", "right")[number % 2] / f"{number}"
        folder.mkdir(parents=True)
        top = int(rng.integers(0, 20))
        for t in range(frames):
            picture = np.full((24, 32, 3), 40, np.uint8)
            at = 4 + 3 * (t if number % 2 else frames - 1 - t)
            picture[top : top + 4, at : at + 6] = 230
            Image.fromarray(picture).save(folder / f"{t}.png")
    return root


def test_videos_by_class_are_judged_at_the_size_of_training(tmp_path):
    data = read_set(write_videos(tmp_path / "motion"))
    assert data.classes == ("left", "right")
    assert data.items[0]["rgb"].shape == (16, 3, 24, 24)
    model = encoder({"rgb": RGB}, time="index", tubelet=2)
    found = geossl.evaluate(model, data, protocol="knn", out=tmp_path / "r.html")
    (scores,) = found.scores.values()
    assert 0 <= scores.values["accuracy"] <= 1


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    report = tmp_path / "r.html"
    wanted = SensorSpec(("B12",), "reflectance", "L2A", (0.1,), (0.1,))
    with pytest.raises(BandError, match="has no s2 band B12"):
        geossl.evaluate(encoder({"s2": wanted}), write_series(tmp_path / "f.npz"), out=report)
    with pytest.raises(InputError, match="expected x \\(n t c h w\\), y \\(n\\), days"):
        read_set(write_series(tmp_path / "f.npz", days=np.zeros(3)))
    images = write_series(tmp_path / "f.npz", x=np.full((60, 3, 8, 8), 2000, np.uint16))
    with pytest.raises(InputError, match="holds no clips, which series_vit needs"):
        geossl.evaluate(encoder({"s2": S2}), images, out=report)
    assert not report.exists()
