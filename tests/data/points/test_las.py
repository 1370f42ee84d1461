import sys

import laspy
import numpy as np
import pytest
from laspy.vlrs.known import GeoKeyDirectoryVlr, GeoKeyEntryStruct
from pyproj import CRS

from geossl.data.points import las
from geossl.data.points.las import common_epsg, find_files, read_scan, survey, write_classes
from geossl.errors import GridError, InputError, MissingFileError
from tests.scans import BOTTOM, LEFT, scene, write_scan


@pytest.fixture
def file(tmp_path):
    return write_scan(tmp_path / "scan.laz", *scene())


def test_a_laz_file_comes_back_to_the_centimetre(file):
    x, y, z, classes = scene()
    scan = read_scan([survey(file)], [])
    back = scan.source[:, 1]
    assert sorted(back) == list(range(len(x)))
    np.testing.assert_allclose(scan.xyz, np.column_stack([x, y, z])[back], atol=0.0051)
    assert np.array_equal(scan.classes, classes[back])


def test_features_are_those_of_the_file(file):
    with laspy.open(file) as reader:
        points = reader.read()
    scan = read_scan([survey(file)], ["intensity", "return_ratio", "first", "last"])
    at = scan.source[:, 1]
    number, count = (np.asarray(points[n])[at] for n in ("return_number", "number_of_returns"))
    np.testing.assert_allclose(scan.features[:, 1], number / count, rtol=1e-6)
    assert np.array_equal(scan.features[:, 2], number == 1)
    assert np.array_equal(scan.features[:, 3], number == count)
    bright = np.log1p(np.asarray(points.intensity)[at].astype(float))
    low, middle, high = np.quantile(bright, [0.02, 0.5, 0.98])
    np.testing.assert_allclose(scan.features[:, 0], np.clip((bright - middle) / (high - low), -2, 2), atol=0.02)


def test_noise_withheld_points_and_birds_are_left_out(tmp_path):
    x, y, z, classes = scene()
    classes[:3], z[5], z[6] = [7, 18, 2], 400.0, 20.0
    withheld = np.zeros(len(x), bool)
    withheld[4] = True
    scan = read_scan([survey(write_scan(tmp_path / "n.las", x, y, z, classes, withheld=withheld))], [])
    assert set(range(len(x))) - set(scan.source[:, 1].tolist()) == {0, 1, 4, 5, 6}


def test_a_rectangle_holds_its_points_in_the_same_order_however_files_are_cut(file, tmp_path):
    whole = read_scan([survey(file)], [])
    x, y, z, classes = scene()
    east = x > LEFT + 20
    order = np.random.default_rng(3).permutation(np.flatnonzero(east))
    parts = [
        write_scan(tmp_path / f"{name}.laz", x[rows], y[rows], z[rows], classes[rows])
        for name, rows in (("a", order), ("b", np.flatnonzero(~east)))
    ]
    cut = read_scan([survey(p) for p in parts], [])
    bounds = (LEFT + 10.5, BOTTOM + 3.2, LEFT + 31.0, BOTTOM + 44.4)
    one, two = whole.xyz[whole.inside(bounds)], cut.xyz[cut.inside(bounds)]
    np.testing.assert_allclose(one, two, atol=1e-6)
    inside = (whole.xyz[:, 0] >= bounds[0]) & (whole.xyz[:, 0] < bounds[2])
    inside &= (whole.xyz[:, 1] >= bounds[1]) & (whole.xyz[:, 1] < bounds[3])
    assert len(one) == inside.sum()
    clipped = read_scan([survey(file)], [], bounds)
    np.testing.assert_array_equal(clipped.xyz, one[np.lexsort((one[:, 2], one[:, 1], one[:, 0], clipped.keys))])


def test_written_classes_leave_all_else_as_it_was(file, tmp_path):
    n = len(scene()[0])
    percent = np.where(np.arange(n) % 2, 80, 0).astype(np.uint8)
    write_classes(file, tmp_path / "out.laz", np.full(n, 9, np.uint8), percent)
    before, after = laspy.read(file), laspy.read(tmp_path / "out.laz")
    for name in before.point_format.dimension_names:
        if name != "classification":
            assert np.array_equal(before[name], after[name]), name
    old, new = np.asarray(before.classification), np.asarray(after.classification)
    assert np.array_equal(new, np.where(np.arange(n) % 2, 9, old))
    assert np.array_equal(after.confidence, percent)
    assert after.header.parse_crs() == before.header.parse_crs()
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_an_old_point_format_without_room_for_a_class_is_refused(tmp_path):
    path = write_scan(tmp_path / "old.las", *scene(n=100), version="1.2", point_format=1)
    with pytest.raises(InputError, match="classes end at 31"):
        write_classes(path, tmp_path / "o.las", np.full(100, 65, np.uint8), np.full(100, 9, np.uint8))
    assert not (tmp_path / "o.las").exists()


def test_what_is_missing_or_damaged_is_said(tmp_path, file, monkeypatch):
    with pytest.raises(MissingFileError, match=r"'nowhere.laz' is neither a .las"):
        find_files("nowhere.laz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="nor a folder that holds one"):
        find_files(tmp_path / "empty")
    broken = tmp_path / "broken.laz"
    broken.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(InputError, match="cannot be read as LAS"):
        survey(broken)
    none = write_scan(tmp_path / "none.las", *(np.array([v]) for v in (1.0, 2.0, 3.0, 2)))
    with laspy.open(none, mode="w", header=laspy.LasHeader(version="1.4", point_format=6)):
        pass
    with pytest.raises(InputError, match="holds no points"):
        survey(none)
    monkeypatch.setattr(laspy.LazBackend, "detect_available", classmethod(lambda cls: ()))
    with pytest.raises(InputError, match=r"needs the package 'lazrs': pip install 'geossl\[points\]'"):
        survey(file)
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(InputError, match=r"need the package 'laspy': pip install 'geossl\[points\]'"):
        las.laspy()


def test_the_crs_is_in_metres_known_and_one(tmp_path):
    x, y, z, classes = scene(n=50)
    a = survey(write_scan(tmp_path / "a.las", x, y, z, classes))
    b = survey(write_scan(tmp_path / "b.las", x, y, z, classes, epsg=32631))
    feet = survey(write_scan(tmp_path / "f.las", x, y, z, classes, epsg=2992))
    none = survey(write_scan(tmp_path / "n.las", x, y, z, classes, epsg=None))
    assert common_epsg([a], None) == 2154
    assert common_epsg([none, a], 2154) == 2154
    with pytest.raises(GridError, match="EPSG:2154 and .*EPSG:32631"):
        common_epsg([a, b], None)
    with pytest.raises(GridError, match=r"is in foot .*reproject"):
        common_epsg([feet], None)
    with pytest.raises(GridError, match=r"does not say its CRS; state it"):
        common_epsg([none], None)
    with pytest.raises(GridError, match=r"crs=999999 is not a known EPSG code"):
        common_epsg([none], 999999)


@pytest.mark.parametrize(
    ("at", "content", "message"),
    [
        (131, bytes(8), "states a scale of 0, which puts all points at one place"),
        (155, np.float64(1e300).tobytes(), "has coordinates that are no place on Earth"),
        (100, np.uint32(10**9).tobytes(), "claims more records than the file has room for"),
        (243, np.uint32(10**9).tobytes(), "claims more records than the file has room for"),
    ],
)
def test_a_header_that_cannot_be_right_is_one_line(tmp_path, at, content, message):
    path = write_scan(tmp_path / "s.las", *scene(n=50))
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        survey(path)


def test_of_a_compound_crs_the_horizontal_part_counts(tmp_path):
    path = write_scan(tmp_path / "c.las", *scene(n=50), epsg=None)
    points = laspy.read(path)
    points.header.add_crs(CRS.from_user_input("EPSG:2154+5720"))
    points.write(path)
    assert common_epsg([survey(path)], None) == 2154


@pytest.mark.parametrize(
    ("code", "unit"), [("EPSG:2154+6360", "US survey foot"), ("EPSG:26910+8228", "foot"), ("EPSG:2154+5720", None)]
)
def test_heights_in_feet_of_a_wkt_are_refused(tmp_path, code, unit):
    path = write_scan(tmp_path / "c.las", *scene(n=50), epsg=None)
    points = laspy.read(path)
    points.header.add_crs(CRS.from_user_input(code))
    points.write(path)
    if unit is None:
        assert survey(path).count == 50
        return
    with pytest.raises(GridError, match=f"c.las has heights in {unit} .*reproject it to a CRS in metres first"):
        survey(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({3072: 26910, 3076: 9001, 4099: 9001}, None),
        ({3072: 26910}, None),
        ({3072: 26910, 4099: 9003}, r"heights in US survey foot \(GeoTIFF key 4099\)"),
        ({3072: 26910, 4099: 9002}, "heights in foot"),
        ({3072: 26910, 4096: 6360}, r"heights in US survey foot \(GeoTIFF key 4096\)"),
        ({3072: 26910, 4096: 5703}, None),
        ({3072: 32767, 3076: 9003}, r"coordinates in US survey foot \(GeoTIFF key 3076\)"),
    ],
)
def test_units_that_only_geotiff_keys_tell(tmp_path, keys, message):
    path = write_scan(tmp_path / "k.las", *scene(n=50), epsg=None, version="1.2", point_format=1)
    points = laspy.read(path)
    record = GeoKeyDirectoryVlr()
    record.geo_keys = [GeoKeyEntryStruct(number, 0, 1, value) for number, value in keys.items()]
    record.geo_keys_header.number_of_keys = len(keys)
    points.header.vlrs.append(record)
    points.write(path)
    if message is None:
        assert survey(path).count == 50
        return
    with pytest.raises(GridError, match=message):
        survey(path)


def test_bundled_tiles_are_there():
    files = [survey(path) for path in find_files("sample")]
    assert len(files) == 4
    assert common_epsg(files, None) == 2154
    assert sum(file.count for file in files) == 273_982


def test_a_scan_cut_at_a_record_is_refused(tmp_path):
    path = write_scan(tmp_path / "a.las", *scene())
    with laspy.open(path) as reader:
        size, start = reader.header.point_format.size, reader.header.offset_to_point_data
    path.write_bytes(path.read_bytes()[: start + 100 * size])
    with pytest.raises(InputError, match=r"holds 100 of the 9000 points its header promises|cannot be read as LAS"):
        survey(path)


def test_a_stray_point_does_not_make_a_lattice_without_end(tmp_path):
    x, y, z, classes = scene()
    x[0] += 5e6
    with pytest.raises(InputError, match=r"reaches over 5000 km; a scan of at most 200 km was expected"):
        survey(write_scan(tmp_path / "a.las", x, y, z, classes))


def test_bounds_are_those_of_the_points_whatever_the_header_claims(tmp_path):
    path = write_scan(tmp_path / "a.las", *scene())
    content = bytearray(path.read_bytes())
    content[179:187] = np.float64(1e300).tobytes()  # greatest x
    path.write_bytes(bytes(content))
    assert survey(path).bounds == pytest.approx(survey(write_scan(tmp_path / "b.las", *scene())).bounds)


def test_files_of_macos_are_passed_over(file):
    (file.parent / "._scan.laz").write_bytes(bytes(4096))
    assert find_files(file.parent) == [file]
