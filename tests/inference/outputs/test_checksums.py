import shutil

import numpy as np
import pytest
import xarray as xr

from geossl.errors import InputError, RunError
from geossl.inference.engine.plan import BuildFolder
from geossl.inference.engine.run import embed_map
from geossl.inference.outputs.checksums import CheckedStore, crc_of, lost_shards, read_sums, shard_file
from geossl.inference.outputs.raster import open_map
from tests.inference.conftest import Memory
from tests.inference.engine.test_map import tree


@pytest.fixture
def made(region, identity_file, tmp_path):
    """A map of several shards, and how to ask for it again."""

    def again():
        return embed_map(region, Memory(), identity_file, tmp_path / "map.zarr", shard_cells=2)[0]

    return again(), again


identity = pytest.mark.parametrize("identity_file", [(64, 16)], indirect=True)


@identity
def test_a_finished_map_knows_size_and_checksum_of_every_shard_file(made):
    path, _ = made
    tables = read_sums(path)
    assert set(tables) == {"embeddings", "scales", "valid", "sensors"}
    for name, table in tables.items():
        for shard in np.ndindex(table.shape[:2]):
            assert tuple(table[shard]) == crc_of(shard_file(path, name, shard))
    full = np.isfinite(open_map(path)[0].values)
    holds = [full[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].any() for r, c in np.ndindex(tables["valid"].shape[:2])]
    assert list((tables["embeddings"][..., 0] > 0).ravel()) == holds  # a shard without data has no file
    assert xr.open_zarr(path).sizes == xr.open_zarr(path, consolidated=False).sizes  # the group adds no dimension


@identity
def test_a_lost_shard_is_named_and_made_again(made):
    path, again = made
    before = tree(path)
    victim = sorted(path.glob("embeddings/c/0/*/*"))[1]
    row, column = victim.parent.name, victim.name
    victim.unlink()
    with pytest.raises(InputError, match=f"shard {row}, {column} of 'embeddings' is missing or cut short; delete"):
        open_map(path)
    assert lost_shards(path) == {"embeddings": [(int(row), int(column))]}
    again()
    assert tree(path) == before


@identity
def test_checksums_that_a_full_disk_cut_off_are_written_anew(made):
    path, again = made
    before = tree(path)
    BuildFolder(path).reopen([])  # not finished: the last thing that is written did not fit
    (path / "checksums/zarr.json").unlink()
    again()
    assert tree(path) == before


@identity
def test_a_flipped_byte_is_found_where_it_is_read(made):
    path, again = made
    before = tree(path)
    victim = sorted(path.glob("embeddings/c/0/*/*"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    victim.write_bytes(data)
    found = open_map(path)  # sizes are right
    with pytest.raises(InputError, match="shard 0, 0 of 'embeddings' holds other bytes than were written"):
        found.values  # noqa: B018
    victim.unlink()
    again()
    assert tree(path) == before


@identity
def test_a_shard_lost_before_the_end_is_computed_again(made, monkeypatch):
    path, again = made
    before = tree(path)
    BuildFolder(path).finished.unlink()
    sorted(path.glob("valid/c/*/*"))[0].unlink()
    with pytest.raises(RunError, match=r"1 finished shards of .* have lost a file; run again"):
        again()
    again()
    assert tree(path) == before


@identity
def test_maps_without_checksums_still_open(made):
    path, _ = made
    shutil.rmtree(path / "checksums")
    with_none = open_map(path).values
    assert np.isfinite(with_none).any()
    assert CheckedStore(path).tables == {}


@identity
def test_overviews_are_checked_too(made, monkeypatch):
    monkeypatch.setattr("geossl.inference.engine.overviews.LEAST", 8)
    path, again = made
    shutil.rmtree(path)
    shutil.rmtree(BuildFolder(path).path)
    again()
    assert "overviews/1/embeddings" in read_sums(path)
    next(path.glob("overviews/1/embeddings/c/0/*/*")).unlink()
    with pytest.raises(InputError, match="of 'overviews/1/embeddings' is missing"):
        open_map(path)
    again()
    assert np.isfinite(open_map(path, level=1)).any()
