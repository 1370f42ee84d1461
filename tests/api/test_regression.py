import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

import geossl
from geossl.api.finetune.run import summary
from geossl.errors import InputError, MissingFileError, Note
from geossl.models.files import load_encoder
from tests.api.conftest import FIELD, LEFT, SIDE, TOP
from tests.api.test_finetune import DECODER

AMOUNT = {"forest": 200.5, "water": 3.25, "wheat": 50.75}


@pytest.fixture(scope="module")
def amounts(fields):
    """Fields with an amount that their pixels give away, but for a tenth of it."""
    noise = np.random.default_rng(3).normal(1, 0.05, len(fields))
    return fields.assign(agbm=[AMOUNT[crop] * n for crop, n in zip(fields["crop"], noise, strict=True)])


@pytest.fixture(scope="module")
def plots(amounts):
    """Points in all fields, two in each of some patches, as a table."""
    rng = np.random.default_rng(4)
    x = LEFT + rng.uniform(0, 10 * SIDE, 300)
    y = TOP - rng.uniform(0, 10 * SIDE, 300)
    column, row = ((x - LEFT) // (10 * FIELD)).astype(int), ((TOP - y) // (10 * FIELD)).astype(int)
    value = amounts["agbm"].to_numpy()[row * (SIDE // FIELD) + column]
    points = gpd.GeoSeries(gpd.points_from_xy(x, y), crs=32631).to_crs(4326)
    return pd.DataFrame({"lon": points.x, "lat": points.y, "value": value, "plot": np.arange(300)})


def s2(scene):
    return geossl.Rasters(s2=scene / "s2.tif")


def report(model):
    return json.loads(model.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def model(scene, encoder, amounts, tmp_path_factory):
    out = tmp_path_factory.mktemp("ridge") / "m.safetensors"
    return geossl.finetune(amounts, s2(scene), column="agbm", unit="t/ha", encoder=encoder, out=out)


@pytest.fixture(scope="module")
def map_(scene, encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("map") / "m.zarr"
    region = gpd.GeoDataFrame(geometry=[shapely.box(LEFT, TOP - 10 * SIDE, LEFT + 10 * SIDE, TOP)], crs=32631)
    return geossl.embed_map(region, s2(scene), encoder=encoder, out=out, dtype="float32")


def test_fractions_are_learned_as_amounts_and_the_report_says_how_well(model):
    found = report(model)
    values = found["scores"]["s2"]["values"]
    assert list(values) == ["r2", "rmse", "mae", "bias", "coverage"]
    assert values["r2"] > 0.9
    assert 0.75 < values["coverage"] <= 1
    assert (found["target"], found["unit"], found["classes"]) == ("agbm", "t/ha", [])
    assert found["held_out"]["s2"]["interval"]["folds"] == 5
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.html", "m.json", "m.safetensors"]
    assert "test patches are unlike the labels" in summary(model)
    assert "<img" in model.with_suffix(".html").read_text()


def test_coverage_is_that_of_test_blocks_the_interval_has_not_seen(scene, encoder, amounts, model, tmp_path):
    kept = load_encoder(model)
    table = kept.amount.intervals["s2"]
    assert table == {k: report(model)["held_out"]["s2"]["interval"][k] for k in ("at", "half")}
    wide = geossl.finetune(
        amounts, s2(scene), column="agbm", level=0.5, encoder=encoder, out=tmp_path / "m.safetensors"
    )
    assert report(wide)["scores"]["s2"]["values"]["coverage"] < report(model)["scores"]["s2"]["values"]["coverage"]
    assert max(load_encoder(wide).amount.intervals["s2"]["half"]) < max(table["half"])


def test_a_value_map_holds_value_interval_and_trust_and_its_totals_agree_with_the_ground(
    scene, model, amounts, tmp_path
):
    stands = amounts.iloc[[33, 47]].assign(name=["one", "two"])
    out = geossl.segment(scene / "aoi.geojson", s2(scene), model=model, totals=stands, out=tmp_path / "v.tif")
    names = ["v.png", "v.qml", "v.tif", "v_applicability.qml", "v_applicability.tif", "v_totals.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    with rasterio.open(out) as file:
        value, low, high = file.read()
        assert file.units == ("t/ha",) * 3
    known = np.isfinite(value)
    assert (low[known] < value[known]).all()
    assert (value[known] < high[known]).all()
    table = pd.read_csv(tmp_path / "v_totals.csv")
    assert table["name"].tolist() == ["one", "two"]
    np.testing.assert_allclose(table["mean"], stands["agbm"], atol=25)
    np.testing.assert_allclose(table["total"], table["mean"] * table["hectares"], rtol=1e-4)
    np.testing.assert_allclose(table["hectares"], (10 * FIELD) ** 2 / 1e4, rtol=2e-3)
    assert table["total_unit"].tolist() == ["t", "t"]


def test_shards_do_not_change_a_value_map(scene, model, tmp_path):
    one = geossl.segment(scene / "aoi.geojson", s2(scene), model=model, out=tmp_path / "one.tif")
    four = geossl.segment(
        scene / "aoi.geojson", s2(scene), model=model, out=tmp_path / "four.tif", shard_cells=4, batch_size=3
    )
    for ending in (".tif", "_applicability.tif", "_totals.csv"):
        first, second = (path.with_name(f"{path.stem}{ending}") for path in (one, four))
        assert first.read_bytes() == second.read_bytes(), ending


def test_points_of_a_table_teach_from_a_finished_map(plots, map_, encoder, tmp_path):
    plots.to_csv(tmp_path / "plots.csv", index=False)
    with pytest.warns(Note, match="points share a patch of 80 m with others: their mean counts"):
        model = geossl.finetune(
            tmp_path / "plots.csv", map=map_, encoder=encoder, unit="t/ha", out=tmp_path / "m.safetensors"
        )
    found = report(model)
    assert list(found["scores"]) == ["s2"]
    assert found["scores"]["s2"]["values"]["r2"] > 0.8
    assert found["labelled_patches"] <= 300
    out = geossl.segment(map=map_, model=model, out=tmp_path / "v.tif")
    with rasterio.open(out) as file:
        x, y = (
            gpd.GeoSeries(gpd.points_from_xy(plots["lon"], plots["lat"]), crs=4326)
            .to_crs(32631)
            .get_coordinates()
            .to_numpy()
            .T
        )
        value = np.array([v[0] for v in file.sample(zip(x, y, strict=True))])
    assert np.corrcoef(value, plots["value"])[0, 1] > 0.85


def test_pixels_and_a_map_of_them_teach_the_same(scene, encoder, amounts, map_, model, tmp_path):
    other = geossl.finetune(amounts, column="agbm", map=map_, encoder=encoder, out=tmp_path / "m.safetensors")
    assert report(other)["scores"]["s2"]["values"] == report(model)["scores"]["s2"]["values"]


@pytest.mark.parametrize("head", ["knn", "mlp", "forest"])
def test_every_head_learns_amounts(plots, map_, encoder, tmp_path, head, recwarn):
    model = geossl.finetune(plots, map=map_, head=head, encoder=encoder, out=tmp_path / "m.safetensors")
    assert report(model)["scores"]["s2"]["values"]["r2"] > 0.6


def test_a_decoder_learns_amounts_per_pixel(scene, encoder, amounts, tmp_path):
    settings = {**DECODER, "max_steps": 30, "check_every": 15}
    model = geossl.finetune(
        amounts, s2(scene), column="agbm", head="unet", encoder=encoder, out=tmp_path / "m.safetensors", **settings
    )
    found = report(model)
    assert found["validation_r2"] > 0
    assert "coverage" in found["scores"]["s2"]["values"]
    out = geossl.segment(scene / "aoi.geojson", s2(scene), model=model, out=tmp_path / "v.tif")
    with rasterio.open(out) as file:
        assert file.res == (10, 10)
        assert np.isfinite(file.read(1)).any()


def test_an_encoder_is_evaluated_on_amounts(scene, encoder, amounts, tmp_path):
    found = geossl.evaluate(
        encoder, amounts, column="agbm", protocol="linear", source=s2(scene), image_px=64, out=tmp_path / "r.html"
    )
    assert list(found.scores["linear"].values) == ["r2", "rmse", "mae", "bias"]
    assert found.scores["linear"].values["r2"] > 0.8
    with pytest.raises(InputError, match="protocol svm is for classes, and labels holds amounts; use knn, linear, mlp"):
        geossl.evaluate(encoder, amounts, column="agbm", protocol="svm", source=s2(scene), out=tmp_path / "s.html")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"column": "crop", "task": "regress"}, "holds 'wheat', which is not a number; task regress needs numbers"),
        ({"column": "crop", "unit": "t/ha"}, "unit is for amounts; these labels are classes"),
        ({"level": 1.2}, "level=1.2 is not possible; expected a share"),
        ({"radius_m": 30.0}, "radius_m is for points"),
        ({"radius_m": -3.0}, "radius_m=-3.0 is not possible; expected metres"),
        ({"map": "none.zarr"}, "map none.zarr does not exist"),
        ({"map": "map.tif"}, "map map.tif must be a .zarr embedding map"),
        ({"column": "crop", "head": "ridge"}, "head ridge is for amounts; these labels are classes: use linear"),
        ({"head": "ridg"}, "head 'ridg' is not known"),
    ],
)
def test_what_cannot_be_learned_is_refused(scene, encoder, amounts, tmp_path, change, message):
    source = None if "map" in change else s2(scene)
    settings = {"column": "agbm", "encoder": encoder, "out": tmp_path / "m.safetensors", **change}
    with pytest.raises((InputError, MissingFileError), match=message):
        geossl.finetune(amounts, source, **settings)
    assert not list(tmp_path.iterdir())


def test_a_map_that_does_not_fit_is_refused(map_, other_encoder, encoder, plots, amounts, tmp_path):
    out = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="was made by croma.*name that one, or leave map out"):
        geossl.finetune(plots, map=map_, encoder=other_encoder, out=out)
    swapped = plots.rename(columns={"lon": "lat", "lat": "lon"})
    with pytest.raises(
        InputError, match="no label lies on valid patches of map .* which spans longitudes .* right way round"
    ):
        geossl.finetune(swapped, map=map_, encoder=encoder, out=out)
    with pytest.raises(InputError, match="head unet learns from pixels, which a map does not hold"):
        geossl.finetune(plots, map=map_, head="unet", encoder=encoder, out=out)
    with pytest.raises(InputError, match="dims does nothing beside map"):
        geossl.finetune(plots, map=map_, dims=8, encoder=encoder, out=out)
    model = geossl.finetune(amounts, column="agbm", map=map_, encoder=encoder, out=out)
    with pytest.raises(InputError, match="polygons outlines classes; this model gives amounts"):
        geossl.segment(map=map_, model=model, polygons=tmp_path / "p.gpkg", out=tmp_path / "v.tif")
