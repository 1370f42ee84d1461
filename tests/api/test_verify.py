import shutil

import pytest
from click.testing import CliRunner

import geossl
from geossl.cli import main
from geossl.errors import InputError, MissingFileError


@pytest.fixture(scope="module")
def made(tmp_path_factory, scene, encoder):
    """A map of four shards."""
    out = tmp_path_factory.mktemp("verify") / "m.zarr"
    source = geossl.Rasters(s1=scene / "s1.tif", s2=scene / "s2.tif")
    geossl.embed_map(scene / "aoi.geojson", source, encoder=encoder, out=out, picture=False, shard_cells=1, reach=1)
    return out


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the map that a test may spoil."""
    for path in (made, made.with_name("m.zarr.build")):
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path / "m.zarr"


def shard_files(path):
    return sorted(p for p in (path / "embeddings" / "c").rglob("*") if p.is_file())


def test_an_untouched_map_is_equal_in_every_shard(made, encoder):
    count = len(shard_files(made))
    assert count >= 4
    found = geossl.verify(made, encoder=encoder, shards=count)
    assert set(found["result"]) == {"equal"}
    assert len(found.drop_duplicates(["row", "column"])) == count
    assert set(found["array"]) >= {"embeddings", "scales", "valid", "sensors"}
    assert (found["stored"] == found["made"]).all()
    assert sorted(p.name for p in made.parent.iterdir()) == ["m.zarr", "m.zarr.build"]


def test_a_lost_and_a_flipped_shard_are_named(copied, encoder):
    lost, flipped = shard_files(copied)[:2]
    lost.unlink()
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(bytes(content))
    found = geossl.verify(copied, encoder=encoder, shards=100)
    bad = found[found["result"] != "equal"]
    where = {tuple(map(int, p.parts[-2:])): kind for p, kind in ((lost, "lost"), (flipped, "damaged"))}
    assert {(r["row"], r["column"]): r["result"] for _, r in bad.iterrows()} == where
    assert set(bad["array"]) == {"embeddings"}
    one = geossl.verify(copied, encoder=encoder, shards=1)
    assert "lost" in set(one["result"])  # what is known to be lost is looked at first
    arguments = ["verify", str(copied), "--encoder", str(encoder), "--shards", "100"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 1
    assert "2 of " in ran.output
    assert "embeddings: lost" in ran.output


def test_another_encoder_or_a_changed_file_is_not_a_verification(copied, other_encoder, encoder, scene, tmp_path):
    with pytest.raises(InputError, match="encoder is not what .* was made with"):
        geossl.verify(copied, encoder=other_encoder)
    for name in ("s1.tif", "s2.tif"):
        shutil.copy(scene / name, tmp_path / name)
    source = geossl.Rasters(s1=tmp_path / "s1.tif", s2=tmp_path / "s2.tif")
    with pytest.raises(InputError, match="s1.tif has another .*path"):
        geossl.verify(copied, encoder=encoder, source=source)


def test_files_may_be_named_in_the_shell(made, encoder, scene):
    files = ["--s1", str(scene / "s1.tif"), "--s2", str(scene / "s2.tif")]
    ran = CliRunner().invoke(main, ["verify", str(made), "--encoder", str(encoder), "--shards", "1", *files])
    assert ran.exit_code == 0, ran.output
    assert "1 shards, " in ran.output


def test_what_cannot_be_verified_is_said(copied, encoder, tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        geossl.verify(tmp_path / "none.zarr", encoder=encoder)
    with pytest.raises(InputError, match="shards=0 is not a number of shards"):
        geossl.verify(copied, encoder=encoder, shards=0)
    with pytest.raises(InputError, match="seed=-1 is not possible"):
        geossl.verify(copied, encoder=encoder, seed=-1)
    plan = copied.with_name("m.zarr.build") / "plan.json"
    plan.write_text(plan.read_text().replace('"phases": 1', '"phases": "x"'))
    with pytest.raises(InputError, match="damaged or of another geossl"):
        geossl.verify(copied, encoder=encoder)
    (copied.with_name("m.zarr.build") / "finished").unlink()
    with pytest.raises(InputError, match="is not finished"):
        geossl.verify(copied, encoder=encoder)
    shutil.rmtree(copied.with_name("m.zarr.build"))
    with pytest.raises(InputError, match="cannot be verified: it needs"):
        geossl.verify(copied, encoder=encoder)
