"""One command from a polygon and a period to a map, over real HTTP."""

import json
import time

import numpy as np
import pytest
import rasterio
import xarray as xr
from shapely.geometry import mapping

import geossl as package
from geossl import retries
from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.stac import download
from tests.data.stac.test_search import region, spot
from tests.end_to_end.test_cli import encoder, geossl, refused  # noqa: F401  (a fixture)
from tests.inference.engine.test_map import tree
from tests.processes import kill_when, start
from tests.servers import scenes
from tests.servers.stac import serving


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A region, and a catalogue with a cloudy and a clear optical scene and radar."""
    monkeypatch.setattr(retries.CLOCK, "sleep", lambda seconds: None)
    files = tmp_path / "files"
    cloudy = scenes.raw(files, "cloudy", "2024-06-11T14:40:00Z", scl=spot(110, 110, 30))
    with serving(files, [cloudy, scenes.radar(files)]) as server:
        feature = {"type": "Feature", "properties": {}, "geometry": mapping(region(1500, 1500, 1700).geometry)}
        (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        yield tmp_path, server


def embed(place, file, out, *more, date="2024-06"):
    folder, server = place
    arguments = ["--aoi", "aoi.geojson", "--date", date, "--catalog", server.url, "--encoder", file, "--out", out]
    return geossl("embed", *arguments, "--shard-cells", 2, *more, cwd=folder)


def test_one_command_makes_a_map_that_says_what_it_was_made_from(place, encoder):  # noqa: F811
    done = embed(place, encoder, "m.zarr")
    assert done.exit_code == 0, done.stderr
    data = xr.open_zarr(place[0] / "m.zarr")
    made_from = data["sensors"].values
    assert {5, 7} <= set(np.unique(made_from))  # under the cloud from radar, with what optical there is around it
    assert (made_from > 0).mean() > 0.9
    days = data["date"].values
    assert str(days[made_from == 7].max())[:10] == "2024-06-11"
    plan = json.loads((place[0] / "m.zarr.build/plan.json").read_text())
    assert plan["source"]["s2"][0]["reason"] == "processing baseline 05.10"
    assert (place[0] / "m.png").exists()


def test_a_finished_or_begun_map_asks_the_catalogue_nothing(place, encoder):  # noqa: F811
    assert embed(place, encoder, "m.zarr").exit_code == 0
    before = tree(place[0] / "m.zarr")
    place[1].requests.clear()
    place[1].items.clear()
    assert embed(place, encoder, "m.zarr").exit_code == 0
    assert not place[1].requests
    assert tree(place[0] / "m.zarr") == before


def test_failing_requests_do_not_change_a_byte(place, encoder):  # noqa: F811
    assert embed(place, encoder, "calm.zarr").exit_code == 0
    place[1].faults = {"503": 0.02, "truncated": 0.02, "403": 0.01}
    assert embed(place, encoder, "stormy.zarr").exit_code == 0
    one, two = (xr.open_zarr(place[0] / f"{name}.zarr") for name in ("calm", "stormy"))
    assert one.drop_attrs().equals(two.drop_attrs())
    assert tree(place[0] / "calm.zarr") == tree(place[0] / "stormy.zarr")


def test_doctor_says_in_ten_lines_what_a_catalogue_has(place):
    folder, server = place
    server.items.append({**server.items[0], "id": "bare", "assets": {}})
    done = geossl("doctor", "--catalog", server.url, "--aoi", "aoi.geojson", "--date", "2024-06", cwd=folder)
    assert done.exit_code == 0, done.stderr
    bands = "B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12, SCL"
    assert done.stdout.splitlines() == [
        f"catalog   {server.url}, --aoi aoi.geojson, 2024-06-01 to 2024-06-30",
        "s1        1 scenes of sentinel-1-rtc, 1 can be read, 1 days",
        "levels    gamma0, linear power to dB (1)",
        "orbits    ascending 10 (1)",
        "platforms not stated (1)",
        "holes     100 % of the region covered; longest gap 19 days from 2024-06-12",
        "s2        2 scenes of sentinel-2-l2a, 1 can be read, 1 days",
        "clouds    3 to 3 %, median 3 %; 1 days below 20 %; tiles not stated (1)",
        "levels    L2A, baselines 05.10 (2); offsets -1000 by processing baseline 05.10 (1)",
        "platforms not stated (2)",
        f"holes     100 % of the region covered; longest gap 19 days from 2024-06-12; item bare lacks {bands}; it has ",
    ]
    refused(geossl("doctor", "--aoi", "aoi.geojson", "--date", "2024-06", cwd=folder), "doctor needs --catalog")
    asked = ["--aoi", "aoi.geojson", "--date", "2024-06"]
    refused(geossl("doctor", "--catalog", "earthsearch", *asked, cwd=folder), "did you mean 'earth-search'")


def test_a_catalogue_without_radar_is_mapped_by_the_optical_branch_and_says_so(place, encoder):  # noqa: F811
    place[1].items.pop()
    done = embed(place, encoder, "m.zarr", "--dtype", "float32")
    assert done.exit_code == 0, done.stderr
    assert "note: no valid s1 scene over --aoi aoi.geojson in 2024-06" in done.stderr
    assert set(np.unique(xr.open_zarr(place[0] / "m.zarr")["sensors"].values)) == {0, 2}
    assert np.isfinite(package.open(place[0] / "m.zarr").values[0]).any()


def test_fetched_scenes_are_read_by_embed_and_by_pretrain(place, encoder):  # noqa: F811
    folder, server = place
    request = ["--aoi", "aoi.geojson", "--date", "2024-06", "--catalog", server.url]
    assert geossl("fetch", *request, cwd=folder).exit_code == 0
    server.requests.clear()
    assert geossl("fetch", *request, cwd=folder).exit_code == 0
    assert not [name for name in server.requests if "SCL" not in name]  # tiles are kept; only the ranking looks again
    for option, value, said in (("--composite", "median", "composite"), ("--max-cloud", "50", "max_cloud")):
        other = geossl("fetch", *request, option, value, cwd=folder)
        assert other.exit_code == 2
        assert f"was made with {said} " in other.stderr
    tiles = sorted(folder.glob("scenes/s?/*.tif"))
    whole = tiles[0].read_bytes()
    tiles[0].write_bytes(whole[: len(whole) // 2])
    again = geossl("fetch", *request, cwd=folder)
    assert f"{tiles[0].name}.damaged, and fetched again" in again.stderr
    assert tiles[0].read_bytes() == whole
    assert tiles[0].with_name(f"{tiles[0].name}.damaged").stat().st_size == len(whole) // 2
    assert [p.name.split("_")[0] for p in tiles].count("s1") == [p.name.split("_")[0] for p in tiles].count("s2") > 0
    files = ["--s1", "scenes/s1", "--s2", "scenes/s2", "--encoder", encoder, "--shard-cells", 2]
    assert geossl("embed", "--aoi", "aoi.geojson", *files, "--out", "f.zarr", cwd=folder).exit_code == 0
    assert embed(place, encoder, "d.zarr").exit_code == 0
    one, two = (package.open(folder / f"{name}.zarr").values for name in "fd")
    both = np.isfinite(one[0]) & np.isfinite(two[0])
    assert both.mean() > 0.9
    cosine = (one * two).sum(0) / np.linalg.norm(one, axis=0) / np.linalg.norm(two, axis=0)
    assert np.nanmin(cosine[both]) > 0.999
    small = ["data.source=scenes", "train.max_steps=2", "data.batch_size=4", "data.holdout=0", "probe.every_steps=0"]
    trained = geossl("pretrain", "croma", *small, f"out={folder}/run", cwd=folder)
    assert trained.exit_code == 0, trained.stderr


def fetch_slowly(place, url, out):
    write = download.write_tile

    def slow(*arguments):
        write(*arguments)
        time.sleep(0.3)

    download.write_tile = slow  # in a process of its own
    package.fetch(place / "aoi.geojson", package.Catalog("2024-06", catalog=url), out=out)


def test_a_killed_fetch_is_finished_by_the_same_call(place):
    folder, server = place
    begun, whole = folder / "begun", folder / "whole"
    kill_when(start(fetch_slowly, folder, server.url, begun), lambda: any(begun.glob("s?/*.tif")))
    assert len(list(begun.glob("s?/*.tif"))) == 1
    for out in (whole, begun):
        package.fetch(folder / "aoi.geojson", package.Catalog("2024-06", catalog=server.url), out=out)
    found = {path.relative_to(whole): path.read_bytes() for path in whole.glob("s?/*.tif")}
    assert len(found) == 2
    assert all((begun / path).read_bytes() == content for path, content in found.items())


def test_a_dry_run_counts_scenes(place, encoder):  # noqa: F811
    done = embed(place, encoder, "m.zarr", "--dry-run")
    assert "inputs                {'s1': 1, 's2': 1}" in done.stdout
    assert not (place[0] / "m.zarr").exists()


@pytest.mark.parametrize(
    ("more", "date", "word"),
    [
        ([], "June", "--date 'June' is not a period"),
        ([], "2020-01", "has no valid scene"),
        (["--composite", "best"], "2024-06", "--composite 'best' is not known"),
        (["--sensors", "s3"], "2024-06", "--sensors 's3' is not known"),
        (["--s2", "x.tif"], "2024-06", "give one or the other"),
        (["--catalog", "http://127.0.0.1:9"], "2024-06", "cannot be searched"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(place, encoder, more, date, word):  # noqa: F811
    before = sorted(p.name for p in place[0].iterdir())
    done = embed(place, encoder, "m.zarr", *more, date=date)
    done_lines = [line for line in done.stderr.splitlines() if "note:" not in line]
    assert done.exit_code == 2
    assert len(done_lines) == 1
    assert word in done_lines[0]
    assert sorted(p.name for p in place[0].iterdir()) == before


def test_neither_files_nor_a_period(place, encoder):  # noqa: F811
    refused(geossl("embed", "--aoi", "aoi.geojson", "--encoder", encoder, cwd=place[0]), "name a period with --date")


def land_cover(path, first=150, side=256):
    """The bundled classes of the ground the catalogue's scenes are mirrored from, of a square of it."""
    with rasterio.open(next((SAMPLE / "labels").glob("433D*"))) as file:
        data, tags = file.read(1), file.tags()
    tile = np.concatenate([data, data[::-1]], axis=0)
    tile = np.tile(np.concatenate([tile, tile[:, ::-1]], axis=1), (2, 2))[first : first + side, first : first + side]
    corner = rasterio.Affine(10, 0, scenes.LEFT + 10 * first, 0, -10, scenes.TOP - 10 * first)
    profile = {"driver": "GTiff", "count": 1, "height": side, "width": side, "dtype": tile.dtype, "crs": scenes.EPSG}
    with rasterio.open(path, "w", transform=corner, nodata=0, **profile) as file:
        file.write(tile, 1)
        file.update_tags(**tags)


@pytest.mark.parametrize("head", ["linear", "unet"])
def test_labels_and_a_period_are_enough_for_a_class_map(place, encoder, head):  # noqa: F811
    folder, server = place
    land_cover(folder / "labels.tif", side=128 if head == "unet" else 256)
    period = ["--date", "2024-06", "--catalog", server.url]
    few = ["--max-steps", 4, "--batch-size", 4, "--chip-px", 64] if head == "unet" else []
    learn = ["--labels", "labels.tif", "--encoder", encoder, "--head", head, *few]
    done = geossl("finetune", *learn, *period, cwd=folder)
    assert done.exit_code == 0, done.stderr
    scores = json.loads((folder / "model.json").read_text())["scores"]
    sides = {"s1+s2 side by side"} if head == "linear" else set()
    assert set(scores) == {"s1", "s2", "s1+s2"} | sides
    draw = ["--aoi", "aoi.geojson", "--model", "model.safetensors", "--shard-cells", 2]
    done = geossl("segment", *draw, *period, cwd=folder)
    assert done.exit_code == 0, done.stderr
    with rasterio.open(folder / "classes.tif") as file:
        assert file.res == ((10, 10) if head == "unet" else (80, 80))
        hectares = (file.read(1) != file.nodata).sum() * file.res[0] ** 2 / 10_000
    assert hectares == pytest.approx(1700**2 / 10_000, rel=0.05)
    assert "crops" in (folder / "classes_area.csv").read_text()


def test_a_period_without_scenes_is_one_line_and_leaves_nothing(place, encoder):  # noqa: F811
    folder, server = place
    land_cover(folder / "labels.tif")
    before = tree(folder)
    asked = ["--date", "2019-01", "--catalog", server.url, "--encoder", encoder]
    refused(geossl("finetune", "--labels", "labels.tif", *asked, cwd=folder), "2019-01", "--labels labels.tif")
    assert tree(folder) == before
