from pathlib import Path

import numpy as np
from click.testing import CliRunner

import geossl
from geossl.cli import main

ROOT = Path(__file__).parents[2]
SMALL = ["encoder.depth=10", "encoder.width=4", "objective.projection=[16,8]", "data.batch_size=8", "train.max_steps=2"]


def test_pictures_are_made_once_and_an_encoder_is_pretrained_on_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path / "cache"))  # other tests make the same ones
    arguments = ["pretrain", "selfcon", *SMALL, "data.generators=[phase,detail]", "data.holdout_generators=[detail]"]
    first = CliRunner().invoke(main, [*arguments, f"out={tmp_path / 'a'}"])
    again = CliRunner().invoke(main, [*arguments, f"out={tmp_path / 'b'}"])
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert "generated" in first.output
    assert "generated" not in again.output  # those of the first run
    encoder = geossl.load_encoder(tmp_path / "a" / "encoder.safetensors")
    assert encoder.spec.architecture == "exit_resnet"
    wrong = CliRunner().invoke(main, [*arguments, "data.holdout_generators=[blend]", f"out={tmp_path / 'c'}"])
    assert wrong.exit_code == 2
    assert "generator 'blend' is not among detail, phase" in wrong.output
    assert not (tmp_path / "c").exists()


def test_a_generator_that_learns_is_asked_for_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path / "cache"))
    wrong = CliRunner().invoke(main, ["pretrain", "selfcon", "data.generators=[phase,croma]", f"out={tmp_path / 'a'}"])
    assert wrong.exit_code == 2
    assert (
        "data.generators=croma is learned, and no longer part of geossl; make the set with benchmarks" in wrong.output
    )
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_of_scenes_is_mapped_and_shards_do_not_matter(tmp_path):
    found = CliRunner().invoke(main, ["pretrain", "selfcon/sentinel2", *SMALL, f"out={tmp_path / 'run'}"])
    assert found.exit_code == 0, found.output
    maps = []
    for name, settings in (("one", {"batch_size": 3}), ("two", {"batch_size": 8, "shard_cells": 4})):
        out = geossl.embed_map(
            ROOT / "examples" / "region.geojson",
            source=geossl.Rasters(s2=ROOT / "geossl" / "data" / "sample" / "s2"),
            encoder=tmp_path / "run" / "encoder.safetensors",
            out=tmp_path / f"{name}.zarr",
            dtype="float32",
            **settings,
        )
        maps.append(geossl.open(out))
    np.testing.assert_array_equal(*maps)
    assert np.isfinite(maps[0]).mean() > 0.9
    assert float(maps[0].std("x").max()) > 0
