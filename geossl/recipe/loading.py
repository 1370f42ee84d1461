"""Find, read and check recipe files; a mistake answers at once, without torch."""

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from geossl.errors import MissingFileError, Note, RecipeError, UnknownNameError, nearest, possible
from geossl.recipe.renamed import flat, new_name, new_word, translated
from geossl.recipe.sections import Recipe, Section

FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[2] / "recipes")  # wheel, checkout


def page_of(method: str) -> type[Recipe]:
    """The recipe class of ``geossl/recipe/METHOD.py``: the one whose ``method`` is that name."""
    module = import_module(f"geossl.recipe.{method}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Recipe)]
    return next(c for c in classes if get_args(c.model_fields["method"].annotation) == (method,))


RECIPES: dict[str, type[Recipe]] = {  # a method has a page of settings here and one in recipes/, both of its name
    path.stem: page_of(path.stem)
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if any((folder / f"{path.stem}.yaml").is_file() for folder in FOLDERS)
}


def names() -> list[str]:
    """Names of the packaged recipes: ``graphmae``, and per data set or size ``graphmae/cora``."""
    return sorted({str(p.relative_to(f).with_suffix("").as_posix()) for f in FOLDERS for p in f.rglob("*.yaml")})


def find(name_or_path: str | Path) -> Path:
    """Find a recipe file by path or by the name of a packaged recipe.

    Raises:
        MissingFileError: If a path (something that ends in ``.yaml``) does not exist.
        UnknownNameError: If no packaged recipe has that name.
    """
    path = possible(name_or_path, "recipe")
    if path.is_file():
        return path
    is_file = path.suffix in (".yaml", ".yml")
    name = path.with_suffix("").as_posix().removeprefix("recipes/") if is_file else path.as_posix()
    if not is_file or path.as_posix() == f"recipes/{name}.yaml":
        for folder in FOLDERS:
            if (folder / f"{name}.yaml").is_file() and ".." not in path.parts:
                return folder / f"{name}.yaml"
    if is_file or len(path.parts) > 2 or path.is_absolute():
        raise MissingFileError(f"recipe file {str(path)!r} does not exist; see geossl list recipes")
    raise UnknownNameError("recipe", str(name_or_path), names())


def load(name_or_path: str | Path, overrides: Sequence[str] = (), *, is_run: bool | None = None) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides, check every value.

    Args:
        name_or_path: A file, or the name of a packaged recipe such as ``croma`` or ``graphmae/cora``.
        overrides: ``section.key=value`` strings; values are read as YAML.
        is_run: Whether this is the resolved recipe of a run, which may have keys of an older geossl. None: it is if
            ``versions.json`` lies beside it.

    Raises:
        MissingFileError, UnknownNameError: If the recipe does not exist.
        RecipeError: If the YAML is broken or a key or value is wrong; names file, line, key and what is expected.
    """
    old = possible(name_or_path, "recipe").with_suffix("").as_posix().removeprefix("recipes/")
    now = None if Path(name_or_path).is_file() else new_name(old, names())
    if now is not None:
        name, more = now
        warnings.warn(f"recipe {old} is now {' '.join([name, *more])}", Note, stacklevel=2)
        return load(name, [*more, *overrides])
    path = find(name_or_path)
    values, node = read(path)
    if is_run or (is_run is None and (path.parent / "versions.json").is_file()):
        values = translated(values)
    apply_variants(values, overrides)
    origin = {apply_override(values, override): override for override in overrides}
    for key, value in flat(values):
        loc = tuple(key.split("."))
        if word := new_word(key, value):
            raise RecipeError(f"{place(loc, path, node, origin)}: {word}")
    method = values.get("method")
    if not isinstance(method, str) or method not in RECIPES:
        raise RecipeError(f"{path}: method {method!r} is not known; {nearest(str(method), RECIPES)}")
    try:
        return RECIPES[method].model_validate(values)
    except ValidationError as error:
        raise RecipeError(first_error(error, path, node, origin, RECIPES[method])) from None


def read(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """Values of a recipe file, and its YAML nodes, which know their lines."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error.__class__.__name__
        raise RecipeError(f"{path}{where}: not readable as YAML ({problem})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected 'section: {{key: value}}' lines, got {type(values).__name__}")
    return values, node


def apply_variants(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Take ``variants`` out of ``values`` and apply those whose condition, ``key=value``, is one of the overrides.

    The other overrides are applied afterwards, so they win over a variant.
    """
    variants = values.pop("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(changes, list) for changes in variants.values()):
        raise RecipeError("variants must be lines of 'key=value: [key=value, ...]'")
    given = dict(parsed(override) for override in overrides)
    for condition, changes in variants.items():
        key, value = parsed(str(condition))
        if key in given and given[key] == value:
            for change in changes:
                apply_override(values, str(change))


def parsed(override: str) -> tuple[tuple[str, ...], Any]:
    """Key path and value of an ``a.b=value``; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override {override!r} is not of the form section.key=value")
    try:
        return tuple(key.strip().split(".")), yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise RecipeError(f"override {override!r}: the value is not readable as YAML") from None


def apply_override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    """Set one ``a.b=value`` in nested ``values``; return the key path."""
    path, value = parsed(override)
    inner = values
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"override {override!r}: {part!r} is a value, not a section")
    inner[path[-1]] = value
    return path


def first_error(
    error: ValidationError, path: Path, node: yaml.Node | None, origin: dict[tuple[str, ...], str], model: type[Section]
) -> str:
    """One line for the first validation error: where, key, what was expected, nearest valid key."""
    found = error.errors()  # a misspelt key also makes the right one missing: tell the misspelling
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    loc = tuple(str(part) for part in first["loc"])
    where, key = place(loc, path, node, origin), ".".join(loc)
    if first["type"] == "extra_forbidden":
        hint = nearest(loc[-1], valid_keys(model, loc[:-1]), "valid keys", cutoff=0.5)
        return f"{where}: unknown key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key or isinstance(first["input"], dict):  # keys that do not go together: the whole section is no help
        return f"{where}: {message}"
    value = repr(first["input"])
    value = value if len(value) <= 80 else f"{value[:77]}..."
    return f"{where}: {key} = {value} is wrong; {message[0].lower()}{message[1:]}"


def place(loc: tuple[str, ...], path: Path, node: yaml.Node | None, origin: dict[tuple[str, ...], str]) -> str:
    """Where a key was said: the override, or file and line."""
    override = next((text for key, text in origin.items() if key[: len(loc)] == loc or loc[: len(key)] == key), None)
    return f"override {override!r}" if override else f"{path}{line_of(node, loc)}"


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
