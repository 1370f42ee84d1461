"""Recipes: one typed YAML page per run, with ``key=value`` overrides; a mistake answers at once, without torch."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geossl.errors import MissingFileError, RecipeError, UnknownNameError

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
FOLDERS = (Path(__file__).parent / "recipes", Path(__file__).parents[1] / "recipes")  # wheel, checkout


class Section(BaseModel):
    """A group of recipe keys; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CromaEncoder(Section):
    """Size and map geometry of a CROMA encoder."""

    size: Literal["tiny", "small", "base", "large"]
    position: Literal["alibi", "sincos"] = "alibi"
    statistics: Literal["ssl4eo", "data"] = "ssl4eo"
    window_px: Positive = 120
    margin_px: Annotated[int, Field(ge=0)] = 24


class CromaObjective(Section):
    """CROMA's losses; keys are the arguments of ``geossl.methods.croma.CROMA``."""

    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    decoder_dim: Positive = 512
    decoder_depth: Positive = 1
    contrast_weight: Weight = 1.0
    reconstruct_weight: Weight = 1.0
    separate_targets: bool = False
    max_logit_scale: Annotated[float, Field(gt=0)] | None = None


class Data(Section):
    """Where chips come from and how they are drawn."""

    source: str = "sample"
    chip_px: Positive
    batch_size: Annotated[int, Field(ge=2)]
    crop_px: tuple[Positive, Positive] | None = None
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    s2_offset: Literal[0, -1000] | None = None
    workers: Annotated[int, Field(ge=0)] = 0


class Train(Section):
    """Optimiser, schedule and bookkeeping."""

    max_steps: Positive
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)]
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: Weight = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: Positive = 1
    seed: int = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 100


class Probe(Section):
    """A kNN read-out on labelled patches, followed during training; 0 = off."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    neighbours: Positive = 20


class CromaRecipe(Section):
    """Everything a CROMA pretraining run depends on."""

    method: Literal["croma"]
    encoder: CromaEncoder
    objective: CromaObjective = CromaObjective()
    data: Data
    train: Train
    probe: Probe = Probe()
    out: str = "runs/croma"
    resume: bool = False

    @model_validator(mode="after")
    def whole_patches(self) -> "CromaRecipe":
        """Refuse chips and windows that are not whole 8-px patches."""
        for name, value in (
            ("data.chip_px", self.data.chip_px),
            ("encoder.window_px", self.encoder.window_px),
            ("encoder.margin_px", self.encoder.margin_px),
        ):
            if value % 8:
                raise ValueError(f"{name}={value} must be a multiple of the 8-px patch")
        if self.data.chip_px < 16:
            raise ValueError(f"data.chip_px={self.data.chip_px} is less than two patches; use at least 16")
        if 2 * self.encoder.margin_px >= self.encoder.window_px:
            raise ValueError(
                f"encoder.margin_px={self.encoder.margin_px} leaves nothing of "
                f"encoder.window_px={self.encoder.window_px}"
            )
        return self


Recipe = CromaRecipe
RECIPES: dict[str, type[Recipe]] = {"croma": CromaRecipe}


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
