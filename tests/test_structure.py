import ast
import importlib
import importlib.util
import re
from pathlib import Path
from statistics import median

import pytest
import yaml

from geossl import recipe

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "geossl").rglob("*.py"))
MAY_IMPORT = {  # layer -> geossl layers below it
    "errors": set(),
    "sensors": set(),
    "recipe": {"sensors", "errors"},
    "grid": {"errors"},
    "models": {"sensors", "errors"},
    "methods": {"models", "sensors", "errors"},
    "evaluation": {"models", "sensors", "errors"},
    "inference": {"models", "grid", "sensors", "errors"},
    "viewer": {"inference", "errors"},
    "data": {"grid", "sensors", "errors"},
    "training": {"methods", "evaluation", "models", "recipe", "sensors", "errors"},
    "api": {
        "training",
        "methods",
        "evaluation",
        "viewer",
        "inference",
        "data",
        "models",
        "recipe",
        "grid",
        "sensors",
        "errors",
    },
    "cli": {"api", "recipe", "errors", "models", "data", "__init__"},
    "__init__": {"api", "inference", "models"},
}


def layer(path):
    return path.relative_to(ROOT / "geossl").parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "geossl":
            parts = (
                [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
                if node.module == "geossl"
                else [node.module]
            )
            yield from parts
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "geossl")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_the_layers_below_it(path):
    used = {name.split(".")[1] for name in imports(path) if "." in name}
    used = {u for u in used if (ROOT / "geossl" / u).exists() or (ROOT / "geossl" / f"{u}.py").exists()}
    assert used - {layer(path)} <= MAY_IMPORT[layer(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_keep_their_budget(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    assert text.isascii()
    assert path.stem not in {"utils", "helpers", "common", "misc", "core"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has {lines} lines"
            if node.name == "__init__":
                assert len(node.args.args) + len(node.args.kwonlyargs) - 1 <= 12


def test_files_are_short_on_the_whole():
    assert median(len(p.read_text().splitlines()) for p in FILES if p.name != "__init__.py") <= 160


def test_tests_weigh_enough():
    tests = sum(statement_lines(p) for p in (ROOT / "tests").rglob("*.py"))
    assert tests >= 0.6 * sum(statement_lines(p) for p in FILES)


def statement_lines(path):
    """Lines that hold code: neither blank, nor comment, nor docstring (the package's are long, tests have none)."""
    tree = ast.parse(path.read_text())
    lines = {n.lineno for n in ast.walk(tree) if hasattr(n, "lineno")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("name", sorted(recipe.RECIPES))
def test_a_method_has_a_page_a_recipe_and_a_test(name):
    for path in (f"geossl/methods/{name}.py", f"recipes/{name}.yaml", f"tests/methods/test_{name}.py"):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("path", sorted((ROOT / "data_cards").glob("*.md")), ids=lambda p: p.stem)
def test_a_data_card_states_what_it_must(path):
    front = yaml.safe_load(path.read_text().split("---")[1])
    assert set(front) == {"name", "version", "licence", "size_gb", "doi", "loader"}
    headings = re.findall(r"^## (.+)$", path.read_text(), flags=re.M)
    assert headings == [
        "What it is",
        "Bands",
        "Where and when",
        "Processing level and baseline",
        "Splits and spatial leakage",
        "Get it",
        "Known defects",
        "Whom it misses or may harm",
        "Cite",
        "Used by",
    ]


def test_every_data_set_of_a_recipe_has_a_card():
    assert {p.stem for p in (ROOT / "data_cards").glob("*.md")} >= {
        "sample_points",
        "sample_scenes",
        "shapenet55",
        "ssl4eo_s12",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_import_what_there_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geossl"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
