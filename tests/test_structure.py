"""The house rules that a machine can hold: who imports whom, how big a file, a folder, a function may be."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest
import yaml

import geossl
from geossl import recipe

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "geossl").rglob("*.py"))
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}

FLOORS = {  # room -> its floors, top down: what stands on a floor imports from lower floors only
    "geossl": (
        {"__init__", "__main__"},
        {"cli"},
        {"api"},
        {"training", "viewer", "integrations"},
        {"methods", "inference", "evaluation", "data"},
        {"models", "recipe", "grid"},
        {"units", "speckle", "faults"},
        {"sensors", "vector_files", "limits"},
        {"outputs", "rules"},
        {"errors", "progress", "retries", "memory"},
    ),
    "geossl.data": (
        {"datasets", "periods"},
        {"stac", "series", "synthetic", "vectors"},
        {"sentinel", "graphs"},
        {"images", "points", "labels"},
        {"batches", "resampling", "splits", "statistics", "arrays", "mapped", "point_tables"},
        {"vrt", "addresses"},
        {"listing", "hosts", "scale_tags"},
    ),
    "geossl.models": (
        {"heads"},
        {"side_by_side"},
        {"files", "teachers", "attention_maps"},
        {"foreign"},
        {"encoders"},
        {"spec", "kinds", "loading"},
        {"layers", "encoder", "download"},
        {"usual"},
    ),
    "geossl.inference": (
        {
            "engine",
            "similarity",
            "change",
            "at_points",
            "series",
            "points",
            "graphs",
            "sampling",
            "totals",
            "value_maps",
        },
        {"changed_places", "dated_maps", "layers"},
        {"outputs", "best_places"},
        {"zonal"},
    ),
}
UPWARDS: set[tuple[str, str]] = set()  # (importing file, imported module): moves that are under way; to be emptied
FOREIGN = {  # room -> what it must do without, so that it works where that is not installed, or starts at once
    "errors": {"torch", "numpy", "rasterio"},
    "sensors": {"torch", "numpy", "rasterio"},
    "recipe": {"torch", "numpy", "rasterio", "lightning", "torchgeo"},
    "grid": {"torch", "rasterio", "torchgeo"},
    "vector_files": {"torch", "rasterio", "torchgeo", "shapely", "odc"},
    "models": {"lightning", "torchgeo", "rasterio", "geopandas", "shapely", "odc", "pyproj", "xarray", "pydantic"},
    "methods": {"torchgeo", "rasterio", "geopandas", "shapely", "odc", "pyproj", "xarray", "pydantic", "click"},
    "inference": {"lightning", "torchgeo", "pydantic", "click"},
    "evaluation": {"lightning", "torchgeo", "rasterio", "geopandas", "odc", "pydantic", "click"},
    "data": {"pydantic", "click"},
    "training": {"pydantic", "click"},
    "viewer": {"torch", "pydantic", "click"},
}
FOREIGN_YET: set[tuple[str, str]] = set()  # (file, package): moves that are under way
CHAIN = 10  # longest chain of imports at the top of files
FOLDERS = {  # folders of fewer than 5 or more than 15 files
    "geossl/api/graphs": "two commands",
    "geossl/api/points": "two commands",
    "geossl/data/images": "one kind of data, whole",
    "geossl/integrations": "a file per library",
    "geossl/recipe": "a page per method",
}
OBJECTIVE = "a key of the recipe's objective is an argument of the method, by name"
PARAMETERS = {  # functions of more than 8 parameters: how many, and why; the table may only get shorter
    "geossl/inference/engine/store.py:add_array": (10, "all that Zarr must know of an array, called four times here"),
    "geossl/inference/outputs/cog.py:write_blocks": (10, "a GeoTIFF's header, most of it left out by most"),
    "geossl/methods/croma.py:__init__": (12, OBJECTIVE),
    "geossl/methods/graphmae.py:__init__": (9, OBJECTIVE),
    "geossl/methods/hybrid_distill.py:__init__": (11, OBJECTIVE),
    "geossl/methods/mr_mae.py:__init__": (11, OBJECTIVE),
    "geossl/methods/point_cmae.py:__init__": (11, OBJECTIVE),
    "geossl/methods/selfcon.py:__init__": (9, OBJECTIVE),
}
NAMESPACES = {"points", "series", "graphs"}
PUBLIC = 24  # 18, and `wrap`, `sample`, `change`, `verify` of any encoder and of answers


@cache
def nodes_of(path: Path, whole: bool = True) -> tuple[ast.AST, ...]:
    """Every node of a file, or those at its top only; parsed once for all tests."""
    return tuple(ast.walk(ast.parse(path.read_text()))) if whole else tuple(nodes_of(path)[0].body)


@cache
def imported(path: Path, whole: bool = True) -> frozenset[str]:
    """Modules of geossl a file imports, by name; ``geossl`` itself only holds lazy names and is left out.

    Args:
        path: The file.
        whole: Also within functions; else at its top only, which is what happens when it is imported.
    """
    found = set()
    for node in nodes_of(path, whole):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "geossl":
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("geossl.")}
    return frozenset(found - {"geossl"})


def foreign(path: Path) -> set[str]:
    """Packages of others a file imports."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def climbs(path: Path) -> Iterator[tuple[str, str]]:
    """Imports of a file that do not go down, as (file, module)."""
    for room, floors in FLOORS.items():
        if not module_of(path).startswith(f"{room}."):
            continue
        number = {name: i for i, names in enumerate(floors) for name in names}
        here = module_of(path).removeprefix(f"{room}.").split(".")[0]
        for module in imported(path):
            if module.startswith(f"{room}."):
                there = module.removeprefix(f"{room}.").split(".")[0]
                if there != here and number[here] >= number[there]:
                    yield str(path.relative_to(ROOT)), module


def test_imports_go_down():
    assert {climb for path in FILES for climb in climbs(path)} - UPWARDS == set()


def test_what_climbs_is_still_there():
    assert {climb for path in FILES for climb in climbs(path)} >= UPWARDS


@pytest.mark.parametrize("room", FLOORS)
def test_every_file_and_folder_has_a_floor(room):
    folder = ROOT / room.replace(".", "/")
    found = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    planned = set().union(*FLOORS[room]) | {"__init__", "__main__"}
    assert found <= planned


def test_a_room_does_without_what_is_foreign_to_it():
    found = {
        (str(path.relative_to(ROOT)), package)
        for path in FILES
        for package in foreign(path) & FOREIGN.get(module_of(path).split(".")[1], set())
    }
    assert found - FOREIGN_YET == set()


def test_a_file_imports_its_neighbours_not_its_own_folder():
    assert [path for path in FILES if module_of(path).rpartition(".")[0] in imported(path)] == []


@cache
def longest(module: str, whole: bool = False) -> tuple[str, ...]:
    """The longest chain of imports that starts at a module; a circle ends in a RecursionError."""
    chains = (longest(name, whole) for name in imported(MODULES[module], whole) - {module} if name in MODULES)
    return (module, *max(chains, key=len, default=()))


def test_imports_make_no_circle():
    for module in MODULES:
        chain = longest(module, whole=True)
        assert len(set(chain)) == len(chain)


def test_chains_of_imports_are_short():
    chain = max((longest(m) for m in MODULES if m != "geossl"), key=len)
    assert len(chain) <= CHAIN, " > ".join(chain)


@pytest.mark.parametrize("folder", sorted({str(p.parent.relative_to(ROOT)) for p in FILES}))
def test_a_folder_holds_what_one_can_overlook(folder):
    count = len(list((ROOT / folder).glob("*.py")))
    assert (5 <= count <= 15) != (folder in FOLDERS), f"{folder} holds {count} files"


def parameters(path: Path) -> Iterator[tuple[str, int]]:
    """Functions of a file as ``file:name`` with the number of their parameters, ``self`` and ``cls`` left out."""
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            yield f"{path.relative_to(ROOT)}:{node.name}", len([n for n in names if n not in ("self", "cls")])


def test_functions_take_at_most_eight_parameters():
    many = {name: count for path in FILES for name, count in parameters(path) if count > 8}
    assert {name: count for name, count in many.items() if count > PARAMETERS.get(name, (8, ""))[0]} == {}
    assert sorted(set(PARAMETERS) - set(many)) == [], "these take 8 or fewer now: take them off the table"
    assert len(PARAMETERS) <= 8
    assert all(reason for _, reason in PARAMETERS.values())


def test_the_package_has_few_public_names():
    names = set(geossl.__all__)
    assert len(names - NAMESPACES) <= PUBLIC
    assert all(name in dir(geossl) for name in names)


def over_budget(path: Path) -> Iterator[str]:
    """What is too long in a file or not named as it should be, in words."""
    text = path.read_text()
    if (count := len(text.splitlines())) > 350:
        yield f"{count} lines"
    if not text.isascii():
        yield "signs that are not ASCII"
    if path.stem in {"utils", "helpers", "common", "misc", "core"}:
        yield "a name that says nothing"
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > 60:
                yield f"{node.name} has {lines} lines"


def test_files_and_functions_keep_their_budget():
    assert {str(path.relative_to(ROOT)): found for path in FILES if (found := list(over_budget(path)))} == {}


def test_files_are_short_on_the_whole():
    assert median(len(p.read_text().splitlines()) for p in FILES if p.name != "__init__.py") <= 160


def test_tests_weigh_enough():
    tests = sum(statement_lines(p) for p in (ROOT / "tests").rglob("*.py"))
    assert tests >= 0.7 * sum(statement_lines(p) for p in FILES)


def statement_lines(path):
    """Lines that hold code: neither blank, nor comment, nor docstring (the package's are long, tests have none)."""
    lines = {n.lineno for n in nodes_of(path) if hasattr(n, "lineno")}
    for node in nodes_of(path):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("name", sorted(recipe.RECIPES))
def test_a_method_is_five_files_of_its_name(name):
    for path in (
        f"geossl/methods/{name}.py",  # losses
        f"geossl/recipe/{name}.py",  # keys
        f"recipes/{name}.yaml",  # values to start with
        f"geossl/api/pretrain/{name}.py",  # from a recipe to data and method
        f"tests/methods/test_{name}.py",  # with SMALL, for the contract test
    ):
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


@cache
def names_of(module: str) -> set[str]:
    """What can be imported from a module of geossl: names bound at its top, its own modules, and lazy ones."""
    path = MODULES[module]
    found = {name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == module}
    if module == "geossl":
        found |= set(geossl.__all__)
    for node in nodes_of(path, whole=False):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return found


def test_files_import_what_there_is():
    unknown = [
        (str(path.relative_to(ROOT)), node.module, alias.name)
        for path in (*FILES, *sorted((ROOT / "benchmarks").rglob("*.py")))
        for node in nodes_of(path)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "geossl"
        for alias in node.names
        if alias.name not in names_of(node.module)
    ]
    assert unknown == []
