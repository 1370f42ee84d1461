"""The engine around the encoder: which sensors answered, finer maps, zones, plans, memory, failures, clusters."""

import json
import os
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from distributed import LocalCluster

from geossl.errors import GridError, InputError, Note, RunError
from geossl.grid import Aoi, read_aoi
from geossl.inference.engine import estimate, workers
from geossl.inference.engine.lazy import embed
from geossl.inference.engine.plan import BuildFolder
from geossl.inference.engine.run import dry_run, embed_map
from geossl.inference.outputs.raster import open_map
from geossl.models.files import read_encoder
from tests.inference.conftest import ORIGIN, SHAPE, Dated, Memory
from tests.inference.engine.test_map import make, scene, tree
from tests.processes import forked_workers, peak_memory


@dataclass(frozen=True)
class Holes(Memory):
    """Radar in the west half only, optical in the east three quarters only."""

    def load(self, geobox):
        cube = super().load(geobox)
        column = (cube["x"].values - ORIGIN[0]) / 10
        cube["s1"].values[..., column > SHAPE[1] / 2] = np.nan
        cube["s2"].values[..., column < SHAPE[1] / 4] = np.nan
        return cube


@dataclass(frozen=True)
class Broken(Memory):
    """Cannot read what lies east of a line, as long as the mark is there."""

    mark: str = ""

    def load(self, geobox):
        if Path(self.mark).exists() and geobox.extent.boundingbox.right > ORIGIN[0] + 2000:
            raise RunError("the disk is gone")
        return super().load(geobox)


def test_sensors_may_be_missing_anywhere_and_the_map_says_which_answered(region, croma_file, tmp_path):
    (out,) = embed_map(region, Holes(), croma_file, tmp_path / "h.zarr", dtype="float32")
    flags = xr.open_zarr(out)["sensors"].values
    found = open_map(out).values
    assert set(np.unique(flags)) == {0, 1, 2, 5, 7}  # radar alone, optical alone, joint without and with optical
    assert ((flags > 0) == np.isfinite(found[0])).all()
    radar, optical = (
        make(tmp_path / f"{s}.zarr", region, croma_file, source=Memory(sensors=(s,))).values for s in ("s1", "s2")
    )
    far_west, far_east = (flags == 1)[:, :4].nonzero(), (flags == 2)[:, -6:].nonzero()
    np.testing.assert_array_equal(found[:, :, :4][:, *far_west], radar[:, :, :4][:, *far_west])
    np.testing.assert_array_equal(found[:, :, -6:][:, *far_east], optical[:, :, -6:][:, *far_east])
    assert min(len(far_west[0]), len(far_east[0])) > 50


def test_dates_are_those_of_most_pixels(region, croma_file, tmp_path):
    (out,) = embed_map(region, Dated(), croma_file, tmp_path / "d.zarr")
    days = xr.open_zarr(out)["date"]
    west = days["x"].values < ORIGIN[0] + 1600
    assert str(days.values[10, west][5])[:10] == "2016-06-05"  # day 6000
    assert str(days.values[10, ~west][5])[:10] == "2019-03-02"


@pytest.mark.parametrize(("gsd_m", "shifts"), [(40.0, (-2, 2)), (20.0, (-3, -1, 1, 3))])
def test_a_cell_of_a_finer_map_encodes_the_patch_around_its_own_centre(region, identity_file, tmp_path, gsd_m, shifts):
    found = make(tmp_path / "f.zarr", region, identity_file, gsd_m=gsd_m)
    n = len(shifts)
    assert found.odc.geobox.resolution.x == gsd_m
    pixels = found.odc.geobox.zoom_out(10 / gsd_m)
    for i, j in ((0, 0), (n - 1, 0), (1, n - 1)):
        cube = Memory().load(pixels.translate_pix(shifts[j], shifts[i]))
        expected = np.concatenate([patches(cube[name].values) for name in ("s1", "s2")])
        own, valid = found.values[:, i::n, j::n], np.isfinite(expected).all(0)
        assert valid.sum() > 900
        np.testing.assert_array_equal(own[:, valid], expected[:, valid])


def patches(x):
    """Pixels of every 8 px patch, as the identity encoder orders them."""
    c, h, w = x.shape
    return x.reshape(c, h // 8, 8, w // 8, 8).transpose(0, 2, 4, 1, 3).reshape(-1, h // 8, w // 8)


def test_a_finer_cube_gives_the_bits_of_the_store(region, croma_file, tmp_path):
    stored = make(tmp_path / "f.zarr", region, croma_file, gsd_m=40.0, shard_cells=2)
    lazily = embed(scene().chunk(x=96, y=80), read_encoder(croma_file), gsd_m=40.0)
    one, two = xr.align(stored, lazily, join="inner")
    both = np.isfinite(one.values[0]) & np.isfinite(two.values[0])
    assert both.sum() > 3600
    np.testing.assert_array_equal(one.values[:, both], two.values[:, both])


def test_impossible_cells_are_refused(region, croma_file, tmp_path):
    with pytest.raises(GridError, match="cannot have cells of 30 m; possible are 80, 40, 20 m"):
        embed_map(region, Memory(), croma_file, tmp_path / "a.zarr", gsd_m=30.0)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_it_takes_and_writes_nothing(region, croma_file, tmp_path):
    (found,) = dry_run(region, Memory(), croma_file, tmp_path / "a.zarr", shard_cells=3, scheduler="processes:2")
    assert not list(tmp_path.iterdir())
    embed_map(region, Memory(), croma_file, tmp_path / "a.zarr", shard_cells=3)
    receipts = [json.loads(p.read_text()) for p in (tmp_path / "a.zarr.build/receipts").iterdir()]
    assert found["shards"] == len(receipts)
    assert found["computed_km2"] == pytest.approx(found["windows"] * 0.32**2, abs=0.1)
    assert sum(r["patches"] for r in receipts) <= 16 * found["windows"]
    assert found["area_km2"] == pytest.approx(7.5, abs=0.5)
    assert found["seconds"] >= found["encode_seconds"]
    assert found["read_seconds"] >= 0
    assert (found["workers"], found["sensors"], found["crs"]) == (2, ["s1", "s2"], "EPSG:32631")


def test_a_map_that_cannot_fit_is_refused_with_what_would(region, croma_file, tmp_path, monkeypatch):
    memory = estimate.psutil.virtual_memory()._replace(available=620_000_000)
    monkeypatch.setattr(estimate.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(
        InputError, match=r"1 worker\(s\) would need .* GB each.*shard_cells \d+ batch_size 1 would fit"
    ):
        embed_map(region, Memory(), croma_file, tmp_path / "a.zarr", shard_cells=10, batch_size=64)
    assert not list(tmp_path.iterdir())


def test_a_polygon_costs_what_it_touches(region, croma_file, tmp_path):
    west, south, east, north = region.geometry.bounds
    diagonal = shapely.LineString([(west, south), (east, north)]).buffer(0.0012)
    whole, sparse = (
        dry_run(Aoi(g, "a"), Memory(), croma_file, tmp_path / "a.zarr")[0] for g in (region.geometry, diagonal)
    )
    assert sparse["windows"] < 0.6 * whole["windows"]


@pytest.mark.parametrize("scheduler", ["sync", "processes:1"])  # a worker started anew, as a user's is
def test_what_fails_is_told_the_rest_is_kept_and_the_next_run_ends_it(region, croma_file, tmp_path, scheduler):
    mark = tmp_path / "mark"
    mark.touch()
    out = tmp_path / "b.zarr"
    with pytest.raises(RunError, match=r"\d+ of 12 shards failed \(first: shard 0, \d: .*the disk is gone"):
        embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3, scheduler=scheduler)
    kept = len(list((tmp_path / "b.zarr.build/receipts").iterdir()))
    assert 0 < kept < 12
    mark.unlink()
    embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3)
    embed_map(region, Broken(mark=str(mark)), croma_file, tmp_path / "c.zarr", shard_cells=3)
    assert tree(out) == tree(tmp_path / "c.zarr")


def test_one_is_written_while_the_next_is_encoded_and_nothing_is_written_after_a_stop():
    encoding, done = threading.Event(), []

    def encode(work, task, cube):
        assert cube == ("pixels", task)
        if task == 2:
            encoding.set()
        return task

    def finish(work, task, made):
        done.append((task, encoding.wait(5)))

    made = workers.here(None, [1, 2, 3], lambda work, task: ("pixels", task), encode, finish)
    assert next(made) == (1, None)
    made.close()
    assert done == [(1, True)]


def test_what_fails_may_be_left_empty_and_the_next_run_makes_just_that(region, croma_file, tmp_path):
    mark, out = tmp_path / "mark", tmp_path / "b.zarr"
    mark.touch()
    settings = {"shard_cells": 3, "on_error": "skip"}
    with pytest.warns(Note, match=r"\d+ of 12 shards failed .*they are nodata and listed in .*: the same command"):
        embed_map(region, Broken(mark=str(mark)), croma_file, out, **settings)
    places = json.loads((tmp_path / "b.missing.geojson").read_text())["features"]
    kept = {path.name for path in (tmp_path / "b.zarr.build/receipts").iterdir()}
    assert len(places) + len(kept) == 12
    assert "the disk is gone" in places[0]["properties"]["reason"]
    holes = open_map(out).load()
    mark.unlink()
    embed_map(region, Broken(mark=str(mark)), croma_file, out, **settings)
    whole = open_map(embed_map(region, Broken(mark=str(mark)), croma_file, tmp_path / "c.zarr", shard_cells=3)[0])
    assert tree(out) == tree(tmp_path / "c.zarr")
    assert not (tmp_path / "b.missing.geojson").exists()
    empty = np.isnan(holes.values[0]) & np.isfinite(whole.values[0])
    assert 0.1 < empty.mean() < 0.9
    np.testing.assert_array_equal(holes.values[:, ~empty], whole.values[:, ~empty])


def test_a_region_over_two_zones_becomes_a_folder_with_one_map_per_zone(croma_file, tmp_path):
    wide = Aoi(shapely.box(2.999, 41.54, 2.9991, 41.541) | shapely.box(3.02, 41.54, 3.03, 41.545), "x")
    assert [p.name for p in embed_map(wide, Everywhere(), croma_file, tmp_path / "one.zarr")] == ["one.zarr"]
    wider = Aoi(shapely.box(2.9, 41.54, 2.903, 41.543) | shapely.box(8.0, 41.54, 8.003, 41.543), "x")
    paths = embed_map(wider, Everywhere(), croma_file, tmp_path / "two.zarr")
    assert [str(p.relative_to(tmp_path)) for p in paths] == ["two/utm31n.zarr", "two/utm32n.zarr"]
    assert [open_map(p).odc.geobox.crs.to_epsg() for p in paths] == [32631, 32632]


@dataclass(frozen=True)
class Everywhere(Memory):
    """Pixels at any place, of any zone."""

    def footprints(self, crs):
        return {name: shapely.box(-1e7, -1e7, 1e7, 1e7) for name in self.sensors}

    def load(self, geobox):
        cube = super().load(geobox)
        return cube.map(lambda x: x.fillna(0.1 if "s2_band" in x.dims else -10.0))


@pytest.fixture(scope="module")
def cluster():
    """Address of a running cluster of one worker."""
    with forked_workers(), LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("way", ["address", "file"])
def test_a_running_cluster_gives_the_same_store(region, croma_file, cluster, tmp_path, way):
    if way == "file":
        (tmp_path / "scheduler.json").write_text(
            json.dumps({"address": cluster, "type": "Scheduler", "id": "x", "workers": {}})
        )
    scheduler = cluster if way == "address" else f"file:{tmp_path}/scheduler.json"
    embed_map(region, Memory(), croma_file, tmp_path / "d.zarr", shard_cells=3, scheduler=scheduler)
    embed_map(region, Memory(), croma_file, tmp_path / "s.zarr", shard_cells=3)
    assert tree(tmp_path / "d.zarr") == tree(tmp_path / "s.zarr")


@pytest.mark.parametrize("scheduler", ["slurm", "processes:0", "processes:x", "file:none.json", "tcp://127.0.0.1:9"])
def test_schedulers_that_are_not_there_are_refused_and_nothing_is_left(
    region, croma_file, tmp_path, scheduler, monkeypatch
):
    monkeypatch.setattr(workers, "ANSWER_S", 1.0)
    with pytest.raises(InputError, match=r"scheduler .*(is not known|does not exist|does not answer)"):
        embed_map(region, Memory(), croma_file, tmp_path / "a.zarr", scheduler=scheduler)
    assert not list(tmp_path.iterdir())


def embed_square(side, encoder, out):
    square = Aoi(shapely.box(3.0, 41.5, 3.0 + side, 41.5 + side), "a")
    embed_map(square, Everywhere(), encoder, out, shard_cells=6)


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
def test_memory_does_not_grow_with_the_region(croma_file, tmp_path):
    small = peak_memory(embed_square, 0.02, croma_file, tmp_path / "small.zarr")
    for attempt in range(3):  # what grows grows every time; the allocator of a busy machine does not
        large = peak_memory(embed_square, 0.07, croma_file, tmp_path / f"large{attempt}.zarr")
        if large < small + 30_000:  # kB
            break
    shards = [len(list((tmp_path / f"{name}.zarr.build/receipts").iterdir())) for name in ("small", "large0")]
    assert shards[1] >= 4 * shards[0]
    assert large < small + 30_000


def test_a_map_that_is_being_written_is_locked_and_a_dead_writers_lock_is_not_in_the_way(region, croma_file, tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    out = tmp_path / "l.zarr"
    with pytest.raises(RunError, match="the disk is gone"):
        embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3)
    lock = tmp_path / "l.zarr.build/lock"
    lock.write_text(f"{socket.gethostname()} {os.getppid()}")
    with pytest.raises(RunError, match=rf"is being written by process {os.getppid()} on .*; wait for it, or delete"):
        embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3)
    lock.write_text("another-machine 1")
    with pytest.raises(RunError, match="is being written by process 1 on another-machine"):
        embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3)
    lock.write_text("")  # left by a full disk: the writer comes as far as its own fault
    with pytest.raises(RunError, match="the disk is gone"):
        embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3)
    assert not lock.exists()
    mark.unlink()
    lock.write_text(f"{socket.gethostname()} 999999999")
    embed_map(region, Broken(mark=str(mark)), croma_file, out, shard_cells=3)
    assert not lock.exists()


def test_a_hole_in_the_region_is_not_computed(region, croma_file, tmp_path):
    west, south, east, north = region.geometry.bounds
    width, height = east - west, north - south
    hole = shapely.box(west + 0.2 * width, south + 0.2 * height, east - 0.2 * width, north - 0.2 * height)
    (whole,) = embed_map(region, Memory(), croma_file, tmp_path / "w.zarr", shard_cells=2, dtype="float32")
    (holed,) = embed_map(
        Aoi(region.geometry - hole, "a"), Memory(), croma_file, tmp_path / "h.zarr", shard_cells=2, dtype="float32"
    )
    one, two = open_map(whole).values, open_map(holed).values
    assert np.isfinite(two[0]).sum() < 0.8 * np.isfinite(one[0]).sum()
    both = np.isfinite(two[0])
    np.testing.assert_array_equal(two[:, both], one[:, both])


def test_a_region_across_the_antimeridian_becomes_a_map_on_each_side(croma_file, tmp_path):
    strip = shapely.Polygon([(179.985, -17.0), (-179.985, -17.0), (-179.985, -17.01), (179.985, -17.01)])
    frame = gpd.GeoDataFrame(geometry=[strip], crs=4326)
    paths = embed_map(read_aoi(frame), Everywhere(), croma_file, tmp_path / "fiji.zarr", shard_cells=3)
    assert [p.name for p in paths] == ["utm01s.zarr", "utm60s.zarr"]
    widths = [open_map(path).sizes["x"] * 80 for path in paths]
    assert max(widths) < 3000  # 1.6 km and whole cells, no band around the Earth
    assert all(np.isfinite(open_map(path).values).any() for path in paths)


@pytest.mark.parametrize(
    "wrong",
    [{"patches": 1.5}, {"patches": True}, {"fed": [1]}, {"fed": {"s1": "2"}}, {"files": []}, {"files": {"a": 1}},
     {"files": {"a": [1]}}, {"files": {"a": [1, None]}}, {"patches": None}],
)  # fmt: skip
def test_a_damaged_receipt_is_named(tmp_path, wrong):
    build = BuildFolder(tmp_path / "a.zarr")
    build.receipts.mkdir(parents=True)
    good = {"patches": 5, "fed": {"s1": 2}, "files": {"valid": [7, 8]}}
    build.write(build.marker((0, 1)), good)
    totals = {"patches": 1, "s1": 0, "s2": 0}
    assert build.read((0, 1), totals) == {"valid": (7, 8)}
    assert totals == {"patches": 6, "s1": 2, "s2": 0}
    build.write(build.marker((0, 1)), good | wrong)
    with pytest.raises(InputError, match=r"0_1.json is damaged; delete it, and the same command makes that shard"):
        build.read((0, 1), totals)


def test_looking_for_finished_shards_reads_no_receipt(tmp_path):
    build = BuildFolder(tmp_path / "m.zarr")
    build.receipts.mkdir(parents=True)
    for row, column in ((0, 3), (12, 0)):
        receipt = {"patches": 5, "fed": {"s1": 2, "s2": row}}
        build.write(build.receipts / f"{row}_{column}.json", receipt)
    (build.receipts / "1_1.tmp").write_text("cut")
    assert build.done() == {(0, 3), (12, 0)}
    (build.receipts / "7_7.json").write_text("not looked into")
    assert len(build.done()) == 3


class Fails(NamedTuple):
    """What fails so often for a shard, noted in a file each time, since workers are processes of their own."""

    folder: Path
    times: dict

    def __call__(self, work, shard):
        assert work == "work"
        tries = self.folder / f"{shard}.tries"
        with tries.open("a") as file:
            file.write("x")
        if len(tries.read_text()) <= self.times.get(shard, 0):
            raise RunError("the host said no") if shard == "refused" else OSError(f"{shard} failed")


def test_a_shard_that_fails_for_no_reason_known_is_sent_again(cluster, tmp_path):
    shards = [f"good{i}" for i in range(200)] + ["once", "twice", "always", "refused"]  # several to a task of Dask
    task = Fails(tmp_path, {"once": 1, "twice": 2, "always": 9, "refused": 9})
    found = list(workers.results(cluster, task, "work", shards))
    assert sorted(name for name, _ in found) == sorted(shards)  # each is told once
    assert {name: str(error) for name, error in found if error} == {
        "always": "always failed", "refused": "the host said no"
    }  # fmt: skip
    tries = {path.stem: len(path.read_text()) for path in tmp_path.glob("*.tries")}
    assert {name: count for name, count in tries.items() if count != 1} == {"once": 2, "twice": 3, "always": 3}
