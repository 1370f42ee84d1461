import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from torchmetrics.classification import MulticlassJaccardIndex

import geossl
from geossl.api.evaluate.segmentation import patch_classes
from geossl.data.datasets.base import Bands, MapParts, SegmentationDataset
from geossl.errors import InputError, UnknownNameError
from geossl.models.download import ReleasedWeights, sha256_of
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.croma_weights import to_layout
from geossl.sensors import S1, S2
from geossl.training.decoder import confusions, train_decoder
from geossl.training.early_stopping import FinetuneConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=48, margin_px=8, dim=32, depth=2, heads=4)).eval()


def chips(n, seed):
    """Left and right half of a chip differ in radar and in optical brightness; the border moves."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        border = 8 * int(torch.randint(1, 4, (1,), generator=generator))
        labels = torch.where(torch.arange(32) < border, 1, 2).expand(32, 32).contiguous()
        s1 = torch.where(labels == 1, -8.0, -16.0).expand(2, 32, 32) + torch.randn(2, 32, 32, generator=generator)
        s2 = torch.where(labels == 1, 0.1, 0.3).expand(12, 32, 32) + 0.02 * torch.randn(12, 32, 32, generator=generator)
        found.append({"s1": s1, "s2": s2, "labels": labels})
    return found


NAMES = ("dark", "bright")
SENSORS = {"s1": Bands(S1.bands, "dB", "not stated"), "s2": Bands(S2.bands, "reflectance", "L2A")}


@pytest.fixture
def halves():
    parts = MapParts(chips(12, 0), chips(6, 1), chips(8, 2))
    return SegmentationDataset("halves", lambda split, seed: parts, NAMES, SENSORS)


def test_patches_and_pixels_are_judged(encoder, halves, tmp_path):
    found = geossl.evaluate(
        encoder, halves, protocol="all", sensors="s1,s2", epochs=1, out=tmp_path / "r.html", baselines=True
    )
    for head in ("knn", "linear", "mlp"):
        assert found.scores[f"croma_tiny / {head}"].values["accuracy"] > 0.9
    for decoder in ("linear-upsample, frozen", "unet, frozen", "unet, fine-tuned"):
        scores = found.scores[f"croma_tiny / {decoder}"]
        assert next(iter(scores.values)) == "miou"
        assert scores.confusion.sum() == 8 * 32 * 32
    assert "band statistics / linear" in found.scores
    assert not any("band statistics" in row and "unet" in row for row in found.scores)
    assert "miou" in (tmp_path / "r.html").read_text()


def test_every_set_of_sensors_is_judged_by_the_same_head(encoder, halves, tmp_path):
    found = geossl.evaluate(encoder, halves, protocol="linear", sensors=("s1", "s2", "s1,s2"), out=tmp_path / "r.html")
    assert list(found.scores) == ["s1 / linear", "s2 / linear", "s1+s2 / linear"]
    assert all(scores.values["accuracy"] > 0.9 for scores in found.scores.values())


@pytest.mark.parametrize("decoder", ["linear-upsample", "unet"])
def test_a_decoder_learns_on_a_frozen_encoder(encoder, halves, decoder):
    parts = halves.parts("auto", 0)
    config = FinetuneConfig(lrs=(1e-3,), epochs=12, batch_size=4)
    model, chosen = train_decoder(encoder, decoder, ["s1"], NAMES, (only(parts.train), only(parts.val)), config, seed=0)
    counts = confusions(model, only(parts.test)).sum(0)
    assert np.trace(counts) / counts.sum() > 0.9
    assert chosen["val_score"] > 0.8


def test_the_test_chips_cannot_change_a_decoder(encoder, halves):
    parts = halves.parts("auto", 0)
    config = FinetuneConfig(lrs=(1e-3,), epochs=2, batch_size=4)
    models = [
        train_decoder(encoder, "unet", ["s1"], NAMES, (only(parts.train), only(parts.val)), config, seed=0)
        for _ in range(2)
    ]
    (one, chosen), (two, again) = models
    assert chosen == again
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def only(chips, sensor="s1"):
    return [{sensor: chip[sensor], "labels": chip["labels"]} for chip in chips]


def test_a_frozen_encoder_stays_and_a_trained_one_moves(encoder, halves):
    parts = halves.parts("auto", 0)
    config = FinetuneConfig(lrs=(1e-3,), epochs=1, batch_size=4)
    for moves in (False, True):
        model, _ = train_decoder(
            encoder,
            "linear-upsample",
            ["s1"],
            NAMES,
            (only(parts.train), only(parts.val)),
            config,
            0,
            train_encoder=moves,
        )
        same = all(
            torch.equal(a, b)
            for a, b in zip(model.encoder.state_dict().values(), encoder.state_dict().values(), strict=True)
        )
        assert same != moves


def test_miou_of_pixels_agrees_with_torchmetrics(encoder, halves, tmp_path):
    parts = halves.parts("auto", 0)
    config = FinetuneConfig(lrs=(1e-4,), epochs=1, batch_size=4)
    model, _ = train_decoder(
        encoder, "unet", ["s2"], NAMES, (only(parts.train, "s2"), only(parts.val, "s2")), config, 0
    )
    test = only(parts.test, "s2")
    with torch.no_grad():
        called = model.probabilities({"s2": torch.stack([chip["s2"] for chip in test])}).argmax(dim=1)
    truth = torch.stack([chip["labels"] for chip in test]) - 1
    counts = confusions(model, test).sum(0)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    theirs = MulticlassJaccardIndex(2, average=None)(called, truth)
    np.testing.assert_allclose(iou, theirs.numpy(), rtol=1e-5)


def test_pixels_without_data_of_any_sensor_are_judged_for_none(encoder, halves, tmp_path):
    parts = halves.parts("auto", 0)
    for part in parts:
        for chip in part:
            chip["s2"][:, :16] = torch.nan
    found = geossl.evaluate(encoder, halves, protocol="segmentation", sensors="s1", epochs=1, out=tmp_path / "r.html")
    scores = next(iter(found.scores.values()))
    assert scores.confusion.sum() == 8 * 16 * 32


def test_patches_take_the_commonest_class():
    labels = torch.zeros(8, 16, dtype=torch.long)
    labels[:, 8:] = 2
    labels[:3, 8:] = 1
    labels[:4, :8] = 1
    assert patch_classes([{"labels": labels}], 8).tolist() == [1, 2]
    labels[3, :8] = 0
    assert patch_classes([{"labels": labels}], 8).tolist() == [0, 2]


def scene(path, bands, values, dtype):
    profile = {"driver": "GTiff", "count": len(bands), "width": 160, "height": 160, "dtype": dtype, "crs": 32631}
    with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, 499200, 0, -10, 4600320), **profile) as file:
        file.write(values.astype(dtype))
        file.descriptions = bands
        file.update_tags(BOA_ADD_OFFSET="0")


def test_a_users_polygons_over_rasters_are_a_data_set(encoder, tmp_path):
    rng = np.random.default_rng(0)
    stripes = (np.arange(160) // 20 % 2)[None, None, :]
    scene(
        tmp_path / "s1.tif",
        ("VV", "VH"),
        -12 - 6 * stripes - np.array([0, 6])[:, None, None] + rng.normal(0, 0.5, (2, 160, 160)),
        "float32",
    )
    scene(tmp_path / "s2.tif", S2.bands, 1000 + 2000 * stripes + rng.integers(0, 200, (12, 160, 160)), "uint16")
    left = 499200 + 200 * np.arange(8)
    frame = gpd.GeoDataFrame(
        {"crop": ["wheat", "maize"] * 4},
        geometry=[shapely.box(x, 4600320 - 1600, x + 200, 4600320) for x in left],
        crs=32631,
    )
    frame.to_file(tmp_path / "fields.gpkg")
    source = geossl.Rasters(s1=tmp_path / "s1.tif", s2=tmp_path / "s2.tif")
    options = {"column": "crop", "source": source, "image_px": 32}
    for labels in (frame, tmp_path / "fields.gpkg"):
        found = geossl.evaluate(encoder, labels, protocol="linear", out=tmp_path / "r.html", **options)
        assert found.scores["linear"].values["accuracy"] > 0.8
    assert json.loads((tmp_path / "r.json").read_text())["classes"] == ["maize", "wheat"]
    with pytest.raises(
        InputError, match=r"holds labels without images; name the scenes they lie over, such as with s2"
    ):
        geossl.evaluate(encoder, tmp_path / "fields.gpkg", column="crop", out=tmp_path / "r.html")
    with pytest.raises(InputError, match="split 'random' is not possible here"):
        geossl.evaluate(encoder, frame, split="random", out=tmp_path / "r.html", **options)


def test_misfits_are_one_line(encoder, halves, tmp_path):
    out = tmp_path / "r.html"
    with pytest.raises(UnknownNameError, match="unknown data set 'eurosatt'; did you mean 'eurosat'"):
        geossl.evaluate(encoder, "eurosatt", out=out)
    with pytest.raises(InputError, match="perturbations are for images with one label each"):
        geossl.evaluate(encoder, halves, perturbations={"same": lambda item, i: item}, out=out)
    (tmp_path / "f").mkdir()
    with pytest.raises(InputError, match="root and download=True are for data sets known by name"):
        geossl.evaluate(encoder, tmp_path / "f", root=tmp_path, out=out)
    assert not out.exists()


def test_released_weights_work_end_to_end(encoder, halves, tmp_path, monkeypatch):
    file = tmp_path / "CROMA_base.pt"
    torch.save(to_layout(encoder, "released"), file)
    stand_in = ReleasedWeights(file.as_uri(), sha256_of(file), "stand_in.pt", "MIT")
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(geossl.models.download.ENCODERS, "croma_base", stand_in)
    found = geossl.evaluate("croma_base", halves, protocol="linear", out=tmp_path / "r.html")
    assert found.scores["linear"].values["accuracy"] > 0.9
    assert json.loads((tmp_path / "r.json").read_text())["encoder_sha256"] == sha256_of(file)
    assert (tmp_path / "cache" / "stand_in.pt").is_file()
