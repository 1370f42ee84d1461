"""What labels tell, classes or amounts: decided by their values, or by the user where values do not say it."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from geossl.errors import InputError

CLASSIFY, REGRESS = "classify", "regress"
TASKS = (CLASSIFY, REGRESS)
MOST = 254  # classes; 255 is nodata in a class raster
FEW = 50  # different whole numbers up to which they may be codes of classes, as CORINE's 44 are
STRATA = 5  # parts of the range of amounts that a split keeps balanced


def check_task(task: str | None) -> None:
    """Refuse another word.

    Raises:
        InputError: Says which are known.
    """
    if task not in (None, *TASKS):
        raise InputError(f"--task {task!r} is not known; use {' or '.join(TASKS)}")


def check_classes(classes: int, name: str) -> None:
    """Refuse too few or too many classes.

    Raises:
        InputError: Says how many there are.
    """
    if not 2 <= classes <= MOST:
        amounts = "; for amounts, use --task regress" if classes > MOST else ""
        raise InputError(f"{name} has {classes} class{'' if classes == 1 else 'es'}; expected 2 to {MOST}{amounts}")


def decided(values: "pd.Series[float]", task: str | None, name: str) -> str:
    """The task that a column of labels is for, if need be as the user says.

    Text is classes. Numbers that are not whole are amounts, and so are more than fifty different whole ones; of fewer
    nobody can tell, so the user is asked.

    Args:
        values: The column.
        task: ``classify``, ``regress``, or None = as the values are.
        name: Of the column, for messages.

    Raises:
        InputError: If the values do not fit the task, or do not say what they are.
    """
    check_task(task)
    known = values.dropna()
    is_number = pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known)
    if task == CLASSIFY or (task is None and not is_number):
        return CLASSIFY
    if not is_number:
        example = str(known.iloc[0])[:30] if len(known) else "nothing"
        raise InputError(f"{name} holds {example!r}, which is not a number; --task regress needs numbers")
    if not len(known):
        raise InputError(f"{name} holds no value: all {len(values)} rows are empty")
    if wrong := int((~np.isfinite(known.to_numpy(float))).sum()):
        raise InputError(f"{name} holds {wrong} infinite value{'s' if wrong > 1 else ''}; leave such rows empty")
    different = known.unique()
    if len(different) < 2:
        raise InputError(f"{name} holds one value only, {different[0]:g}; there is nothing to tell apart")
    if task is None and len(different) <= FEW and (different == np.round(different)).all():
        raise InputError(
            f"{name} holds {len(different)} different whole numbers: classes or amounts? "
            "say which, with --task classify or --task regress"
        )
    return REGRESS


def quintiles(values: Float[ndarray, " n"]) -> tuple[float, ...]:
    """Borders between fifths of amounts."""
    return tuple(np.unique(np.quantile(values, np.arange(1, STRATA) / STRATA)).tolist())


def is_known(grid: ndarray) -> ndarray:
    """Which pixels of a grid of labels are labelled."""
    return np.isfinite(grid) if grid.dtype.kind == "f" else grid > 0


def strata(grid: ndarray, edges: tuple[float, ...]) -> UInt8[ndarray, "h w"]:
    """Classes of a grid as they are; of amounts the fifth each lies in, from 1; 0 = not labelled."""
    if grid.dtype.kind != "f":
        return grid
    return np.where(np.isnan(grid), 0, np.searchsorted(edges, grid, side="right") + 1).astype(np.uint8)


def patch_means(grid: Float[ndarray, "h w"], patch_px: int) -> tuple[Float[ndarray, "gh gw"], Int[ndarray, "gh gw"]]:
    """Mean amount of every patch, NaN where nothing is labelled, and how many of its pixels are."""
    gh, gw = grid.shape[0] // patch_px, grid.shape[1] // patch_px
    cells = grid[: gh * patch_px, : gw * patch_px].reshape(gh, patch_px, gw, patch_px).astype(np.float64)
    known = np.isfinite(cells)
    count = known.sum(axis=(1, 3))
    total = np.where(known, cells, 0).sum(axis=(1, 3))
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), count
