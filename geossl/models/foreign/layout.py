"""What networks of others give, and how it lies on the patches of an image."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geossl.errors import GridError, WeightsError

PREFIX = 8  # class and register tokens a transformer may have before those of patches
FORMS = "a map (B, C, h, w) or (B, h, w, C), or tokens (B, N, C)"


def last_of(found: Any, name: str) -> Tensor:
    """The tensor a network gives; of a list of maps the last.

    Raises:
        WeightsError: If it gives something else.
    """
    if isinstance(found, list | tuple) and found:
        found = found[-1]
    if not isinstance(found, Tensor):
        raise WeightsError(f"{name} gives a {type(found).__name__}; expected {FORMS}: wrap a function that returns it")
    return found


def laid_out(found: Tensor, grid: tuple[int, int], name: str) -> Float[Tensor, "b gh gw d"]:
    """Vectors of patches in rows and columns; class and register tokens, which come first, are left out.

    Args:
        found: A map with channels first or last, or a list of tokens.
        grid: Rows and columns of patches.
        name: Name of the network, for messages.

    Raises:
        WeightsError: If it is neither.
        GridError: If it is of another size.
    """
    if found.ndim == 4:
        if tuple(found.shape[2:]) == grid:
            return found.permute(0, 2, 3, 1)
        if tuple(found.shape[1:3]) == grid:
            return found
        raise GridError(f"{name} gives {tuple(found.shape[1:])} for {grid[0]} x {grid[1]} patches; give its patch_px")
    if found.ndim == 3:
        prefix = found.shape[1] - grid[0] * grid[1]
        if 0 <= prefix <= PREFIX:
            return found[:, prefix:].unflatten(1, grid)
        raise GridError(f"{name} gives {found.shape[1]} tokens for {grid[0]} x {grid[1]} patches; give its patch_px")
    raise WeightsError(f"{name} gives {tuple(found.shape)}; expected {FORMS}")


def patch_of(found: Tensor, side_px: int, name: str) -> int:
    """Side of a patch, from what a network gives for a square image.

    Args:
        found: As in ``laid_out``.
        side_px: Side of the image.
        name: Name of the network, for messages.

    Raises:
        GridError: If its size does not say so.
        WeightsError: If it is neither a map nor tokens.
    """
    sides: list[int] = []
    if found.ndim == 4:
        sides = [side for side, other in (found.shape[2:], found.shape[1:3]) if side == other]
    elif found.ndim == 3:
        count = found.shape[1]
        sides = [side for side in range(int(count**0.5), 0, -1) if 0 <= count - side**2 <= PREFIX]
    else:
        raise WeightsError(f"{name} gives {tuple(found.shape)}; expected {FORMS}")
    for side in sides:
        if side and side_px % side == 0:
            return side_px // side
    raise GridError(f"{name} gives {tuple(found.shape[1:])} for {side_px} x {side_px} px; give its patch_px")


@torch.inference_mode()
def place_effect(tokens: Callable[[Tensor], Tensor], bands: int, side_px: int, margin: int) -> float:
    """Measure what padding and positions do to the part of a window that maps keep.

    Args:
        tokens: Function from scaled pixels (b c h w) to vectors (b gh gw d).
        bands: Channels.
        side_px: Side of the window.
        margin: Patches of its rim that are not kept.

    Returns:
        Spread of an even image's vectors over that of an image of noise; 0 = the place does not matter.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, bands, side_px, side_px, generator=generator)
    even, varied = (tokens(x) for x in (torch.zeros_like(noise), noise))
    kept = slice(margin, even.shape[1] - margin)
    spreads = [float(x[:, kept, kept].flatten(1, 2).var(dim=1, correction=0).sum()) for x in (even, varied)]
    return float((spreads[0] / spreads[1]) ** 0.5) if spreads[1] > 0 else 0.0
