"""Maps by local attention: equal to the bit for any cut, near one large square, kept by plans and encoder files."""

import json
from dataclasses import dataclass, field

import numpy as np
import pyproj
import pytest
import shapely
import torch
import xarray as xr
import zarr

from geossl.errors import GridError
from geossl.grid import Aoi, Lattice
from geossl.inference.engine import coverage, estimate, geometry, lazy
from geossl.inference.engine.encode import EncodeConfig, encode_block, usable_shares
from geossl.inference.engine.geometry import Geometry
from geossl.inference.engine.run import MapConfig, dry_run, embed_map, plans
from geossl.inference.engine.source import images
from geossl.inference.outputs.raster import open_map
from geossl.models import files
from geossl.models.encoder import DenseSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import read_encoder, save_encoder
from geossl.models.heads.decoders import DECODERS
from geossl.models.heads.segmenter import with_decoder
from geossl.models.layers import tiles
from tests.inference.conftest import ORIGIN, SHAPE, Memory
from tests.inference.engine.test_engine import Holes
from tests.processes import forked_workers


@pytest.fixture(scope="module")
def local_file(tmp_path_factory):
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=64, margin_px=16, reach=3, dim=32, depth=2, heads=8)
    path = tmp_path_factory.mktemp("encoder") / "croma.safetensors"
    save_encoder(path, CROMAEncoder(spec).eval(), {})
    return path


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 2 x 2 cells of 64 px with a halo of 32 px, so that the scene has several."""
    for name, value in (("CELL", 8), ("BLOCK", 2), ("HALO", 4)):
        monkeypatch.setattr(geometry, name, value)


def area(west=0, north=0, width=SHAPE[1], height=SHAPE[0]):
    """Part of the scene, in pixels."""
    x, y = ORIGIN[0] + 10 * west, ORIGIN[1] - 10 * north
    back = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    corners = shapely.box(x + 1, y - 10 * height + 1, x + 10 * width - 1, y - 1)
    return Aoi(shapely.transform(corners, back.transform, interleaved=False), "the region")


def made(path, region, encoder, source=None, **settings):
    (out,) = embed_map(region, source or Memory(cloud=True), encoder, path, dtype="float32", **settings)
    return open_map(out)


def assert_same(one, other, least=200):
    one, other = xr.align(one, other, join="inner")
    assert np.isfinite(one.values[0]).sum() >= least
    both = np.isfinite(one.values[0]) & np.isfinite(other.values[0])
    assert both.sum() >= least
    np.testing.assert_array_equal(one.values[:, both], other.values[:, both])


@pytest.mark.parametrize("source", [Memory(cloud=True), Holes()])
def test_shards_batches_and_regions_do_not_change_a_bit(small_blocks, local_file, tmp_path, source):
    whole = made(tmp_path / "whole.zarr", area(), local_file, source)
    for number, way in enumerate([{"shard_cells": 1}, {"shard_cells": 3, "batch_size": 3}]):
        other = made(tmp_path / f"{number}.zarr", area(), local_file, source, **way)
        assert_same(whole, other, 700)
    part = made(tmp_path / "part.zarr", area(110, 90, 80, 60), local_file, source)
    assert_same(whole, part, 40)


def test_the_lazy_form_gives_the_same_bits(small_blocks, local_file, tmp_path):
    whole = made(tmp_path / "whole.zarr", area(), local_file)
    box = whole.odc.geobox.zoom_out(1 / 8)
    cube = Memory(cloud=True).load(box)
    encoder = read_encoder(local_file)
    now = lazy.embed(cube, encoder)
    later = lazy.embed(cube.chunk(y=100, x=90), encoder)
    np.testing.assert_array_equal(now.values, later.compute().values)
    assert_same(whole, now, 700)


def test_a_worker_gives_the_same_bits_as_this_process(local_file, tmp_path):
    here = made(tmp_path / "here.zarr", area(), local_file)
    with forked_workers():
        there = made(tmp_path / "there.zarr", area(), local_file, scheduler="processes:1", shard_cells=2)
    assert_same(here, there, 900)


@torch.inference_mode()
def test_a_block_with_a_wide_halo_is_one_large_square(local_file):
    encoder, cube = read_encoder(local_file), Memory().load(lattice_box(96))
    pixels = images(cube, encoder.spec)
    blocks = encode_block(pixels, encoder, EncodeConfig(), shape=Geometry(3, 48, 1, 96))
    kept = {n: torch.from_numpy(x[None] >= 0.5) for n, x in usable_shares(pixels, encoder.spec).items()}
    whole = encoder.local_tokens({n: torch.from_numpy(x[None]) for n, x in pixels.items()}, kept, 3)[0, 12:-12, 12:-12]
    np.testing.assert_allclose(blocks.embeddings, whole.permute(2, 0, 1).numpy(), atol=2e-5)


def lattice_box(rim):
    """Grid of 144 x 144 px in the scene, with a rim."""
    corner = [round(v / 480) for v in (ORIGIN[0] + 800, -(ORIGIN[1] - 600))]
    return Lattice(32631, 8, 10.0, 6).pixels(corner[1], corner[0], 3, 3, rim)


def test_only_asked_cells_are_stored_and_a_far_cell_costs_nothing(small_blocks, local_file, tmp_path, monkeypatch):
    seen = []
    local = CROMAEncoder.local_tokens

    def counted(self, *args):
        seen.append(int(args[3].sum()))
        return local(self, *args)

    monkeypatch.setattr(CROMAEncoder, "local_tokens", counted)
    found = made(tmp_path / "part.zarr", area(70, 30, 30, 30), local_file)
    assert found.shape[1:] == (8 * -(-found.shape[1] // 8), 8 * -(-found.shape[2] // 8))
    assert sum(seen) == np.isfinite(found.values[0]).sum() <= 4 * 64


@dataclass(frozen=True)
class Watched(Memory):
    """Has dates, and notes how many pixels are read."""

    read: list = field(default_factory=list, compare=False)

    @property
    def dated(self):
        return True

    def load(self, geobox):
        self.read.append(geobox.shape[0] * geobox.shape[1])
        cube = super().load(geobox)
        days = np.full(geobox.shape, 9000, np.uint16)
        return cube.assign(date=(("y", "x"), days))


@pytest.mark.parametrize("place", [(70, 30, 20, 20), (250, 10, 20, 90)])
def test_what_no_wanted_cell_sees_is_not_read_and_changes_nothing(
    small_blocks, local_file, tmp_path, monkeypatch, place
):
    monkeypatch.setattr(geometry, "BLOCK", 4)
    least, most = Watched(cloud=True), Watched(cloud=True)
    part = made(tmp_path / "part.zarr", area(*place), local_file, least, reach=1)
    monkeypatch.setattr(coverage, "sight_px", lambda *_: None)
    whole = made(tmp_path / "whole.zarr", area(*place), local_file, most, reach=1)
    np.testing.assert_array_equal(part.values, whole.values)
    assert np.isfinite(part.values[0]).sum() > 40
    assert sum(least.read) < 0.8 * sum(most.read)
    one, other = (zarr.open_group(tmp_path / f"{name}.zarr", mode="r") for name in ("part", "whole"))
    for name in ("date", "sensors", "valid", "true_colour/rgb"):
        np.testing.assert_array_equal(one[name][...], other[name][...])
        assert one[name][...].any()


def test_what_encloses_an_encoder_has_its_blocks_read_whole(small_blocks, local_file, tmp_path):
    encoder = read_encoder(local_file)
    (plan,) = plans(area(70, 30, 20, 20), Memory(), local_file, tmp_path / "m.zarr", MapConfig(reach=1)).values()
    assert coverage.sight_px(plan, encoder) == 3 * 8  # two layers of optical tokens, one of joint ones
    assert coverage.sight_px(plan, with_decoder(encoder, "unet", ["s1"], ["a", "b"])) is None


def test_the_plan_and_the_store_say_the_reach(small_blocks, local_file, tmp_path):
    out = made(tmp_path / "m.zarr", area(), local_file, reach=2)
    assert out.sizes["embedding"] == 32
    plan = json.loads((tmp_path / "m.zarr.build" / "plan.json").read_text())
    assert (plan["reach"], plan["block_cells"], plan["window_px"], plan["margin_px"]) == (2, 2, 192, 32)
    assert zarr.open_group(tmp_path / "m.zarr", mode="r").attrs["geossl:reach"] == 2
    (dry,) = dry_run(area(), Memory(), local_file, tmp_path / "n.zarr")
    assert dry["attention"] == "3 patches around each patch"
    assert dry_run(area(), Memory(), local_file, tmp_path / "n.zarr", reach=None)[0]["attention"] == "whole windows"


def test_a_map_that_was_begun_keeps_its_attention(small_blocks, local_file, tmp_path, monkeypatch):
    before = made(tmp_path / "m.zarr", area(), local_file, reach=None)
    changed = (tmp_path / "m.zarr" / "zarr.json").stat().st_mtime_ns
    again = made(tmp_path / "m.zarr", area(), local_file)
    assert (tmp_path / "m.zarr" / "zarr.json").stat().st_mtime_ns == changed
    assert before.identical(again)
    plan = json.loads((tmp_path / "m.zarr.build" / "plan.json").read_text())
    assert {"reach", "block_cells"}.isdisjoint(plan)
    with pytest.raises(ValueError, match="was started with another .*reach"):
        made(tmp_path / "m.zarr", area(), local_file, reach=3)
    before = made(tmp_path / "m.zarr", area(), local_file, overwrite=True)
    plan = json.loads((tmp_path / "m.zarr.build" / "plan.json").read_text())
    assert (plan["reach"], plan["margin_px"]) == (3, 32)
    monkeypatch.setattr(geometry, "HALO", 8)  # as of another version
    for path in (tmp_path / "m.zarr.build" / "finished", *(tmp_path / "m.zarr.build" / "receipts").iterdir()):
        path.unlink()
    assert before.identical(made(tmp_path / "m.zarr", area(), local_file))
    assert json.loads((tmp_path / "m.zarr.build" / "plan.json").read_text()) == plan
    for wrong in ({"margin_px": "wide"}, {"margin_px": 10**9}):
        (tmp_path / "m.zarr.build" / "plan.json").write_text(json.dumps({**plan, **wrong}))
        with pytest.raises(ValueError, match="was started with another .*margin_px"):
            made(tmp_path / "m.zarr", area(), local_file)


def test_encoder_files_that_do_not_say_map_locally_if_positions_are_relative():
    for position, reach in (("alibi", 7), ("sincos", None)):
        values = croma_spec("tiny", position=position).to_dict()
        del values["reach"]
        assert DenseSpec.from_dict(values).reach == reach
    assert DenseSpec.from_dict(croma_spec("tiny", reach=None).to_dict()).reach is None
    with pytest.raises(ValueError, match="reach=0 must be 1 or more patches"):
        croma_spec("tiny", reach=0)


def test_an_encoder_without_relative_positions_says_so(identity_file, local_file, tmp_path):
    with pytest.raises(GridError, match="reach 5 needs an encoder with relative positions only.*identity"):
        made(tmp_path / "m.zarr", area(), identity_file, reach=5)
    with pytest.raises(GridError, match="reach 0 is not a number of patches"):
        made(tmp_path / "m.zarr", area(), local_file, reach=0)


@pytest.mark.parametrize("kind", list(DECODERS))
def test_decoders_see_across_the_borders_of_blocks_and_squares(local_file, tmp_path, kind):
    torch.manual_seed(1)
    encoder = read_encoder(local_file)
    model = with_decoder(encoder, kind, ("s1", "s2"), ["a", "b", "c"], ["#000000"] * 3)
    path = tmp_path / f"{kind}.safetensors"
    save_encoder(path, model, {})
    read = files.read_encoder(path)
    assert read.spec.reach == 3
    pixels = images(Memory().load(lattice_box(96)), read.spec)
    small = encode_block(pixels, read, EncodeConfig(), shape=Geometry(3, 48, 1, 96)).embeddings
    large = encode_block(pixels, read, EncodeConfig(), shape=Geometry(3, 48, 3, 96)).embeddings
    assert small.shape == large.shape == (128, 18, 18)
    assert (small[:64] != large[:64]).mean() < 1e-3
    assert np.abs(small[64:] - large[64:]).max() <= 1  # percent
    with torch.inference_mode():
        tensors = {n: torch.from_numpy(x[None]) for n, x in pixels.items()}
        whole = read.encoder.local_tokens(tensors, None, 3)
        squares = read.logits_by_squares(whole, tensors, torch.ones(whole.shape[:3]).bool(), DECODERS[kind].halo)
        torch.testing.assert_close(
            squares[..., 32:-32, 32:-32], read.logits(whole, tensors)[..., 32:-32, 32:-32], atol=1e-5, rtol=0
        )


def test_auto_precision_stands_in_the_plan_and_is_kept_on_another_machine(local_file, tmp_path, monkeypatch):
    def plan(path):
        return json.loads((tmp_path / f"{path}.build" / "plan.json").read_text())

    for has_amx, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_amx=has_amx: has_amx)
        made(tmp_path / f"{expected}.zarr", area(width=90), local_file, precision="auto")
        assert plan(f"{expected}.zarr")["precision"] == expected
    before = open_map(tmp_path / "bf16.zarr").values
    assert not np.array_equal(before, open_map(tmp_path / "fp32.zarr").values, equal_nan=True)
    (tmp_path / "bf16.zarr.build" / "finished").unlink()
    for receipt in (tmp_path / "bf16.zarr.build" / "receipts").iterdir():
        receipt.unlink()
    again = made(tmp_path / "bf16.zarr", area(width=90), local_file, precision="auto")  # as on a machine without AMX
    np.testing.assert_array_equal(again.values, before)
    with pytest.raises(ValueError, match="was started with another precision"):
        made(tmp_path / "bf16.zarr", area(width=90), local_file, precision="fp32")


def test_a_dry_run_counts_the_groups_of_tiles_that_a_map_computes(small_blocks, local_file, tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "HALO", 8)  # a whole tile, as the usual halo is three
    monkeypatch.setattr("tests.inference.conftest.SHAPE", (700, 700))  # pixels all around
    config, encoder, out, place = MapConfig(), read_encoder(local_file), tmp_path / "a.zarr", area(250, 270, 140, 120)
    (plan,) = plans(place, Memory(), local_file, out, config).values()
    layers = estimate.layers_of(encoder, ["s1", "s2"])
    assert layers == [(1, 1.0), (1, 1.0), (2, 1.0), (0, 1.6)]
    computed, run = [], tiles.run_group
    monkeypatch.setattr(tiles, "run_group", lambda block, *rest: computed.append(block) or run(block, *rest))
    embed_map(place, Memory(), local_file, out)
    groups = estimate.groups_of(plan, layers)
    assert len(computed) == sum(groups) > len(layers)
    assert sum(type(block).__name__ == "CrossBlock" for block in computed) == groups[-1]
