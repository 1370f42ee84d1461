import subprocess
import sys

import pytest
from click.testing import CliRunner

from geossl import recipe
from geossl.cli import main
from geossl.data.datasets.names import NAMES
from geossl.models.download import ENCODERS


def listed(*arguments):
    found = CliRunner().invoke(main, ["list", *arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_recipes_stand_below_their_method_with_a_line_each():
    lines = listed("recipes").splitlines()[1:]
    names = [line.split()[0] for line in lines]
    assert sorted(names) == recipe.names()
    assert [line.split()[0] for line in lines if not line.startswith("   ")] == list(recipe.RECIPES)
    assert names[names.index("mr_mae") + 1] == "mae"  # its method is mr_mae
    assert "    graphmae/cora         GraphMAE on Cora, the authors' settings" in lines
    assert all(len(line.split(maxsplit=1)[1]) >= 20 for line in lines)


def test_all_three_lists_come_at_once_or_alone_in_a_hundred_columns():
    text = listed()
    assert text == "\n".join(listed(what) for what in ("recipes", "encoders", "data"))
    assert max(map(len, text.splitlines())) <= 116
    assert max(map(len, listed("recipes").splitlines())) <= 100
    assert [line.split()[0] for line in listed("encoders").splitlines()[1:]] == list(ENCODERS)
    assert [line.split()[0] for line in listed("data").splitlines()[1:]] == list(NAMES)


def test_a_wrong_kind_of_list_is_refused():
    found = CliRunner().invoke(main, ["list", "methods"])
    assert found.exit_code == 2
    assert "'methods' is not one of 'recipes', 'encoders', 'data'" in found.output


def test_lists_come_without_importing_torch():
    code = (
        "import sys; from click.testing import CliRunner; from geossl.cli import main; "
        "r = CliRunner().invoke(main, ['list']); "
        "sys.exit(r.exit_code or 'graphmae/cora' not in r.stdout or bool({'torch', 'rasterio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_file_opens_with_a_line_for_the_list(name):
    _, line = recipe.summary(name)
    assert 20 <= len(line) <= 74
    assert not line.endswith(".")
