"""Find, read and check recipe files; a mistake answers at once, without torch."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from geossl.errors import MissingFileError, RecipeError, UnknownNameError
from geossl.recipe.croma import CromaRecipe
from geossl.recipe.cross_video_mae import CrossVideoRecipe
from geossl.recipe.graphs import GraphMAERecipe, SCGCRecipe
from geossl.recipe.hybrid_distill import HybridRecipe
from geossl.recipe.mr_mae import MrMaeRecipe
from geossl.recipe.point_cmae import PointCmaeRecipe
from geossl.recipe.regularized_ae import RegularizedAERecipe
from geossl.recipe.sections import Recipe, Section
from geossl.recipe.selfcon import SelfconRecipe

FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[2] / "recipes")  # wheel, checkout
RECIPES: dict[str, type[Recipe]] = {  # key = method file name = test file name
    "croma": CromaRecipe,
    "mr_mae": MrMaeRecipe,
    "hybrid_distill": HybridRecipe,
    "regularized_ae": RegularizedAERecipe,
    "cross_video_mae": CrossVideoRecipe,
    "selfcon": SelfconRecipe,
    "graphmae": GraphMAERecipe,
    "scgc": SCGCRecipe,
    "point_cmae": PointCmaeRecipe,
}


def names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def find(name_or_path: str | Path) -> Path:
    """Find a recipe file by path or by the name of a packaged recipe.

    Raises:
        MissingFileError: If a path (something with a folder or ``.yaml``) does not exist.
        UnknownNameError: If no packaged recipe has that name.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    packaged = [folder / f"{path.stem}.yaml" for folder in FOLDERS if (folder / f"{path.stem}.yaml").is_file()]
    if packaged and str(name_or_path) in (path.stem, f"recipes/{path.stem}.yaml"):
        return packaged[0]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise MissingFileError(f"recipe file {str(path)!r} does not exist; packaged recipes: {', '.join(names())}")
    raise UnknownNameError("recipe", str(name_or_path), names())


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides, check every value.

    Args:
        name_or_path: A file, or the name of a packaged recipe such as ``croma``.
        overrides: ``section.key=value`` strings; values are read as YAML.

    Raises:
        MissingFileError, UnknownNameError: If there is no such recipe.
        RecipeError: If the YAML is broken or a key or value is wrong; names file, line, key and what is expected.
    """
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error.__class__.__name__
        raise RecipeError(f"{path}{where}: not readable as YAML ({problem})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected 'section: {{key: value}}' lines, got {type(values).__name__}")
    origin = {}
    for override in overrides:
        origin[apply_override(values, override)] = override
    name = values.get("method")
    if name not in RECIPES:
        near = difflib.get_close_matches(str(name), RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RECIPES)}"
        raise RecipeError(f"{path}: method {name!r} is not known; {hint}")
    try:
        return RECIPES[name].model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, path, node, origin, RECIPES[name])) from None


def apply_override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    """Set one ``a.b=value`` in nested ``values``; return the key path."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override {override!r} is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"override {override!r}: the value is not readable as YAML") from None
    path = tuple(key.strip().split("."))
    inner = values
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"override {override!r}: {part!r} is a value, not a section")
    inner[path[-1]] = value
    return path


def explain(
    error: ValidationError, path: Path, node: yaml.Node | None, origin: dict[tuple[str, ...], str], model: type[Section]
) -> str:
    """One line for the first validation error: where, key, what was expected, nearest valid key."""
    found = error.errors()  # a misspelt key also makes the right one missing: tell the misspelling
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    loc = tuple(str(part) for part in first["loc"])
    override = next((text for key, text in origin.items() if key[: len(loc)] == loc or loc[: len(key)] == key), None)
    where = f"override {override!r}" if override else f"{path}{line_of(node, loc)}"
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        known = valid_keys(model, loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}"
        return f"{where}: unknown key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{where}: {message}"
    return f"{where}: {key} = {first['input']!r} is wrong; {message[0].lower()}{message[1:]}"


def valid_keys(model: type[Section], loc: Sequence[str]) -> list[str]:
    """Keys of the section at ``loc``."""
    for part in loc:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(model.model_fields)


def line_of(node: yaml.Node | None, loc: Sequence[str]) -> str:
    """`` line N`` of the deepest key of ``loc`` that the file holds."""
    line = None
    for part in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        match = next(((k, v) for k, v in node.value if k.value == part), None)
        if match is None:
            break
        line, node = match[0].start_mark.line + 1, match[1]
    return f" line {line}" if line else ""


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; ``load`` reads it back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
