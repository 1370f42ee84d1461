"""Files appear whole or not at all; names that become paths stay where they belong."""

import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import geossl
from geossl.cli import main
from geossl.errors import InputError, RunError
from geossl.outputs import (
    check_not_input,
    check_output,
    is_unfinished,
    on_disk,
    plain_name,
    remove,
    replacing,
    work_path,
    workspace,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_at_the_end_and_not_before(tmp_path):
    out = tmp_path / "a.json"
    write_text(out, "old")
    with replacing(out) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".json"
        assert temporary.name.startswith(".")  # folders are searched for *.json without it
        assert out.read_text() == "old"
    assert out.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), InputError("bad")])
def test_what_fails_leaves_the_old_file_alone(tmp_path, error):
    out = tmp_path / "a.json"
    write_text(out, "old")
    with pytest.raises(type(error)), replacing(out) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert out.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_one_line(tmp_path, number):
    message = f"a.json cannot be written \\({os.strerror(number)}\\); make room"
    with pytest.raises(RunError, match=message), replacing(tmp_path / "a.json") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_a_disk_that_is_full_is_recognised_where_another_library_says_so_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(RunError, match="No space left on device"), replacing(tmp_path / "a.pt"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")


def test_an_output_of_many_files_says_so_too(tmp_path):
    with (
        pytest.raises(RunError, match="m.zarr cannot be written \\(No space left on device\\)"),
        on_disk(tmp_path / "m.zarr"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyError, match="ours"), on_disk(tmp_path / "m.zarr"):
        raise KeyError("ours")


def test_an_error_of_reading_is_not_taken_for_one_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(tmp_path / "a.json"):
        Path("/nowhere/elsewhere").read_text()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RunError, match="a.json cannot be written \\(No such file or directory\\)"):
        write_text(tmp_path / "none" / "a.json", "x")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("a.png", {}, "out .*a.png must end in .tif or .zarr"),
        ("there.tif", {"overwrite": False}, "there.tif exists; choose another name, or overwrite=True"),
        ("there.tif", {"overwrite": None}, "there.tif exists; choose another name, or delete it"),
        ("folder.tif", {}, "folder.tif is a folder; choose another name"),
        ("there.tif/a.tif", {"makes_folder": True}, "cannot be written: .*there.tif is not a folder"),
        ("none/a.tif", {"option": "--raster"}, "raster .*a.tif: folder '.*none' does not exist; create it"),
        ("m.zarr/c/a.tif", {"makes_folder": True}, "lies inside the map .*m.zarr; choose another folder"),
        ("a\0.tif", {}, "is not a file name"),
        ("x" * 250 + ".tif", {}, "xxx... is a name of more than 240 bytes"),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path, name, settings, message):
    (tmp_path / "there.tif").write_text("")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "m.zarr").mkdir()
    (tmp_path / "m.zarr/zarr.json").touch()
    with pytest.raises(InputError, match=message):
        check_output(f"{tmp_path}/{name}", (".tif", ".zarr"), **settings)
    with pytest.raises(InputError, match="'' is not a file name"):
        check_output("", (".tif",))


def test_an_output_that_is_an_input_is_refused_before_it_is_lost(tmp_path):
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_text("")
    a, link = tmp_path / "a.tif", tmp_path / "link.tif"
    link.symlink_to(a)
    for given in ({"s2": str(a)}, {"s2": (tmp_path / "b.tif", a)}, {"source": geossl.Rasters(s2=a)}, {"map": link}):
        with pytest.raises(InputError, match="out .*a.tif is an input of this call, too"):
            check_not_input({**given, "out": a})
        check_not_input({**given, "out": tmp_path / "c.tif"})
    typed = ["embed", "--aoi", str(a), "--s2", str(a), "--overwrite", "--out", str(a)]
    assert "is an input of this call, too" in CliRunner().invoke(main, typed).stderr
    with pytest.raises(InputError, match="is an input of this call, too"):
        geossl.export(a, a)


def test_an_output_that_can_be_is_given_back(tmp_path):
    assert check_output(tmp_path / "new" / "A.TIF", (".tif",), makes_folder=True) == tmp_path / "new" / "A.TIF"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".hidden", "a/b", "a\\b", "a\0", "a\nb", " a", "", "x" * 300]
)
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(InputError, match="encoder in m.safetensors is named .* which is not a plain file name"):
        plain_name(name, "encoder in m.safetensors")


@pytest.mark.parametrize("name", ["croma_tiny", "Karte 2024", "caf\u00e9-v1.2"])
def test_a_plain_name_may_be_a_path(name):
    assert plain_name(name, "encoder") == name


def test_unfinished_work_stays_unless_the_input_was_bad(tmp_path):
    out = tmp_path / "deep" / "a.tif"
    with pytest.raises(InputError, match="bad"), workspace(out):
        raise InputError("bad")
    assert names(tmp_path) == []
    with pytest.raises(RunError, match="broken"), workspace(out):
        raise RunError("broken")
    assert names(out.parent) == ["a.tif.build"]
    with workspace(out) as work:
        assert work == work_path(out)
    assert names(out.parent) == []


def test_work_that_is_done_is_gone_at_once_even_where_its_removal_is_killed(tmp_path, monkeypatch):
    def killed(path):
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("geossl.outputs.remove", killed)
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path / "a.tif") as work:
        (work / "plan.json").touch()
    assert names(tmp_path) == [".a.tif.done"]  # whole, and not taken for work to resume
    assert not is_unfinished(tmp_path / "a.tif")
    monkeypatch.undo()
    with workspace(tmp_path / "a.tif"):
        assert is_unfinished(tmp_path / "a.tif")
    assert names(tmp_path) == []


def test_a_link_to_a_folder_is_removed_and_not_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    assert names(tmp_path) == ["kept"]
