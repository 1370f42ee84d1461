"""Maps with a time axis: one plan and one store for several dates, and what the verbs make of them."""

import shutil
import warnings

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr

import geossl
from geossl.errors import InputError, Note
from tests.data.conftest import write_raster

DAYS = {"s1": ("20230112", "20230620"), "s2": ("20230110", "20230120", "20230615")}
SETTINGS = {"shard_cells": 2, "reach": 1, "dtype": "float32", "picture": False}


@pytest.fixture(scope="module")
def dated(scene, tmp_path_factory):
    """The scene on five days, each a little different, two of one month; nothing from February to May."""
    folder = tmp_path_factory.mktemp("dated")
    for sensor, days in DAYS.items():
        with rasterio.open(scene / f"{sensor}.tif") as file:
            numbers, about = file.read(), {"left": file.transform.c, "top": file.transform.f}
            tags = {"names": file.descriptions, "BOA_ADD_OFFSET": "0"} if sensor == "s2" else {}
        (folder / sensor).mkdir()
        for i, day in enumerate(days):
            changed = numbers + np.asarray(i if sensor == "s1" else 40 * i, numbers.dtype)
            write_raster(folder / sensor / f"{day}.tif", changed, **about, **tags)
    return folder


def source(dated, **settings):
    return geossl.Rasters(s1=dated / "s1", s2=dated / "s2", **{"every": "month", "date": "2023-01/2023-06", **settings})


@pytest.fixture(scope="module")
def months(scene, dated, encoder):
    """A map of six months, four of them empty."""
    out = dated / "months.zarr"
    with pytest.warns(Note, match="no s2 scene in 2023-02, 2023-03, 2023-04, 2023-05; these months are missing"):
        geossl.embed_map(scene / "aoi.geojson", source(dated), encoder=encoder, out=out, **SETTINGS)
    return out


def test_it_reads_natively_and_an_empty_month_is_nodata(months):
    found = xr.open_zarr(months)
    assert found.embeddings.dims == ("time", "embedding", "y", "x")
    assert [str(day)[:10] for day in found.time.values] == [f"2023-0{month}-01" for month in range(1, 7)]
    assert found.attrs["geossl:periods"] == [f"2023-0{month}" for month in range(1, 7)]
    known = np.isfinite(found.embeddings.values).all(axis=1).any(axis=(1, 2))
    assert known.tolist() == [True, False, False, False, False, True]
    assert (found.sensors.sel(time="2023-03") == 0).all()
    assert not list(months.glob("*/c/2"))  # no file where there is nothing


def test_a_date_has_the_bits_of_a_map_of_its_own(months, scene, dated, encoder):
    alone = geossl.Rasters(s1=dated / "s1" / "20230620.tif", s2=dated / "s2" / "20230615.tif")
    out = dated / "june.zarr"
    geossl.embed_map(scene / "aoi.geojson", alone, encoder=encoder, out=out, **SETTINGS)
    june = geossl.open(out).values
    np.testing.assert_array_equal(geossl.open(months, time="2023-06").values, june)
    np.testing.assert_array_equal(geossl.open(months).sel(time="2023-06").values[0], june)
    copied = geossl.export(months, dated / "copied.zarr", time="2023-06")
    np.testing.assert_array_equal(geossl.open(copied).values, june)
    assert geossl.open(copied).dims == ("embedding", "y", "x")
    damaged = next(path for path in (copied / "embeddings/c").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(InputError, match="is missing or cut short"):
        geossl.open(copied)


def test_a_broken_off_map_resumes_and_is_verified(months, scene, dated, encoder):
    out = dated / "again.zarr"

    def stop(done, _wanted, _unit):
        if done >= 3:
            raise KeyboardInterrupt

    args, settings = (scene / "aoi.geojson", source(dated)), {"encoder": encoder, "out": out, **SETTINGS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        with pytest.raises(KeyboardInterrupt, match="run again to resume"):
            geossl.embed_map(*args, progress=stop, **settings)
        geossl.embed_map(*args, **settings)
        np.testing.assert_array_equal(geossl.open(out).values, geossl.open(months).values)
        found = geossl.verify(out, encoder=encoder, shards=2, time="2023-06")
        assert set(found["time"]) == {"2023-06"}
        assert set(found["result"]) == {"equal"}
        lost = next(path for path in (out / "embeddings/c/5").rglob("*") if path.is_file())
        lost.unlink()
        with pytest.raises(InputError, match="shard 5, . of 'embeddings'|shard 5, ., . of 'embeddings'"):
            geossl.open(out)
        geossl.embed_map(*args, **settings)
    np.testing.assert_array_equal(geossl.open(out).values, geossl.open(months).values)


def test_scenes_take_the_nearest_radar_within_twelve_days(dated, scene, encoder):
    found = source(dated, every="scene", date=None).source()
    assert found.periods == ("2023-01-10", "2023-01-20", "2023-06-15")
    files = [{sensor: [f.date for f in kept] for sensor, kept in part.files.items()} for (part,) in found.parts]
    assert files[0] == {"s1": ["20230112"], "s2": ["20230110"]}
    assert files[2] == {"s1": ["20230620"], "s2": ["20230615"]}
    (late,) = [dated / "s1" / "20230620.tif"]
    alone = geossl.Rasters(s1=late, s2=dated / "s2", every="scene").source()
    assert [part.sensors for (part,) in alone.parts] == [("s2",), ("s2",), ("s1", "s2")]
    assert source(dated, every="season", date="2022-12/2023-08").source().periods == ("2022-12", "2023-03", "2023-06")


def test_dates_that_are_not_there_or_not_said_are_refused(months, dated):
    place = "3.0,41.5"
    for time, said in (
        (None, r"is of 6 dates \(2023-01, 2023-02, .* 2023-06\); name one with .*2023-01"),
        ("2023", "time 2023 names 6 dates of map"),
        ("2024-01", "time 2024-01 is not in map .*, which has 2023-01"),
        ("june", "time 'june' is not a period"),
    ):
        with pytest.raises(InputError, match=said):
            geossl.similar(months, place, time=time)
    with pytest.raises(InputError, match="is of one image; leave it out"):
        geossl.open(dated / "june.zarr", time="2023-06")
    with pytest.raises(InputError, match="time 2023-01 names 1 dates for 2 maps"):
        geossl.change(months, months, time="2023-01")
    with pytest.raises(InputError, match=r"every makes a map of several dates, which \.tif cannot hold"):
        geossl.embed_map(dated / "aoi.geojson", source(dated), out="map.tif")


def test_a_sample_has_a_row_per_point_and_date(months):
    box = geossl.open(months).odc.geobox.geographic_extent.boundingbox
    points = pd.DataFrame(
        {"lon": [(box.left + box.right) / 2] * 2, "lat": [(box.bottom + box.top) / 2] * 2, "n": [0, 1]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = geossl.sample(months, points)
        one = geossl.sample(months, points, time="2023-06")
    assert found["n"].tolist() == [0] * 6 + [1] * 6
    assert found["time"].tolist() == [f"2023-0{month}" for month in range(1, 7)] * 2
    assert found["e000"].notna().tolist() == [True, False, False, False, False, True] * 2
    np.testing.assert_array_equal(one["e000"], found.loc[found["time"] == "2023-06", "e000"])


def test_a_model_of_all_dates_answers_for_maps_of_such_dates(months, dated, scene, encoder):
    out = dated / "model.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        geossl.finetune(scene / "parcels.gpkg", column="crop", map=months, encoder=encoder, out=out)
        geossl.segment(map=months, model=out, out=dated / "crops.tif")
    with rasterio.open(dated / "crops.tif") as file:
        classes, grid = file.read(1), file.transform
    fields = gpd.read_file(scene / "parcels.gpkg").to_crs(32631)
    names = sorted(fields["crop"].unique())
    middle = fields.geometry.centroid
    columns, rows = ~grid @ (middle.x.to_numpy(), middle.y.to_numpy())
    inside = (rows >= 0) & (rows < classes.shape[0]) & (columns >= 0) & (columns < classes.shape[1])
    called = classes[rows[inside].astype(int), columns[inside].astype(int)]
    truth = np.array([names.index(name) for name in fields["crop"][inside]])
    assert (called == truth)[called != 255].mean() > 0.9
    with pytest.raises(InputError, match=r"learned from 6 dates side by side, .*june.zarr has one image: give a "):
        geossl.segment(map=dated / "june.zarr", model=out, out=dated / "other.tif")


def test_other_dates_of_the_same_plan_are_refused(months, scene, dated, encoder, tmp_path):
    for path in (months, months.with_name("months.zarr.build")):
        shutil.copytree(path, tmp_path / path.name)
    with pytest.raises(InputError, match="was started with another source, times"):
        geossl.embed_map(
            scene / "aoi.geojson",
            source(dated, date="2023-01/2023-02"),
            encoder=encoder,
            out=tmp_path / months.name,
            **SETTINGS,
        )
