import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine
from click.testing import CliRunner
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Geod
from rio_cogeo.cogeo import cog_validate

import geossl
from geossl.cli.commands import main
from geossl.errors import GridError, InputError, MissingFileError, Note

GRID = GeoBox((40, 50), Affine(80, 0, 400_000, 0, -80, 4_600_000), "EPSG:32631")
DIM = 6
PLACE = np.s_[:, 10:14, 20:25]  # 4 x 5 patches that change


def ground(seed=0):
    return np.random.default_rng(seed).normal(size=(DIM, *GRID.shape)) + 2


def at_date(number, changed=True):
    """The ground with noise, lighter each time."""
    data = ground() + np.random.default_rng(10 + number).normal(size=(DIM, *GRID.shape)) * 0.1 + 0.2 * number
    if changed and number:
        data[PLACE] = ground(5)[PLACE] - 4
    return data.astype(np.float32)


def written(path, data, *, grid=GRID, day="2020-06-01", sensors=None, **about):
    """A store as geossl embed makes it, as far as a comparison reads it."""
    data, coords = np.asarray(data, np.float32), xr_coords(grid)
    made = np.full(data.shape[1:], 2, np.uint8) if sensors is None else sensors
    parts = {"embeddings": (("embedding", "y", "x"), data), "sensors": (("y", "x"), made)}
    dataset = xr.Dataset(parts, {"embedding": np.arange(len(data)), **coords})
    dataset["embeddings"].attrs["grid_mapping"] = dataset["sensors"].attrs["grid_mapping"] = "spatial_ref"
    dataset.to_zarr(path, zarr_format=3, encoding={"embeddings": {"chunks": (len(data), 16, 16)}})
    known = {"geossl:encoder": "tiny", "geossl:encoder_sha256": "ab" * 32}
    known |= {"geossl:inputs": [{"id": path.stem, "day": day}], "geossl:plan_sha256": path.stem}
    known["geossl:sensors"] = about.pop("made_from", ["s2"])
    zarr.open_group(path, mode="r+").attrs.update({**known, **{f"geossl:{k}": v for k, v in about.items()}})
    zarr.consolidate_metadata(path)
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("change")
    days = ("2020-06-01", "2021-06-01", "2021-06-06")
    return [written(folder / f"{day}.zarr", at_date(i), day=day) for i, day in enumerate(days)]


def test_the_shell_finds_what_changed_and_writes_all_of_it(maps, tmp_path):
    out = tmp_path / "change.tif"
    done = CliRunner().invoke(main, ["change", *map(str, maps), "--out", str(out)])
    assert done.exit_code == 0, done.output
    places = gpd.read_file(tmp_path / "change.gpkg")
    assert list(places.columns[:3]) == ["rank", "hectares", "patches"]
    first = places.iloc[0]
    x, y, patches = 400_000 + 80 * 22.5, 4_600_000 - 80 * 12, 20
    assert first.patches >= patches
    assert first.geometry.distance(gpd.points_from_xy([x], [y])[0]) == 0
    exact, _ = Geod(ellps="WGS84").geometry_area_perimeter(places.to_crs(4326).geometry[0])
    assert first.hectares == pytest.approx(abs(exact) / 10_000, rel=1e-4)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "change.csv"), pd.DataFrame(places.drop(columns="geometry")), check_dtype=False
    )
    with rasterio.open(out) as file:
        assert file.descriptions == ("z", "p_value", "distance")
        _, p, _ = file.read()
        assert (p[PLACE[1:]] < 0.001).all()
    assert (p[np.isfinite(p)] <= 0.01).mean() == pytest.approx(20 / 2000 + 0.01, abs=0.006)
    assert cog_validate(out, strict=True)[0]
    assert (tmp_path / "change.png").stat().st_size > 10_000
    assert "20 of 2000 patches" in done.output or "of 2000 patches; 1 % false alarms would be 12.8 ha" in done.output


def test_python_gives_the_same_from_arrays_as_from_stores_whatever_the_chunks(maps):
    stored = geossl.change(*maps)
    arrays = [geossl.open(path) for path in maps]
    rechunked = geossl.change(arrays[0].chunk(y=7, x=50), arrays[1].chunk(y=40, x=9), arrays[2].load())
    for name in ("z", "p_value", "distance"):
        np.testing.assert_array_equal(stored.layers[name], rechunked.layers[name])
    assert stored.layers.odc.geobox == GRID
    pd.testing.assert_frame_equal(stored.places, rechunked.places)


def test_only_patches_of_the_same_sensors_that_are_valid_in_both_are_compared(tmp_path, maps):
    data, sensors = at_date(1), np.full(GRID.shape, 2, np.uint8)
    data[:, 0] = np.nan
    sensors[:, :5] = 7
    found = geossl.change(maps[0], written(tmp_path / "b.zarr", data, sensors=sensors), maps[2])
    z = found.layers["z"].values
    assert np.isnan(z[0]).all()
    assert np.isnan(z[:, :5]).all()
    assert np.isfinite(z[1:, 5:]).all()
    assert found.about["patches_compared"] == 39 * 45


def test_the_part_both_maps_cover_is_compared(tmp_path, maps):
    part = GRID[5:30, 10:40]
    found = geossl.change(maps[0], written(tmp_path / "b.zarr", at_date(1)[:, 5:30, 10:40], grid=part), maps[2])
    assert found.layers.odc.geobox == part
    assert found.places.patches[0] >= 20


def test_a_further_map_is_paired_with_the_nearer_date_and_its_absence_is_said(maps):
    assert geossl.change(*maps).about["stable_ground"] == [f"{maps[1]} and {maps[2]}"]
    with pytest.warns(Note, match="a third map"):
        assert geossl.change(*maps[:2]).about["stable_patches"] == 0


def test_dates_of_other_seasons_and_the_wrong_order_are_said(tmp_path, maps):
    winter = written(tmp_path / "w.zarr", at_date(1), day="2020-01-01")
    with pytest.warns(Note) as said:
        geossl.change(maps[0], winter)
    text = " ".join(str(w.message) for w in said)
    assert "later than" in text
    assert "different seasons" in text


def refusals(folder, maps):
    """What is wrong, the maps, further arguments, the error and its text."""
    moved = GeoBox(GRID.shape, GRID.transform @ Affine.translation(0.5, 0), GRID.crs)
    far = GeoBox(GRID.shape, GRID.transform @ Affine.translation(500, 0), GRID.crs)
    fine = GeoBox(GRID.shape, Affine(40, 0, 400_000, 0, -40, 4_600_000), GRID.crs)
    other = GeoBox(GRID.shape, GRID.transform, "EPSG:32632")
    data = at_date(1)
    plain = folder / "plain.zarr"
    xr.Dataset({"t": ("x", [1.0])}).to_zarr(plain, zarr_format=3)
    (folder / "f.txt").write_text("no map")
    new = {
        "lattice": written(folder / "1.zarr", data, grid=moved),
        "overlap": written(folder / "2.zarr", data, grid=far),
        "cells": written(folder / "3.zarr", data, grid=fine),
        "crs": written(folder / "4.zarr", data, grid=other),
        "encoder": written(folder / "5.zarr", data, encoder_sha256="cd" * 32),
        "reach": written(folder / "6.zarr", data, reach=5),
        "dims": written(folder / "7.zarr", data[:4]),
        "sensors": written(folder / "8.zarr", data, sensors=np.full(GRID.shape, 7, np.uint8), made_from=["s1", "s2"]),
        "nodata": written(folder / "9.zarr", np.full_like(data, np.nan)),
    }
    return [
        (new["lattice"], {}, GridError, "not on one lattice"),
        (new["overlap"], {}, GridError, "do not overlap"),
        (new["cells"], {}, GridError, "cells of 80 and 40 m"),
        (new["crs"], {}, GridError, "are in EPSG:32631 and EPSG:32632"),
        (new["encoder"], {}, InputError, "different encoders"),
        (new["reach"], {}, InputError, "different windows or reach"),
        (new["dims"], {}, InputError, "vectors of 6 and 4 numbers"),
        (new["sensors"], {}, InputError, r"made from s2 and .* was made from s1\+s2"),
        (new["nodata"], {}, InputError, "hardly a valid patch in common"),
        (maps[0], {}, InputError, "are the same map"),
        (folder / "no.zarr", {}, MissingFileError, "does not exist"),
        (plain, {}, InputError, "not an embedding map"),
        (folder / "f.txt", {}, InputError, "not an embedding map"),
        (folder / "a.tif", {}, InputError, "give the .zarr it was exported from"),
        (maps[1], {"false_alarms": 0.0}, InputError, "false_alarms=0.0 is not possible"),
        (maps[1], {"false_alarms": 2.0}, InputError, "a share above 0"),
        (maps[1], {"false_alarms": float("nan")}, InputError, "a share above 0"),
        (maps[1], {"strata": 0}, InputError, "strata=0 is not possible"),
        (maps[1], {"seed": -1}, InputError, "seed=-1 is not possible"),
        (maps[1], {"out": folder / "x.png"}, InputError, "must end in .tif"),
        (maps[1], {"out": maps[0] / "x.tif"}, InputError, "lies inside the map"),
        ("a\0.zarr", {"out": folder / "y.tif"}, InputError, "is not a file name"),
        (maps[1], {"out": folder / "none" / "x.tif"}, InputError, "does not exist; create it"),
    ]


def test_what_cannot_be_compared_is_refused_with_one_line_and_nothing_is_written(tmp_path, maps):
    for second, more, kind, text in refusals(tmp_path, maps):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(kind, match=text) as error:
            geossl.change(maps[0], second, **more)
        assert "\n" not in str(error.value)
        assert sorted(tmp_path.iterdir()) == before


def test_a_rate_finer_than_the_stable_ground_can_show_is_refused(maps):
    with pytest.raises(InputError, match="finer than 2000 patches of stable ground can show"):
        geossl.change(*maps, false_alarms=1e-4)


def test_outputs_are_kept_unless_asked_to_be_replaced(maps, tmp_path):
    (tmp_path / "c.csv").write_text("mine")
    with pytest.raises(InputError, match=r"c\.csv exists"):
        geossl.change(*maps, out=tmp_path / "c.tif")
    geossl.change(*maps, out=tmp_path / "c.tif", overwrite=True)
    assert "rank" in (tmp_path / "c.csv").read_text()


def test_nothing_changed_is_an_answer(tmp_path, maps):
    same = at_date(1, changed=False)
    calm = [written(tmp_path / f"{i}.zarr", at_date(i, changed=False)) for i in (1, 2)]
    found = geossl.change(maps[0], *calm, out=tmp_path / "c.tif", false_alarms=0.002)
    assert found.about["patches_changed"] < 20
    assert same.shape[0] == DIM
    exact = geossl.change(maps[0], geossl.open(maps[0]), out=tmp_path / "d.tif")
    assert len(exact.places) == 0
    assert len(gpd.read_file(tmp_path / "d.gpkg")) == 0
