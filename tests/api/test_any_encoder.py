"""Encoders of others through the verbs, as objects and as files."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from jaxtyping import config
from torch import nn

import geossl
from geossl.cli import main
from geossl.errors import InputError
from geossl.models.heads.projection import projected

SAMPLE = Path(geossl.__file__).parent / "data" / "sample"
REGION = Path(geossl.__file__).parents[1] / "examples" / "region.geojson"
SOURCE = geossl.Rasters(s2=SAMPLE / "s2")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.GELU())
    return geossl.wrap(network, bands=("B04", "B03", "B02"), mean=0.1, std=0.1, window_px=64)


@pytest.fixture(scope="module")
def program(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    config.update("jaxtyping_disable", True)
    try:
        return geossl.export(encoder, path)
    finally:
        config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def map_of_object(encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("map") / "a.zarr"
    return geossl.embed_map(REGION, SOURCE, encoder=encoder, out=out, picture=False, dtype="float32")


def test_a_map_of_an_object_holds_the_networks_vectors(encoder, map_of_object):
    found = geossl.open(map_of_object)
    cube = geossl.cube(found.odc.geobox.zoom_out(1 / 8), SOURCE)
    pixels = torch.from_numpy(cube.s2.sel(s2_band=["B04", "B03", "B02"]).values)
    with torch.no_grad():
        want = encoder.tokens({"s2": pixels[None]})[0].permute(2, 0, 1).numpy()
    inner = np.isfinite(found.values).all(axis=0) & np.isfinite(pixels.numpy()).all(axis=0).reshape(
        found.shape[1], 8, found.shape[2], 8
    ).all(axis=(1, 3))
    assert inner.sum() > 300
    np.testing.assert_allclose(found.values[:, inner], want[:, inner], atol=1e-4)


def test_the_exported_program_gives_the_same_map(program, map_of_object, tmp_path):
    again = geossl.embed_map(REGION, SOURCE, encoder=program, out=tmp_path / "b.zarr", picture=False, dtype="float32")
    np.testing.assert_allclose(geossl.open(again), geossl.open(map_of_object), rtol=0, atol=1e-6)


def test_k_means_on_an_object_is_kept_in_a_model_that_another_process_could_use(encoder, tmp_path):
    config.update("jaxtyping_disable", True)
    try:
        first = geossl.segment(REGION, SOURCE, classes=3, encoder=encoder, out=tmp_path / "a.tif")
    finally:
        config.update("jaxtyping_disable", False)
    again = geossl.segment(REGION, SOURCE, model=tmp_path / "a_model.safetensors", out=tmp_path / "b.tif")
    assert first.with_name("a_area.csv").read_text() == again.with_name("b_area.csv").read_text()


def test_metadata_of_a_program_is_beside_it(program):
    assert json.loads(program.with_suffix(".json").read_text())["properties"]["mlm:name"] == "Sequential"


def test_exporting_refuses_what_does_nothing(encoder, map_of_object, tmp_path):
    with pytest.raises(InputError, match="dtype means nothing for an encoder"):
        geossl.export(encoder, tmp_path / "m.pt2", dtype="int8")
    with pytest.raises(InputError, match="is a map; .pt2 files are of encoders"):
        geossl.export(map_of_object, tmp_path / "m.pt2")
    with pytest.raises(InputError, match=r"must end in .pt2 or .onnx"):
        geossl.export(encoder, tmp_path / "m.tif")


def test_onnx_without_its_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("geossl.models.foreign.exporting.importlib.util.find_spec", lambda name: None)
    found = CliRunner().invoke(main, ["export", "galileo_nano", str(tmp_path / "m.onnx")])
    assert "pip install 'geossl[export]'" in str(found.exception) + found.output


def of_fields(kind, encoder, program):
    """An encoder, and numbers per patch."""
    return {"object": (encoder, None), "program": (program, None), "dims": ("croma_tiny", 16)}[kind]


@pytest.mark.parametrize("kind", ["object", "program", "dims"])
def test_heads_are_fitted_to_any_encoder_and_map_with_it(kind, encoder, program, scene, fields, tmp_path):
    used, dims = of_fields(kind, encoder, program)
    pixels = geossl.Rasters(s2=scene / "s2.tif")
    config.update("jaxtyping_disable", True)  # an object is exported into the model
    try:
        model = geossl.finetune(fields, pixels, column="crop", encoder=used, out=tmp_path / "m.safetensors", dims=dims)
    finally:
        config.update("jaxtyping_disable", False)
    scores = json.loads(model.with_suffix(".json").read_text())
    assert "s2" in str(scores)
    out = geossl.segment(scene / "aoi.geojson", pixels, model=model, out=tmp_path / "c.tif")
    with rasterio.open(out) as found, rasterio.open(out.with_name("c_confidence.tif")) as sure:
        assert set(np.unique(found.read(1))) <= {0, 1, 2, 3, 255}
        assert sure.read(1).max() > 40


def test_probes_of_fewer_numbers_are_those_of_the_projected_vectors(scene, fields, tmp_path):
    pixels = geossl.Rasters(s1=scene / "s1.tif", s2=scene / "s2.tif")
    asked = {"column": "crop", "protocol": "knn", "out": tmp_path / "r.html", "neighbours": 5}
    found = geossl.evaluate("croma_tiny", fields, source=pixels, dims=8, baselines=True, **asked)
    assert any(name.startswith("croma_tiny_8") for name in found.scores)
    assert any(name.startswith("untrained") for name in found.scores)
    by_hand = projected(geossl.load_encoder("croma_tiny"), 8)
    again = geossl.evaluate(by_hand, fields, source=pixels, **asked)
    (one, *_), (other, *_) = found.scores.values(), again.scores.values()
    assert one.values == pytest.approx(other.values)
    with pytest.raises(InputError, match="dims.9999 is not possible; croma_tiny has 1 to 128"):
        geossl.evaluate("croma_tiny", fields, source=pixels, dims=9999, **asked)


def test_dims_need_a_projection_and_pixels(map_of_object, tmp_path):
    with pytest.raises(InputError, match="dims 4: the file of galileo_nano has no projection"):
        geossl.embed_map(REGION, SOURCE, encoder="galileo_nano", out=tmp_path / "m.zarr", dims=4)
    with pytest.raises(InputError, match="dims is for classes and pixels"):
        geossl.segment(map=map_of_object, classes=3, out=tmp_path / "c.tif", dims=4)
    with pytest.raises(InputError, match="dims=0 is not possible"):
        geossl.embed_map(REGION, SOURCE, encoder="croma_tiny", out=tmp_path / "m.zarr", dims=0)
