"""The shell's entry point: help, former spellings, and every error in one line."""

import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner

import geossl
from geossl.cli import main


def shell(*typed, **settings):
    return CliRunner().invoke(main, list(typed), **settings)


@pytest.mark.parametrize("typed", [[], ["--help"], ["points"], ["series"], ["graphs"]])
def test_nothing_typed_is_answered_with_help(typed):
    done = shell(*typed)
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: geossl")
    assert done.stderr == ""


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "geossl", "embd"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "geossl: no command 'embd'; did you mean 'embed'?\n"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["embed-series", "dates"], "`geossl embed-series` is now `geossl series embed`"),
        (["graph", "--encoder", "e"], "`geossl graph` is now `geossl graphs cluster`"),
        (["points", "clasify"], "no command 'clasify' in `geossl points`; did you mean 'classify'?"),
        (["xyz"], "no command 'xyz'; commands: pretrain, fetch, embed"),
        (["embed", "--aoi", "a", "--encodr", "e"], "--encod"),
    ],
)
def test_a_former_or_misspelt_command_is_answered_with_the_right_one(typed, message):
    done = shell(*typed)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_error_nobody_foresaw_is_one_line_and_a_log(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("inner\nsecret")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("geossl.api.export.export", broken)
    done = shell("export", "https://me:pass@host/map.zarr?sig=abc", "out.tif")
    (log,) = (tmp_path / "geossl").iterdir()
    assert done.exit_code == 1
    assert done.stderr == (
        "geossl: `geossl export https://host/map.zarr out.tif` ended in a fault of geossl itself "
        f"(KeyError: 'inner\\nsecret'); the traceback is in {log}; please report it with that file\n"
    )
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert 'raise KeyError("inner\\nsecret")' in text
    assert "pass" not in text.splitlines()[1]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "map.zarr/c/0"), "map.zarr/c/0 cannot be written or opened (No space"),
        (MemoryError(), "there is not enough memory for this"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "there is not enough memory for this",
        ),
    ],
)
def test_a_machine_that_refuses_is_not_a_fault_of_ours(monkeypatch, error, message):
    def refuses(*_, **__):
        raise error

    monkeypatch.setattr("geossl.api.export.export", refuses)
    done = shell("export", ".", "out.tif")
    assert done.exit_code == 1
    assert message in done.stderr
    assert "fault" not in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embed_points", "geossl.embed_points is now geossl.points.embed"),
        ("graph_from_raster", "geossl.graph_from_raster is now geossl.graphs.from_raster"),
        ("write_graph", "geossl.write_graph is now geossl.graphs.write"),
        ("similar_map", r"geossl.similar_map is now geossl.similar\(..., out=...\)"),
        ("embed_mpa", "module 'geossl' has no attribute 'embed_mpa'; did you mean 'embed_map'"),
    ],
)
def test_a_former_name_is_answered_with_the_new_one(name, message):
    with pytest.raises(AttributeError, match=message):
        getattr(geossl, name)
    with pytest.raises(AttributeError, match="module 'geossl.points' has no attribute 'emded'; did you mean 'embed'"):
        geossl.points.emded  # noqa: B018


def test_other_data_have_their_own_names():
    from geossl.graphs import cluster
    from geossl.points import embed
    from geossl.series import embed as embed_series

    found = [verb.__name__ for verb in (cluster, embed, embed_series)]
    assert found == ["cluster_graph", "embed_points", "embed_series"]
    assert geossl.points.embed is embed
    assert dir(geossl.points) == ["classify", "embed", "finetune"]
    assert all(callable(getattr(geossl.graphs, name)) for name in dir(geossl.graphs))
