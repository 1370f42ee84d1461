import io
import zipfile

import numpy as np
import pytest

from geossl.data import arrays
from geossl.data.arrays import class_numbers, number, official_part, read_npy, read_npz
from geossl.errors import InputError, MissingFileError


def header(shape, dtype="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archive(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content)
    return path


def test_plain_arrays_come_back(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3), names=np.array(["a", "b"]))
    found = read_npz(tmp_path / "a.npz")
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["names"].tolist() == ["a", "b"]
    np.save(tmp_path / "b.npy", np.array([[1.5, 2.5]]))
    assert read_npy(tmp_path / "b.npy").tolist() == [[1.5, 2.5]]


def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_memory_is_taken(tmp_path):
    path = archive(tmp_path / "a.npz", header((10**12,)) + bytes(16))
    with pytest.raises(InputError, match=r"x\.npy claims 4000000000000 bytes but holds 16"):
        read_npz(path)
    (tmp_path / "b.npy").write_bytes(header((10**9, 10**9)) + bytes(8))
    with pytest.raises(InputError, match=r"b\.npy claims 4000000000000000000 bytes but holds 8"):
        read_npy(tmp_path / "b.npy")


def test_what_unpacks_to_more_than_half_of_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**20))
    monkeypatch.setattr(arrays, "MEMORY_SHARE", 1e-9)
    with pytest.raises(InputError, match="more than half of the free memory"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 cut",
        b"\x93NUMPY\x01\x00",
        header((3,), "|O") + bytes(24),
        header((-3,)),
        b"\x93NUMPY\x01\x00\x28\x23" + b"(" * 9000,
    ],
)
def test_damaged_files_and_objects_are_one_line(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match="is damaged, is not an .npy file, or holds Python objects") as caught:
        read_npy(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is damaged, is not an .npz file, or holds Python objects"):
        read_npz(archive(tmp_path / "b.npz", content))


def test_pipes_folders_and_missing_files_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        read_npz(tmp_path)
    with pytest.raises(MissingFileError, match="does not exist"):
        read_npz(tmp_path / "gone.npz")


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([1.5]), np.array([2**40]), np.array([np.nan])])
def test_labels_that_are_not_class_numbers_are_refused(tmp_path, values):
    with pytest.raises(InputError, match="y holds|y reaches"):
        class_numbers(tmp_path / "a.npz", {"y": values})


def test_single_numbers_and_splits_are_checked(tmp_path):
    assert number(tmp_path, {}, "offset", 3.0) == 3
    assert number(tmp_path, {"offset": np.array([-1000])}, "offset") == -1000
    with pytest.raises(InputError, match="offset is float64 of shape"):
        number(tmp_path, {"offset": np.array([1.0, 2.0])}, "offset")
    assert official_part(tmp_path, {"part": np.array([0, 1, 2, -1])}, 4).tolist() == [0, 1, 2, -1]
    with pytest.raises(InputError, match=r"part has shape \(2,\)"):
        official_part(tmp_path, {"part": np.array([0, 1])}, 3)
