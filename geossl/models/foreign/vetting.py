"""Look through a ``.pt2`` file before torch reads it: reading one can run pickles, and evaluates text as Python.

Only what a plain network needs is let through: tensors as bytes, torch's own operators, arithmetic on sizes. The
rules were made by reading torch's reader (2.5 to 2.14): ``torch.export.pt2_archive`` and ``torch._export.serde``.
"""

import ast
import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from geossl.errors import WeightsError

LARGEST_JSON = 1 << 28  # bytes of a graph
RECORDS = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/[\w.]+|models/\w+\.json|extra/[\w./-]+"
    r"|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+)|data/sample_inputs/\w+\.pt)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
    r"|torch\.(sym_\w+|_check|_check_is_size)|math\.(ceil|floor|sqrt|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
)
TREES = {"builtins.tuple", "builtins.list", "builtins.dict", None}
SYMBOL = re.compile(r"[suz]\d+|[A-Za-z]\w{0,30}")
NAMES = {  # of guards and of expressions of sizes
    "L", "args", "kwargs", "torch", "math", "inf", "True", "False", "None",
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Min", "Max", "Mod", "PythonMod", "FloorDiv",
    "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "TruncToInt", "CeilToInt", "FloorToInt",
    "RoundToInt", "Where", "ModularIndexing", "Identity", "Eq", "Ne", "Lt", "Le", "Gt", "Ge",
    "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not",
    "Infinity", "oo",
}  # fmt: skip
ATTRIBUTES = {"size", "stride", "storage_offset", "sym_max", "sym_min", "sym_not", "sym_ite", "ndim", "ceil", "floor"}
NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.BinOp, ast.Add, ast.Sub,
    ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List,
)  # fmt: skip


def vet(path: Path) -> dict[str, Any]:
    """Refuse a program file that might run code, and give what geossl wrote into it.

    Returns:
        The note of ``geossl export``; empty where somebody else wrote the file.

    Raises:
        WeightsError: If it is damaged, or holds more than a plain network.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            roots = {name.split("/")[0] for name in archive.namelist()}
            records = {name.partition("/")[2]: name for name in archive.namelist()}
            if len(roots) != 1 or not any(name.startswith("models/") for name in records):
                raise WeightsError(f"{path} is not a program of torch.export; export it again")
            if unknown := sorted(name for name in records if not RECORDS.fullmatch(name)):
                raise unsafe(path, f"a record {unknown[0]!r}")
            for record, name in records.items():
                check_record(path, record, archive, name)
            note = records.get("extra/geossl.json")
            return {} if note is None else dict(json.loads(archive.read(note)))
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} is damaged or not a program of torch.export; copy or export it again") from None


def check_record(path: Path, record: str, archive: zipfile.ZipFile, name: str) -> None:
    """Refuse one record of the archive that might run code."""
    if record.endswith(".pt") and archive.getinfo(name).file_size:
        try:
            torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            raise unsafe(path, "pickled objects besides tensors") from None
    if not record.endswith(".json") or record.startswith("extra/"):
        return
    if archive.getinfo(name).file_size > LARGEST_JSON:
        raise unsafe(path, f"a record {record!r} of {archive.getinfo(name).file_size} bytes")
    values = json.loads(archive.read(name))
    for key, value in entries(values):
        if reason := wrong(key, value):
            raise unsafe(path, reason)


def entries(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values in nested JSON with the key they stand under; what lists hold has the key of the list."""
    if isinstance(values, dict):
        if "__enum__" in values:
            yield "__enum__", True
        for name, value in values.items():
            yield from entries(value, str(name))
    elif isinstance(values, list):
        for value in values:
            yield from entries(value, key)
    else:
        yield key, values


def wrong(key: str, value: Any) -> str:
    """What is unsafe about an entry of a graph or of a table of tensors; empty if nothing."""
    if key in ("use_pickle", "__enum__") and value:
        return "pickled objects besides tensors"
    if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
        return f"an object {value!r} besides tensors"
    if key == "target" and isinstance(value, str) and "." in value and not is_name(value):
        return "" if OPERATORS.fullmatch(value) else f"an operator {value!r}"
    if key == "target" and isinstance(value, str) and value.startswith("#"):
        return f"an operator {value!r}"
    if key in ("guards_code", "expr_str") and not is_arithmetic(str(value)):
        return f"text that torch would run as Python ({str(value)[:40]!r})"
    if key in ("in_spec", "out_spec") and value and not is_plain_tree(str(value)):
        return "arguments that are not tuples, lists or dictionaries"
    return ""


def is_name(text: str) -> bool:
    """Whether a target is the name of a parameter rather than of an operator."""
    return not text.startswith(("torch.", "_operator", "math.", "#", "torch"))


def is_arithmetic(text: str) -> bool:
    """Whether text is arithmetic on sizes, and nothing else."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, NODES):
            return False
        if isinstance(node, ast.Name) and node.id not in NAMES and not re.fullmatch(r"[suz]\d+", node.id):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in ATTRIBUTES:
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not SYMBOL.fullmatch(node.value):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            return False
    return True


def is_plain_tree(text: str) -> bool:
    """Whether a tree of arguments is made of tuples, lists and dictionaries."""
    return all(value in TREES for key, value in entries(json.loads(text)) if key == "type")


def unsafe(path: Path, what: str) -> WeightsError:
    """The error for a file that holds more than a plain network."""
    return WeightsError(
        f"{path} holds {what}, which could run code; it was not read. Load it yourself if you trust it, and wrap it: "
        "geossl.wrap(torch.export.load(...).module(), ...)"
    )
