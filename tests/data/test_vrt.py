import pytest

from geossl.data.sentinel.rasters import LocalRasters
from geossl.data.vrt import check_vrt
from geossl.errors import InputError
from geossl.sensors import S1_BANDS
from tests.data.conftest import radar, write_raster


def vrt(path, *sources, tag="SourceFilename"):
    bands = "".join(
        f'<VRTRasterBand dataType="Float32" band="{i}"><Description>{name}</Description><SimpleSource>'
        f'<{tag} relativeToVRT="0">{source}</{tag}><SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>'
        for i, (name, source) in enumerate(zip(S1_BANDS, sources, strict=True), 1)
    )
    head = "<SRS>EPSG:32631</SRS><GeoTransform>500000, 10, 0, 4600000, 0, -10</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="120" rasterYSize="96">{head}{bands}</VRTDataset>')
    return path


def test_a_vrt_of_files_is_read(tmp_path):
    file = write_raster(tmp_path / "a.tif", radar(), names=S1_BANDS)
    path = vrt(tmp_path / "a.vrt", file, file)
    assert LocalRasters({"s1": [path]}).sensors == ("s1",)


@pytest.mark.parametrize("name", ["a.vrt", "a.tif"])  # GDAL knows it by its content
@pytest.mark.parametrize(
    "source",
    [
        "/vsicurl/http://169.254.169.254/a.tif",
        "/vsicurl?url=http%3A%2F%2Fhost.org%2Fa.tif",
        "/vsicurl_streaming/http://host.org/a.tif",
        "/vsizip//vsicurl/http://host.org/a.zip",
        "http://host.org/a.tif",
        "HTTPS://me:SECRET@host.org/a.tif",
        "/vsis3/bucket/a.tif",
        "s3://bucket/a.tif",
        "/vsigs/bucket/a.tif",
        "WMS:http://host.org/wms",
    ],
)
def test_a_vrt_of_the_network_is_refused(tmp_path, name, source):
    path = vrt(tmp_path / name, source, source)
    with pytest.raises(InputError, match="is a VRT that reads from the network") as refused:
        LocalRasters({"s1": [path]})
    assert "SECRET" not in str(refused.value)


def test_a_vrt_of_itself_is_refused(tmp_path):
    path = tmp_path / "a.vrt"
    with pytest.raises(InputError, match="names itself as a source"):
        check_vrt(vrt(path, path, path))


def test_a_vrt_inside_a_vrt_is_looked_at(tmp_path):
    inner = vrt(tmp_path / "inner.tif", *["http://host.org/a.tif"] * 2)
    with pytest.raises(InputError, match=r"inner\.tif is a VRT that reads from the network"):
        check_vrt(vrt(tmp_path / "outer.vrt", inner, inner))
    loop = tmp_path / "loop.vrt"
    other = vrt(tmp_path / "other.vrt", loop, loop)
    with pytest.raises(InputError, match="too large or too nested"):
        check_vrt(vrt(loop, other, other))


@pytest.mark.parametrize(
    ("allowed", "source"),
    [
        ("host.org", "https://host.org/a.tif"),
        ("host.org", "/vsicurl/https://me:word@HOST.org:8000/a.tif"),
        ("https://host.org/", "/vsizip//vsicurl/https://host.org/a.zip/a.tif"),
        ("other.org, s3://bucket", "/vsis3/bucket/a.tif"),
        ("gs://bucket", "gs://bucket/a.tif"),
        ("host.org", "/vsicurl?url=https%3A%2F%2Fhost.org%2Fa.tif"),
    ],
)
def test_a_host_may_be_allowed(tmp_path, monkeypatch, allowed, source):
    monkeypatch.setenv("GEOSSL_ALLOW", allowed)
    check_vrt(vrt(tmp_path / "a.vrt", *[source] * 2))


@pytest.mark.parametrize(
    "source",
    [
        "https://host.org.evil.net/a.tif",
        "https://evil.net/host.org/a.tif",
        "https://evil.net/?host.org",
        "https://host.org@evil.net/a.tif",
        "https://data.host.org/a.tif",
        "/vsis3/host.org/a.tif",
        "/vsizip/{/vsicurl/https://host.org/a.zip}/vsicurl/https://evil.net/a.tif",
        "https://host.org%2eevil.net/a.tif",
    ],
)
def test_a_host_is_matched_as_a_whole(tmp_path, monkeypatch, source):
    monkeypatch.setenv("GEOSSL_ALLOW", "host.org")
    with pytest.raises(InputError, match="is a VRT that reads from the network"):
        check_vrt(vrt(tmp_path / "a.vrt", *[source] * 2))
