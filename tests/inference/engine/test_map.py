import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
import xarray as xr
from rio_cogeo.cogeo import cog_validate

from geossl.errors import BandError, GridError, InputError, Note, RunError
from geossl.grid import Aoi, Lattice
from geossl.inference.engine import run
from geossl.inference.engine.lazy import embed
from geossl.inference.engine.plan import BuildFolder
from geossl.inference.engine.run import embed_map
from geossl.inference.engine.source import check_bands, note_levels
from geossl.inference.outputs.quantize import quantize
from geossl.inference.outputs.quicklook import quicklook
from geossl.inference.outputs.raster import open_map
from geossl.models.files import read_encoder
from geossl.models.layers.patches import unpatchify
from tests.inference.conftest import ORIGIN, SHAPE, Memory
from tests.processes import forked_workers, kill_when, start


def tree(path):
    """One hash over all files of a store."""
    total = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return total.hexdigest()


def make(out, region, encoder, **settings):
    source = settings.pop("source", Memory())
    return open_map(embed_map(region, source, encoder, out, dtype="float32", **settings)[0])


def assert_same_where_both(one, two):
    """Equal bits on the patches that both maps hold; and there are such."""
    a, b = xr.align(one, two, join="inner")
    assert a.size
    np.testing.assert_array_equal(a.values, b.values)


def scene(pad=0):
    return Memory().load(Lattice(32631, 8, 10.0, 1).pixels(-ORIGIN[1] // 80 - pad, ORIGIN[0] // 80 - pad, 40, 40, 0))


@pytest.mark.parametrize(
    "identity_file",
    [(64, 16), (32, 0), (24, 8), (512, 0)],  # windows that overlap, that do not, that keep one patch, beyond the scene
    indirect=True,
)
def test_identity_gives_the_input_back_to_the_last_corner(region, identity_file, tmp_path):
    found = make(tmp_path / "a.zarr", region, identity_file, shard_cells=3)
    pixels = found.odc.geobox.zoom_out(1 / 8)
    cube = Memory().load(pixels)
    for name, bands in (("s1", slice(0, 128)), ("s2", slice(128, 896))):
        data = found.values[bands].transpose(1, 2, 0).reshape(1, -1, bands.stop - bands.start)
        picture = unpatchify(_tensor(data), 8, found.shape[1:])[0].numpy()
        inside = ~np.isnan(picture[0])
        np.testing.assert_array_equal(picture[:, inside], cube[name].values[:, inside])
        whole = np.isfinite(cube[name].values[0]).reshape(*[n for s in found.shape[1:] for n in (s, 8)]).all((1, 3))
        assert np.isfinite(found.values[0])[whole].all()
        assert whole.sum() > 1100


def _tensor(x):
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


@pytest.fixture(scope="module")
def whole_map(croma_file, tmp_path_factory):
    import pyproj

    (x, y), (h, w) = ORIGIN, SHAPE
    back = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    area = shapely.transform(shapely.box(x, y - 10 * h, x + 10 * w, y), back.transform, interleaved=False)
    return make(tmp_path_factory.mktemp("whole") / "w.zarr", Aoi(area, "all"), croma_file)


@pytest.mark.parametrize(
    "settings", [{"shard_cells": 1}, {"shard_cells": 3}, {"batch_size": 1}, {"batch_size": 4}, {"batch_size": 7}]
)
def test_shards_batches_and_region_do_not_change_a_bit(region, croma_file, whole_map, tmp_path, settings):
    assert_same_where_both(make(tmp_path / "m.zarr", region, croma_file, **settings), whole_map)


def test_overlapping_regions_agree_to_the_bit(region, croma_file, whole_map, tmp_path):
    west, south, east, north = region.geometry.bounds
    small = Aoi(shapely.box(west + 0.4 * (east - west), south, east, (north + south) / 2), "part")
    part = make(tmp_path / "p.zarr", small, croma_file)
    assert part.size < whole_map.size
    assert_same_where_both(part, whole_map)


@pytest.mark.parametrize("chunk", [None, 80, 96, 150])
def test_the_cube_gives_the_bits_of_the_store_for_any_chunks(croma_file, whole_map, chunk):
    cube = scene() if chunk is None else scene().chunk(x=chunk, y=chunk)
    out = embed(cube, read_encoder(croma_file), batch_size=3)
    assert (out.chunks is not None) == (chunk is not None)
    assert_same_where_both(out, whole_map)


def test_worker_processes_give_the_same_store(region, croma_file, tmp_path):
    embed_map(region, Memory(), croma_file, tmp_path / "sync.zarr", shard_cells=2)
    with forked_workers():
        embed_map(region, Memory(), croma_file, tmp_path / "dask.zarr", shard_cells=2, scheduler="processes:2")
    assert tree(tmp_path / "sync.zarr") == tree(tmp_path / "dask.zarr")


def embed_slowly(region, encoder, out):
    done = run.finish

    def slow(*arguments):
        time.sleep(0.15)
        return done(*arguments)

    run.finish = slow  # in a process of its own
    embed_map(region, Memory(), encoder, out, shard_cells=2)


def test_a_killed_map_is_finished_by_the_same_call_to_the_same_bytes(region, croma_file, tmp_path):
    out = tmp_path / "k.zarr"
    receipts = Path(f"{out}.build/receipts")
    kill_when(start(embed_slowly, region, croma_file, out), lambda: len(list(receipts.glob("*.json"))) >= 4)
    before = len(list(receipts.glob("*.json")))
    (out / "valid/c/0").mkdir(parents=True, exist_ok=True)
    (out / "valid/c/0/0.a082b0987bdb4ea78e3d65d3dd0acc6f.partial").write_bytes(
        b"as Zarr leaves it if killed in a write"
    )
    embed_map(region, Memory(), croma_file, out, shard_cells=2)
    assert 4 <= before < len(list(receipts.glob("*.json")))
    embed_map(region, Memory(), croma_file, tmp_path / "u.zarr", shard_cells=2)
    assert tree(out) == tree(tmp_path / "u.zarr")


def test_a_finished_map_is_not_made_again(region, croma_file, tmp_path, monkeypatch):
    embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")
    monkeypatch.setattr(Memory, "load", lambda self, box: pytest.fail("read again"))
    embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")


def test_another_plan_is_refused_by_the_differing_key(region, croma_file, tmp_path):
    embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="was started with another precision; choose another out, or overwrite=True"):
        embed_map(region, Memory(), croma_file, tmp_path / "a.zarr", precision="bf16")
    assert tree(tmp_path) == before
    embed_map(region, Memory(), croma_file, tmp_path / "a.zarr", precision="bf16", overwrite=True)


def test_a_map_broken_off_before_its_plan_was_written_is_begun_again(region, croma_file, tmp_path, monkeypatch):
    embed_map(region, Memory(), croma_file, tmp_path / "whole.zarr")
    with monkeypatch.context() as disk:
        disk.setattr(BuildFolder, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(RunError, match="cannot be written .No space left on device.; make room"):
            embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr").exists()
    embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "whole.zarr")


def test_somebody_elses_file_is_not_overwritten(region, croma_file, tmp_path):
    (tmp_path / "a.tif").write_text("mine")
    with pytest.raises(InputError, match="exists and is not an unfinished map"):
        embed_map(region, Memory(), croma_file, tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "settings"), [("a.png", {}), ("a.tif", {"dtype": "int8"}), ("a.zarr", {"scheduler": "slurm"})]
)
def test_impossible_outputs_and_schedulers_are_refused(region, croma_file, tmp_path, name, settings):
    with pytest.raises(InputError, match=r"must end in|is not possible|is not known"):
        embed_map(region, Memory(), croma_file, tmp_path / name, **settings)


def test_a_region_outside_the_rasters_is_refused_before_anything_is_written(croma_file, tmp_path):
    with pytest.raises(GridError, match="lies outside the rasters, which span"):
        embed_map(Aoi(shapely.box(4, 40, 4.01, 40.01), "far"), Memory(), croma_file, tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_a_region_partly_outside_is_mapped_where_there_are_pixels_and_says_so(region, croma_file, tmp_path):
    west, south, east, north = region.geometry.bounds
    wide = Aoi(shapely.box(west, south, east + (east - west), north), "wide")
    with pytest.warns(UserWarning, match=r"the rasters cover 5\d % of wide; the rest stays empty"):
        found = make(tmp_path / "a.zarr", wide, croma_file)
    assert np.isfinite(found.values[0]).sum() > 900


def test_a_region_without_a_usable_pixel_leaves_nothing_behind(region, croma_file, tmp_path, monkeypatch):
    empty = Memory().load
    monkeypatch.setattr(Memory, "load", lambda self, box: empty(box) * np.nan)
    with pytest.raises(InputError, match="holds no valid pixel"):
        embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_patches_under_a_cloud_are_still_seen_by_radar_and_say_so(region, croma_file, tmp_path):
    (out,) = embed_map(region, Memory(cloud=True), croma_file, tmp_path / "c.zarr")
    made_from = xr.open_zarr(out)["sensors"].values
    assert ((made_from == 5) == (made_from & 2 == 0))[made_from > 0].all()  # radar, joint encoder
    assert (made_from == 5).sum() > 50
    assert (made_from == 7).sum() > 500
    clear = make(tmp_path / "d.zarr", region, croma_file).values
    cloudy = open_map(out).values
    assert np.isfinite(cloudy[0]).sum() == np.isfinite(clear[0]).sum()


def test_int8_keeps_direction_and_nodata():
    x = np.random.default_rng(0).normal(size=(64, 5, 5)).astype(np.float32)
    x[:, 0, 0], x[:, 1, 1] = np.nan, 0
    q, scale = quantize(x)
    back = q * scale
    assert q.min() == -128
    assert (q[:, 0, 0] == -128).all()
    assert np.isnan(back[:, 0, 0]).all()
    assert (back[:, 1, 1] == 0).all()
    cosine = (x * back).sum(0) / (np.linalg.norm(x, axis=0) * np.linalg.norm(back, axis=0) + 1e-12)
    assert np.nanmin(np.delete(cosine.ravel(), 6)) > 0.9998
    assert np.nanmax(np.abs(back - x) - scale / 2) < 1e-6


def test_zarr_opens_everywhere_with_its_place(region, croma_file, tmp_path):
    (path,) = embed_map(region, Memory(), croma_file, tmp_path / "a.zarr")
    plain = xr.open_zarr(path, decode_coords="all")
    assert plain["embeddings"].dtype == np.int8
    assert plain["embeddings"].rio.crs.to_epsg() == 32631
    found = open_map(path)
    assert found.odc.geobox.transform == plain["embeddings"].rio.transform()
    assert found.dtype == np.float32
    assert plain.attrs["proj:code"] == "EPSG:32631"
    exact = make(tmp_path / "b.zarr", region, croma_file).values
    np.testing.assert_allclose(found.values, exact, atol=np.nanmax(np.abs(exact)) / 127)


def test_cog_is_valid_and_holds_the_values_of_the_store(region, croma_file, tmp_path):
    (path,) = embed_map(region, Memory(), croma_file, tmp_path / "a.tif")
    assert cog_validate(path, quiet=True)[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.qml", "a.tif", "a.tif.build"]
    store = make(tmp_path / "b.zarr", region, croma_file)
    with rasterio.open(path) as file:
        assert file.descriptions[:2] == ("e000", "e001")
        assert np.isnan(file.nodata)
        assert file.transform == store.odc.geobox.transform
        np.testing.assert_array_equal(file.read(), store.values)
    np.testing.assert_array_equal(open_map(path).values, store.values)
    assert rioxarray.open_rasterio(path).rio.crs.to_epsg() == 32631


def test_the_picture_shows_alike_as_alike_and_nodata_as_nothing(tmp_path):
    import matplotlib.image

    data = np.zeros((4, 10, 10), dtype=np.float32)
    data[:, :, 5:] = np.random.default_rng(0).normal(size=(4, 1, 1))
    data += 0.01 * np.random.default_rng(1).normal(size=data.shape)
    data[:, 0] = np.nan
    found = xr.DataArray(data, dims=("embedding", "y", "x"))
    one = matplotlib.image.imread(quicklook(found, tmp_path / "a.png"))
    two = matplotlib.image.imread(quicklook(found, tmp_path / "b.png"))
    assert np.array_equal(one, two)
    assert one.shape == (800, 800, 4)
    assert (one[:80, :, 3] == 0).all()
    left, right = one[400:, :400, 0].mean(), one[400:, 400:, 0].mean()
    assert abs(left - right) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.drop_vars(["spatial_ref", "x", "y"]), "has no CRS"),
        (lambda c: c.isel(x=slice(3, None)), "is not on the 80 m lattice"),
        (
            lambda c: c.isel(x=slice(None, None, 2), y=slice(None, None, 2)),
            "pixels are 20 x 20 m; encoder .* needs 10 m",
        ),
        (lambda c: c.isel(s2_band=slice(0, 11)), "s2 lacks B12"),
        (lambda c: c.isel(x=slice(0, 4)), "less than one 8 px patch"),
        (lambda c: c.isel(x=[i for i in range(320) if i != 150]), "x is not regular: steps from 10 to 20 m"),
    ],
)
def test_a_cube_that_does_not_fit_says_what_would(croma_file, change, message):
    with pytest.raises(InputError, match=message):
        embed(change(scene()), read_encoder(croma_file))


def test_band_order_of_a_cube_is_by_name(croma_file):
    encoder = read_encoder(croma_file)
    mixed = scene().isel(s2_band=slice(None, None, -1))
    np.testing.assert_array_equal(embed(mixed, encoder).values, embed(scene(), encoder).values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.assign(s2=c.s2 * 10000), "s2 (holds numbers up to|has the median)"),
        (lambda c: c.assign(s1=10 ** (c.s1 / 10)), "(convert linear|expected dB)"),
        (lambda c: c.assign(s2=(c.s2 * 10000).fillna(0).astype("int16")), "s2 holds int16 numbers"),
    ],
)
@pytest.mark.parametrize("chunk", [None, 50])
def test_a_cube_in_other_units_is_refused(croma_file, change, message, chunk):
    cube = change(scene())
    with pytest.raises(BandError, match=message):
        embed(cube if chunk is None else cube.chunk(x=chunk, y=chunk), read_encoder(croma_file)).compute()


def test_zeros_are_not_data(croma_file):
    cube, encoder = scene(), read_encoder(croma_file)
    holes = cube.copy(deep=True)
    for name in ("s1", "s2"):
        holes[name].values[:, :40] = np.nan
    np.testing.assert_array_equal(embed(holes.fillna(0), encoder), embed(holes, encoder))


@pytest.mark.parametrize("chunk", [None, 320])
@pytest.mark.parametrize(("sensor", "fill"), [("s1", -100), ("s1", -60), ("s2", -1), ("s2", -0.9999)])
def test_fill_that_a_cube_does_not_declare_is_not_data(croma_file, sensor, fill, chunk):
    cube, encoder = scene(), read_encoder(croma_file)
    filled, holes = cube.copy(deep=True), cube.copy(deep=True)
    filled[sensor].values[:, :40], holes[sensor].values[:, :40] = fill, np.nan
    given = filled if chunk is None else filled.chunk(x=chunk, y=chunk)
    np.testing.assert_array_equal(embed(given, encoder).values, embed(holes, encoder).values)


def test_a_cube_that_may_carry_the_offset_is_said(croma_file):
    with pytest.warns(Note, match="the cube's s2 is nowhere dark .* as if it carried the .0.1 of baseline 04.00"):
        embed(scene().assign(s2=scene().s2 * 0.1 + 0.11), read_encoder(croma_file))


def test_a_device_that_is_not_there_is_refused(croma_file):
    with pytest.raises(InputError, match=r"device='cpu9' cannot be used .* use 'cpu' or 'cuda'"):
        embed(scene(), read_encoder(croma_file), device="cpu9")


def test_files_of_another_level_than_the_encoders_are_said(croma_file):
    spec = read_encoder(croma_file).spec
    level = spec.sensors["s2"].level
    assert "L2A" in level
    with pytest.warns(Note, match="s2 files are L1C; encoder .* learned from L2A"):
        note_levels({"s2": [{"level": "L1C"}], "s1": [{"level": "not stated"}]}, spec)
    note_levels({"s2": [{"level": "L2A"}], "search": {}}, spec)


def test_files_without_a_band_of_the_encoder_are_refused_before_any_work(croma_file):
    spec = read_encoder(croma_file).spec
    lacks = [0 if band in ("B01", "B09") else 1 for band in spec.sensors["s2"].bands]
    check_bands({"s2": [{"path": "whole.tif", "bands": [1] * 12}], "s1": "a catalogue"}, spec)
    with pytest.raises(BandError, match=r"short.tif lacks B01, B09 for encoder .*; it has B02, B03, .*: give a file"):
        check_bands({"s2": [{"path": "whole.tif", "bands": [1] * 12}, {"path": "short.tif", "bands": lacks}]}, spec)
