"""Public functions: types of arguments, and what is said of an error nobody foresaw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import rasterio

from geossl.errors import InputError, RunError, WrongTypeError
from geossl.faults import fits, guarded, unexpected


@pytest.mark.parametrize(
    ("value", "hint", "is_right"),
    [
        (3, int, True),
        (np.int64(3), int, True),
        (True, int, False),
        (3, float, True),
        ("3", float, False),
        ("a", str | Path, True),
        (b"a", str | Path, False),
        (None, str | None, True),
        (["a", Path("b")], Sequence[str | Path], True),
        ("ab", Sequence[str], False),
        ([1], Sequence[str], False),
        ((1.0, 2), tuple[float, float], True),
        ((), tuple[float, float], False),
        ("own", int | Literal["own"], True),
        (np.zeros(2), int | Literal["own"], False),
        ({"a": [1]}, Mapping[str, Sequence[int]], True),
        ({"a": 1}, Mapping[str, Sequence[int]], False),
    ],
)
def test_values_fit_their_annotations(value, hint, is_right):
    assert fits(value, hint) is is_right


def double(number: int, *, told=None) -> int:
    """Twice a number."""
    if told:
        told()
    if number < 0:
        raise InputError("negative")
    return 2 * number if number else {}["secret"]


def test_arguments_of_another_type_are_refused_by_name():
    twice = guarded(double, "geossl.double")
    assert twice(4) == 8
    assert twice.__doc__ == "Twice a number."
    with pytest.raises(WrongTypeError, match="geossl.double: number='4' is of type str; expected a whole number"):
        twice("4")
    with pytest.raises(TypeError, match="missing a required argument: 'number'"):
        twice()
    with pytest.raises(InputError, match="^negative$"):
        twice(-1)


def test_a_fault_says_whose_it_is_and_where_its_log_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("geossl.faults.HERE", str(Path(__file__).parent))
    with pytest.raises(KeyError, match="secret") as fault:
        guarded(double, "geossl.double")(0)
    (log,) = (tmp_path / "geossl").iterdir()
    assert "geossl.double ended in a fault of geossl itself" in fault.value.__notes__[0]
    assert str(log) in fault.value.__notes__[0]
    assert "geossl.double(...)" in log.read_text()


def test_a_raster_that_ends_too_early_is_not_a_fault(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=64, height=64, count=1, dtype="float64") as file:
        file.write(np.ones((1, 64, 64)))
    path.write_bytes(path.read_bytes()[:9000])

    def twice():
        with rasterio.open(path) as file:
            file.read()

    with pytest.raises(RunError, match="a raster cannot be read .*it is damaged or cut short"):
        guarded(twice, "geossl.twice")()
    with pytest.raises(rasterio.errors.RasterioIOError) as error:
        twice()
    assert unexpected(error.value, ["similar"]).startswith("a raster cannot be read (")


def test_an_error_of_the_users_own_function_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def told():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as own:
        guarded(double, "geossl.double")(1, told=told)
    assert not hasattr(own.value, "__notes__")
    assert not list(tmp_path.iterdir())
