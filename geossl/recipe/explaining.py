"""What the keys of a recipe mean, as text for a terminal."""

import json
import re
import textwrap
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

from geossl.recipe.loading import find
from geossl.recipe.sections import Recipe, Section

COLUMNS = 100
MANY = 1_000_000_000  # what a count may be at most so that it fits a machine
ORDER = ("encoder", "teacher", "teachers", "objective", "data", "train", "probe")
KEY, VALUE = 21, 16  # widths of the first two columns
KINDS = {bool: "true or false", int: "integer", float: "number", str: "text", NoneType: "null"}
SIGNS = {Gt: "gt", Ge: "ge", Lt: "lt", Le: "le"}


def explain(recipe: Recipe) -> str:
    """Every key by section: this recipe's value, meaning with unit, what it may be, and its default.

    Args:
        recipe: A loaded recipe; sections it leaves out, such as a teacher, are not shown.

    Returns:
        Lines of at most 100 columns.
    """
    lines = [first_line(type(recipe)), "Change a value with SECTION.KEY=VALUE, such as train.max_steps=10.", ""]
    lines += [f"{'key':<{KEY}} {'this recipe':<{VALUE}} meaning (what it may be; default)"]
    lines += section_lines("", recipe)
    return "\n".join(lines) + "\n"


def summary(name: str) -> tuple[str, str]:
    """Method of a packaged recipe, and the first line of its file."""
    text = find(name).read_text(encoding="utf-8")
    method = re.search(r"^method: *(\w+)", text, flags=re.M)
    return method[1] if method else "", text.splitlines()[0].lstrip("# ")


def section_lines(name: str, section: Section) -> Iterator[str]:
    """The keys of a section, then the sections within it."""
    inner = {}
    for key, info in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            inner[f"{name}.{key}".lstrip(".")] = value
        else:
            yield from key_lines(key, value, info)
    for key, value in sorted(inner.items(), key=lambda item: rank(item[0])):
        yield ""
        yield f"{key}: {first_line(type(value))}"
        yield from section_lines(key, value)


def key_lines(key: str, value: Any, info: FieldInfo) -> Iterator[str]:
    """A key with its value, meaning, range and default, in three columns."""
    default = "required" if info.is_required() else f"default {shown(info.get_default(call_default_factory=True))}"
    left_out = section_of(info.annotation)
    said = "a section or null" if left_out else allowed(info.annotation, tuple(info.metadata))
    text = f"{first_line(left_out) if left_out else info.description} ({f'{said}; ' if said else ''}{default})"
    column, words = KEY + VALUE + 2, shown(value)
    rows = textwrap.wrap(text, COLUMNS - column, break_long_words=False, break_on_hyphens=False)
    head = f"  {key:<{KEY - 2}} {words:<{VALUE}} "
    if len(key) > KEY - 2 or len(words) > VALUE:
        yield head.rstrip()
        head = " " * column
    yield head + rows[0]
    yield from (" " * column + row for row in rows[1:])


def allowed(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """What a value may be: "integer 1 to 4096", "tiny | small | base", "null or number above 0"."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        more = [m for found in more for m in (found.metadata if isinstance(found, FieldInfo) else [found])]
        return allowed(inner, (*metadata, *more))
    if get_origin(annotation) is Literal:
        return " | ".join(shown(choice) for choice in get_args(annotation))
    parts = get_args(annotation)
    if get_origin(annotation) is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return f"list, each {allowed(parts[0])}"
        return f"{len(parts)} values, each {allowed(parts[0])}"
    if get_origin(annotation) is dict:
        return ""
    if parts:  # a union
        words = [allowed(part, metadata) for part in parts if part is not NoneType]
        return " or ".join([*words, *(["null"] if NoneType in parts else [])])
    return f"{KINDS.get(annotation, annotation.__name__)}{limits(metadata, annotation is int)}"


def limits(metadata: tuple[Any, ...], is_whole: bool) -> str:
    """The bounds of a number in words; those of a billion and more say nothing."""
    found = {sign: getattr(m, sign) for m in metadata for kind, sign in SIGNS.items() if isinstance(m, kind)}
    if is_whole:  # "from 1 to 9" for above 0 and below 10
        found |= {"ge": found["gt"] + 1} if "gt" in found else {}
        found |= {"le": found["lt"] - 1} if "lt" in found else {}
    least = f"from {shown(found['ge'])}" if "ge" in found else f"above {shown(found['gt'])}" if "gt" in found else ""
    most = f"to {shown(found['le'])}" if "le" in found else f"below {shown(found['lt'])}" if "lt" in found else ""
    most = "" if found.get("le") == MANY else most
    steps = [f"multiple of {m.multiple_of}" for m in metadata if isinstance(m, MultipleOf)]
    return "".join(f" {word}" for word in (least, most) if word) + "".join(f", {word}" for word in steps)


def shown(value: Any) -> str:
    """A value as one types it in YAML."""
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(v)}' for key, v in value.items())}}}"
    return json.dumps(value, default=str)


def rank(section: str) -> int:
    """Where a section stands on the page."""
    name = section.split(".")[0]
    return ORDER.index(name) if name in ORDER else len(ORDER)


def section_of(annotation: Any) -> type[Section] | None:
    """The section class of an annotation; None for a plain key."""
    found = [c for c in (annotation, *get_args(annotation)) if isinstance(c, type) and issubclass(c, Section)]
    return found[0] if found else None


def first_line(section: type[Section] | None) -> str:
    """What a section is."""
    return (section.__doc__ or "").strip().splitlines()[0] if section else ""
