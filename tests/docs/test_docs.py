"""The documentation says what the program does: commands parse, Python names exist, errors read as they are shown."""

import ast
import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import rasterio
import yaml

import geossl
from geossl.cli import main

ROOT = Path(__file__).parents[2]
SAMPLE = Path(geossl.__file__).parent / "data/sample"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    return [text for _, language, text in BLOCK.findall(page.read_text()) if language in languages]


def commands():
    for page in PAGES:
        for text in blocks(page, "", "bash"):
            for line in re.sub(r"\\\n", " ", text).splitlines():
                for part in line.split(" # ")[0].split("; "):
                    if part.strip().startswith("geossl "):
                        yield pytest.param(part.strip(), id=f"{page.stem}: {part.strip()[:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_shown_command_parses(line):
    command, name, args = main, "geossl", shlex.split(line)[1:]
    parent = None
    while isinstance(command, click.Group):
        if args[0].startswith("-"):
            return
        context = click.Context(command, info_name=name, parent=parent)
        name, command, args = command.resolve_command(context, args)
        parent = context
    command.make_context(name, args, parent=parent)


LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(name):
    page = ROOT / name
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def names():
    for page in PAGES:
        for text in blocks(page, "python"):
            yield pytest.param(text, id=f"{page.stem}: {text[:40]!r}")


@pytest.mark.parametrize("text", list(names()))
def test_shown_python_uses_names_that_exist(text):
    for node in ast.walk(ast.parse(textwrap.dedent(text))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "geossl":
            assert node.attr in {*geossl.PUBLIC, "api", "points", "series", "graphs"}


def test_every_public_name_has_an_entry():
    paths = [*geossl.PUBLIC.values(), *geossl.POINTS.values(), *geossl.SERIES.values(), *geossl.GRAPHS.values()]
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs/python.md").read_text(), flags=re.MULTILINE)
    assert sorted(shown) == sorted(path.replace(":", ".") for path in paths)


def errors():
    for text in blocks(ROOT / "docs/errors.md", "console"):
        command, said = text.strip().split("\n")
        yield pytest.param(command.removeprefix("$ geossl "), said, id=command[:60])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes that cannot be read as they are: no offset stated, no band names, per cent, linear power."""
    folder = tmp_path_factory.mktemp("scenes")
    with rasterio.open(next((SAMPLE / "s2").glob("433D*.tif"))) as file:
        pixels, names, profile = file.read(), file.descriptions, file.profile
    with rasterio.open(next((SAMPLE / "s1").glob("433D*.tif"))) as file:
        decibel, radar, own = file.read(), file.descriptions, file.profile
    for name, numbers, bands, kind in (
        ("no_offset", pixels, names, profile),
        ("unnamed", pixels, None, profile),
        ("per_cent", (pixels / 100).astype("float32"), names, profile),
        ("power", (10 ** (decibel / 10)).astype("float32"), radar, own),
    ):
        with rasterio.open(folder / f"{name}.tif", "w", **{**kind, "dtype": numbers.dtype}) as file:
            file.write(np.ascontiguousarray(numbers))
            if bands:
                file.descriptions = bands
    return folder


@pytest.mark.parametrize(("command", "said"), list(errors()))
def test_a_shown_error_is_the_one_that_is_said(command, said, scenes, monkeypatch, capsys):
    monkeypatch.chdir(scenes)
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command))
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == said
    assert sorted(path.name for path in scenes.iterdir()) == [
        "no_offset.tif",
        "per_cent.tif",
        "power.tif",
        "unnamed.tif",
    ]


ELSEWHERE = {"torch": "pytorch", "dask": "dask-core", "matplotlib": "matplotlib-base"}  # names on conda-forge


def test_the_conda_recipe_needs_what_the_wheel_needs():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    split = [re.match(r"([\w-]+)(.*)", line).groups() for line in wheel]
    recipe = yaml.safe_load((ROOT / ".ci/conda/recipe.yaml").read_text())
    found = [line for line in recipe["requirements"]["run"] if not line.startswith("python ")]
    assert sorted(found) == sorted(f"{ELSEWHERE.get(name, name)} {floor}".strip() for name, floor in split)
    assert recipe["context"]["version"] == geossl.__version__
