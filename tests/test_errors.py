"""One line per error: missing extras, unknown names, addresses without secrets."""

import subprocess
import sys
import warnings

import pytest

from geossl.errors import (
    EXTRAS,
    GeosslError,
    InputError,
    MissingExtraError,
    MissingFileError,
    Note,
    alike_notes_once,
    missing,
    nearest,
    needs,
    shell_words,
)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_names_its_package_and_how_to_install_it(extra):
    error = needs(extra, "do without")
    assert isinstance(error, MissingExtraError)
    assert isinstance(error, InputError)
    assert isinstance(error, ImportError)
    assert f"the package {EXTRAS[extra][1][0]!r}: pip install 'geossl[{extra}]'; or do without" in str(error)


def test_an_import_that_fails_is_told_apart_from_a_missing_extra():
    ours = ModuleNotFoundError("No module named 'geossl.x'", name="geossl.x")
    assert missing(ours) is ours
    other = missing(ModuleNotFoundError("No module named 'torch_geometric.data'", name="torch_geometric.data"))
    assert str(other) == "graphs and superpixels need the package 'torch_geometric': pip install 'geossl[graph]'"


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import geossl; geossl.graphs.embed", "graph"),
        ("import geossl; geossl.graphs.cluster", "graph"),
        ("from geossl.cli import main; main(['pretrain', 'scgc', 'data.source=x'])", "graph"),
        ("from geossl.models.files import architecture; architecture('gnn')", "graph"),
    ],
)
def test_without_the_graph_extra_its_verbs_say_so(code, extra):
    without = "import sys; sys.modules['torch_geometric'] = None; "
    done = subprocess.run([sys.executable, "-c", without + code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"pip install 'geossl[{extra}]'" in done.stderr.splitlines()[-1]
    if "main" in code:
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_without_the_graph_extra_images_are_evaluated():
    code = "import sys; sys.modules['torch_geometric'] = None; import geossl.api.evaluate.run"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_error_is_of_the_family():
    kinds = [kind for kind in vars(sys.modules["geossl.errors"]).values() if isinstance(kind, type)]
    errors = [kind for kind in kinds if issubclass(kind, Exception) and not issubclass(kind, Warning)]
    assert len(errors) >= 9
    assert all(issubclass(kind, GeosslError) for kind in errors)


@pytest.mark.parametrize(
    ("message", "in_python"),
    [
        ("--s2-offset -1000 does nothing; leave it out", "s2_offset -1000 does nothing; leave it out"),
        ("an image is 20 px; use --image-px 16", "an image is 20 px; use image_px=16"),
        ("needs whole windows; use --reach none", "needs whole windows; use reach=None"),
        ("a.tif exists; choose another name, or --overwrite", "a.tif exists; choose another name, or overwrite=True"),
        ("--gsd 33 is not possible", "gsd_m 33 is not possible"),
        ("make it with `geossl embed --aoi a`", "make it with `geossl embed --aoi a`"),
        ("train one: geossl embed --aoi a; then go on", "train one: geossl embed --aoi a; then go on"),
        ("2024-06--2024-08 is not a period", "2024-06--2024-08 is not a period"),
    ],
)
def test_a_message_names_flags_in_the_shell_and_arguments_in_python(message, in_python):
    for error in (InputError(message), Note(message), MissingFileError(message)):
        with shell_words():
            assert str(error) == message
        assert str(error) == in_python


@alike_notes_once()
def look_at_files():
    for number in range(3):
        warnings.warn(f"/a/{number}.tif: no number is dark ({number}.5)", Note, stacklevel=1)
    warnings.warn("/a/7.tif: names no band", Note, stacklevel=1)
    warnings.warn("old", UserWarning, stacklevel=1)
    warnings.warn("old", UserWarning, stacklevel=1)
    raise InputError("stop")


def test_notes_that_are_alike_but_for_file_and_number_are_said_once():
    with pytest.warns() as said, pytest.raises(InputError, match="stop"):
        look_at_files()
    texts = [str(one.message) for one in said]
    assert texts[:2] == ["/a/0.tif: no number is dark (0.5) (and 2 more files)", "/a/7.tif: names no band"]
    assert set(texts[2:]) == {"old"}


def test_of_a_thousand_known_names_the_first_are_shown():
    assert nearest("x", map(str, range(10, 1010))).endswith("68, 69 and 940 more")
    assert nearest("nothing like it", ["a", "b"]) == "known: a, b"
