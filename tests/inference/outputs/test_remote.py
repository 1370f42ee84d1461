"""Maps in object stores: an S3 server on this machine, and a plain web server."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import geossl
from geossl.errors import InputError, MissingExtraError, MissingFileError, RunError
from geossl.inference.outputs import remote
from tests.data.conftest import radar, write_raster
from tests.inference.conftest import Memory


class Ranges(SimpleHTTPRequestHandler):
    """A web server that sends parts of files, as object stores do."""

    def do_GET(self):
        wanted, file = self.headers.get("Range"), Path(self.translate_path(self.path))
        if wanted is None or not file.is_file():
            return super().do_GET()
        whole, (first, last) = file.read_bytes(), wanted.removeprefix("bytes=").split("-")
        part = whole[int(first) : int(last or len(whole)) + 1] if first else whole[-int(last) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first or len(whole) - len(part)}-/{len(whole)}")
        self.end_headers()
        return self.wfile.write(part)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def region_file(region):
    return gpd.GeoDataFrame(geometry=[region.geometry], crs=4326)


@pytest.fixture(scope="module")
def bucket():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.setenv(f"AWS_{name}", "testing")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        remote.file_system("s3://maps")[0].mkdir("maps")
        yield "s3://maps"
    server.stop()


def objects(address):
    """Names and bytes of what lies under an address."""
    system, root = remote.file_system(address)
    system.invalidate_cache()
    return {name.removeprefix(f"{root}/"): system.cat_file(name) for name in system.find(root)}


def files(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_map_in_a_bucket_holds_the_bytes_of_one_on_disk(bucket, region_file, croma_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = geossl.embed_map(region_file, Memory(), encoder=croma_file, out="m.zarr", shard_cells=2)
    there = geossl.embed_map(region_file, Memory(), encoder=croma_file, out=f"{bucket}/a/m.zarr", shard_cells=2)
    assert there == f"{bucket}/a/m.zarr"
    assert objects(there) == files(Path(here))
    assert objects(f"{bucket}/a/m.png") == {f"{bucket[5:]}/a/m.png": Path("m.png").read_bytes()}
    one, two = geossl.open(here), geossl.open(there)
    assert two.odc.geobox == one.odc.geobox
    np.testing.assert_array_equal(two.values, one.values)
    with pytest.raises(InputError, match=r"m.zarr exists; choose another name, or overwrite=True"):
        geossl.embed_map(region_file, Memory(), encoder=croma_file, out=there)
    geossl.embed_map(region_file, Memory(), encoder=croma_file, out=there, shard_cells=2, overwrite=True)
    assert objects(there) == files(Path(here))
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"m.zarr", "m.zarr.build"}


def test_a_cog_in_a_bucket_is_one_on_disk_and_rasters_are_read_from_there(
    bucket, region_file, croma_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    here = geossl.embed_map(region_file, Memory(), encoder=croma_file, out="m.tif", picture=False)
    there = geossl.embed_map(region_file, Memory(), encoder=croma_file, out=f"{bucket}/m.tif", picture=False)
    assert list(objects(there).values()) == [Path(here).read_bytes()]
    data = radar()
    remote.file_system(bucket)[0].put(str(write_raster(tmp_path / "s1.tif", data)), "maps/s1.tif")
    source = geossl.Rasters(s1=f"{bucket}/s1.tif").open()
    found = source.load(GeoBox((8, 8), Affine(10, 0, 500_000, 0, -10, 4_600_000), "EPSG:32631"))
    np.testing.assert_array_equal(found["s1"], data[:, :8, :8])
    assert source.describe()["s1"][0]["bytes"] == (tmp_path / "s1.tif").stat().st_size


def test_a_transfer_that_was_broken_off_sends_what_is_missing(bucket, region_file, croma_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = f"{bucket}/broken.zarr"
    system = type(remote.file_system(out)[0])
    put, sent = system._put_file, []

    async def fails(self, here, there, **named):
        if len(sent) == 3:
            raise OSError("connection reset")
        sent.append(there)
        return await put(self, here, there, **named)

    monkeypatch.setattr(remote, "TOGETHER", 1)
    monkeypatch.setattr(system, "_put_file", fails)
    with pytest.raises(RunError, match=r"broken.zarr does not answer as it should \(connection reset\); run again"):
        geossl.embed_map(region_file, Memory(), encoder=croma_file, out=out, picture=False)
    assert len(sent) == len(objects(out)) == 3
    assert "zarr.json" not in objects(out)
    with pytest.raises(MissingFileError, match="broken.zarr' does not exist"):
        geossl.open(out)
    sent.append("failed")
    monkeypatch.setattr(Memory, "load", lambda self, box: pytest.fail("read again"))
    geossl.embed_map(region_file, Memory(), encoder=croma_file, out=out, picture=False)
    assert len(sent) - 1 == len(set(sent) - {"failed"}) == len(objects(out))
    assert not list(tmp_path.iterdir())


def test_a_map_is_read_over_http(place):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(place)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    found = geossl.open(f"{address}/m.zarr")
    np.testing.assert_array_equal(found.values, geossl.open(place / "m.zarr").values)
    with pytest.raises(MissingFileError, match=r"none.zarr' does not exist"):
        geossl.open(f"{address}/none.zarr")
    server.shutdown()


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        ("https://host.org/m.zarr", InputError, r"cannot be written; use s3://, gs:// or a file"),
        ("s3://maps/m", InputError, r"must end in .zarr or .tif"),
        ("nothing://maps/m.zarr", InputError, r"cannot be used; write s3://, gs:// or https://"),
    ],
)
def test_addresses_that_cannot_be_written_are_refused_at_once(region_file, croma_file, out, error, words):
    with pytest.raises(error, match=words):
        geossl.embed_map(region_file, Memory(), encoder=croma_file, out=out)


def test_a_missing_package_is_named(monkeypatch):
    import fsspec

    def missing(*arguments, **named):
        try:
            raise ModuleNotFoundError("No module named 'gcsfs'", name="gcsfs")
        except ModuleNotFoundError as cause:
            raise ImportError("Please install gcsfs") from cause

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'geossl\[remote\]'"):
        geossl.open("gs://bucket/m.zarr")
