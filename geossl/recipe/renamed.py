"""Names that recipes, keys and values had before: a page of today gets the new name, an old run is read as it is."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

KEYS = {  # until 1b808dd -> now
    "objective.rebuild_weight": "objective.reconstruct_weight",
    "objective.rebuild_video": "objective.reconstruct_video",
    "objective.rebuild_image": "objective.reconstruct_image",
    "data.held_out": "data.holdout",
    "data.unseen": "data.holdout_generators",
    "encoder.margin_px": "encoder.halo_px",
}
VALUES = {
    ("objective.frame_from", "held_out"): "holdout",
    ("encoder.input", "pictures"): "images",
}
STAR = "scgc_star_"  # recipes of SCGC* were files of their own


def new_name(old: str, names: list[str]) -> tuple[str, list[str]] | None:
    """Today's recipe of an old name, and the overrides it needs; None where there was no such recipe.

    Args:
        old: Such as ``graphmae_cora`` or ``scgc_star_acm``.
        names: Recipes of today, such as ``graphmae/cora``.
    """
    overrides = ["objective.star=true"] if old.startswith(STAR) else []
    wanted = old.replace(STAR, "scgc_", 1) if overrides else old
    found = [name for name in names if "/" in name and name.replace("/", "_") == wanted]
    return (found[0], overrides) if found else None


def new_word(key: str, value: object) -> str | None:
    """What to say of an old key or value: "`old` is now `new`"; None for those of today."""
    if key in KEYS:
        return f"`{key}` is now `{KEYS[key]}`"
    if isinstance(value, str) and (key, value) in VALUES:
        return f"`{key}={value}` is now `{key}={VALUES[key, value]}`"
    return None


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved recipe of an old run with the names of today."""
    new = copy.deepcopy(dict(values))
    for key, value in flat(values):
        section, _, name = key.rpartition(".")
        inner = new.get(section, new)
        if key in KEYS:
            inner[KEYS[key].rpartition(".")[2]] = inner.pop(name)
        elif isinstance(value, str) and (key, value) in VALUES:
            inner[name] = VALUES[key, value]
    objective = new.get("objective") or {}
    phases = (objective.get("reconstruct"), objective.get("accumulate"))
    if new.get("method") == "scgc" and "star" not in objective and phases in ((True, False), (False, True)):
        objective["star"] = not objective.pop("reconstruct")
        objective.pop("accumulate")
    return new


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of a recipe as ``section.key`` with their values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", v) for inner, v in value.items())
        else:
            yield str(key), value
