import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

import geossl
from geossl.api.sampling import draw_samples
from geossl.cli import main
from geossl.data.sentinel.aligned import SAMPLE
from geossl.errors import InputError, Note

REGION = Path(__file__).parents[2] / "examples" / "region.geojson"
OPTICAL = geossl.Rasters(s2=SAMPLE / "s2")
SMALL = {"train__max_steps": 30, "train__log_every": 10, "data__count": 3000, "encoder__hidden": [16]}


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """A run on the bundled scenes, short."""
    folder = geossl.pretrain("regularized_ae", out=str(tmp_path_factory.mktemp("run") / "r"), **SMALL)
    return folder / "encoder.safetensors"


@pytest.fixture(scope="module")
def raster(spectra, tmp_path_factory):
    out = tmp_path_factory.mktemp("map") / "anomaly.tif"
    return geossl.anomaly(REGION, OPTICAL, encoder=spectra, out=out)


def test_every_pixel_gets_what_the_auto_encoder_says_of_its_spectrum(spectra, raster):
    with rasterio.open(raster) as file:
        assert file.descriptions == ("score_norm", "energy", "p_value")
        assert (file.res, file.crs.to_epsg()) == ((10.0, 10.0), 32718)
        layers = file.read()
    found = xr.open_dataset(raster, engine="rasterio")["band_data"]
    pixels = geossl.cube(found, OPTICAL)["s2"].values
    valid = np.isfinite(pixels).all(0) & np.isfinite(layers[0])
    assert valid.mean() > 0.5
    model = geossl.load_encoder(spectra).autoencoder
    rows = torch.from_numpy(pixels[:, valid].T.astype(np.float32))
    expected = torch.stack(model.novelty(rows)).detach().numpy()
    np.testing.assert_allclose(layers[:, valid], expected, rtol=1e-3, atol=1e-3)
    p = layers[2][valid]
    assert 0 <= p.min() < p.max() <= 1


def test_a_run_that_lost_its_file_after_the_last_step_makes_it_again(spectra, tmp_path):
    shutil.copytree(spectra.parent, tmp_path / "r")
    (tmp_path / "r" / "encoder.safetensors").unlink()
    folder = geossl.pretrain("regularized_ae", out=str(tmp_path / "r"), resume=True, **SMALL)
    before, again = load_file(spectra), load_file(folder / "encoder.safetensors")
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_shards_do_not_matter(spectra, raster, tmp_path):
    again = geossl.anomaly(REGION, OPTICAL, encoder=spectra, out=tmp_path / "a.tif", shard_cells=1)
    with rasterio.open(raster) as one, rasterio.open(again) as two:
        np.testing.assert_array_equal(one.read(), two.read())


def test_embeddings_can_be_judged_too(spectra, tmp_path):
    codes = geossl.embed_map(REGION, OPTICAL, encoder=spectra, out=tmp_path / "codes.zarr", picture=False)
    run = geossl.pretrain("regularized_ae", out=str(tmp_path / "r"), data__source=str(codes), **SMALL)
    out = geossl.anomaly(encoder=run / "encoder.safetensors", map=codes, out=tmp_path / "a.tif")
    with rasterio.open(out) as file:
        p = file.read(3)
    embeddings = geossl.open(codes)
    assert np.array_equal(np.isfinite(p), np.isfinite(embeddings.values).all(0))
    with pytest.raises(InputError, match="is not an auto-encoder of embeddings"):
        geossl.anomaly(encoder=spectra, map=codes, out=tmp_path / "b.tif")
    other = geossl.embed_map(
        REGION, OPTICAL, encoder=small(tmp_path, hidden=[8]), out=tmp_path / "other.zarr", picture=False
    )
    with pytest.raises(InputError, match="holds vectors of length 8, the auto-encoder learned from 16"):
        geossl.anomaly(encoder=run / "encoder.safetensors", map=other, out=tmp_path / "b.tif")


def small(folder, hidden):
    out = str(folder / "small")
    return geossl.pretrain("regularized_ae", out=out, **{**SMALL, "encoder__hidden": hidden}) / "encoder.safetensors"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--aoi", str(REGION)], "no pixels asked for"),
        (["--s2", str(SAMPLE / "s2")], "--aoi is missing"),
        (["--aoi", str(REGION), "--s1", str(SAMPLE / "s1")], "the auto-encoder was trained on s2; give s2, too"),
        (["--aoi", str(REGION), "--s2", str(SAMPLE / "s2"), "--out", "a.png"], "must end in .tif"),
        (["--map", "."], "is not an auto-encoder of embeddings"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(spectra, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["anomaly", "--encoder", str(spectra), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("patch", [1, 4])
def test_samples_are_drawn_and_shown(tmp_path, patch):
    run = geossl.pretrain(
        "regularized_ae", out=str(tmp_path / "r"), **{**SMALL, "data__patch_px": patch, "encoder__keep": 8}
    )
    for change, message in (({"out": "s.xyz"}, "must end in .png"), ({"chains": 0}, "chains=0, kept=4")):
        with pytest.raises(InputError, match=message):
            draw_samples(run / "encoder.safetensors", **{"out": tmp_path / "s.png", **change})
    settings = {"out": tmp_path / "new" / "s.png", "chains": 60, "kept": 4, "thin": 30, "burn_in": 100}
    with pytest.warns(Note, match="the chains do not agree"):  # of so short a training
        found = draw_samples(run / "encoder.safetensors", **settings)
    assert found.samples.shape == (4, 60, 12 * patch**2)
    assert np.isfinite(found.samples).all()
    assert len(Image.open(tmp_path / "new" / "s.png").convert("RGB").getcolors(2**24)) > 50
