import os

from geossl.data.listing import TIFF, files_in, folders_in


def test_files_of_other_systems_broken_links_and_pipes_are_passed_over(tmp_path):
    for name in ("b.tif", "a.TIFF", "._a.tif", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "folder.tif" / "d.tif").write_bytes(b"")
    assert [p.name for p in files_in(tmp_path, TIFF)] == ["a.TIFF", "b.tif"]
    assert [p.name for p in files_in(tmp_path, TIFF, deep=True)] == ["a.TIFF", "b.tif", "d.tif"]


def test_folders_of_other_systems_are_passed_over(tmp_path):
    for name in ("b", "a", ".git", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert [p.name for p in folders_in(tmp_path)] == ["a", "b"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert files_in(tmp_path / "labels", TIFF) == files_in(tmp_path / "labels", TIFF, deep=True) == []
    assert folders_in(tmp_path / "labels") == []
