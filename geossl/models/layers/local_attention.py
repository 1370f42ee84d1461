"""Local attention: a token attends only to keys at most ``reach`` patches away in row and column.

Positions enter by distances only, so an encoder with local attention is translation-equivariant like a convolution: a
token is a function of what lies around it, not of the window it was computed in. Query tiles of ``TILE`` x ``TILE``
patches take the keys of the tile and ``reach`` patches around it; their bias is the same for every tile.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from geossl.models.layers.alibi import alibi_bias, grid_coordinates
from geossl.models.layers.attention import fused

TILE = 8  # side of a query tile in patches
NEVER = -1e30  # bias of a key that is not attended to; finite, since -inf in a whole row would give NaN
FLEX_SHAPES = 64  # grids, widths and types a process may see on a GPU
GATHERED_NUMBERS = 2**24  # key entries gathered at once: 64 MB in float32


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Where queries and keys lie, both on the same grid, and how far attention reaches.

    Args:
        grid: Rows and columns of patches; tokens are row-major.
        reach: Farthest key in patches, in row and in column; at least 1.
        slopes: ALiBi slope per head.
        fed: False where a key is not attended to by anybody, per sample or for all; None = all are.
    """

    grid: tuple[int, int]
    reach: int
    slopes: Float[Tensor, " heads"]
    fed: Bool[Tensor, "#b n"] | None = None
    _mask: Any = field(default=None, init=False, repr=False)

    @cached_property
    def bias(self) -> Float[Tensor, "1 heads q k"]:
        """What is added to the scores of any tile."""
        return tile_bias(self.reach, tuple(self.slopes.tolist()), str(self.slopes.device))

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of query tiles that cover the grid."""
        return -(-self.grid[0] // TILE), -(-self.grid[1] // TILE)

    @cached_property
    def is_key(self) -> Bool[Tensor, "#b ty tx k"]:
        """Which keys of every tile exist and are fed."""
        fed = self.slopes.new_ones(1, *self.grid).bool() if self.fed is None else self.fed.unflatten(1, self.grid)
        return around(self.padded(fed[..., None, None]), self.reach)[..., 0, 0]

    @cached_property
    def is_whole(self) -> bool:
        """Whether all keys are fed."""
        return self.fed is None or bool(self.fed.all())

    def block_mask(self, device: torch.device, compiled: bool) -> Any:
        """FlexAttention's mask; made once for all layers."""
        if self.is_whole:
            return whole_block_mask(self.grid, self.reach, device, compiled)
        if self._mask is None:
            object.__setattr__(self, "_mask", block_mask(self.grid, self.reach, self.fed, device, compiled))
        return self._mask

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every query to the fed keys within reach: by tiles on a CPU, in one kernel on a GPU."""
        return (attend_local_flex if q.device.type == "cuda" else attend_local)(q, k, v, self)

    def padded(self, x: Tensor) -> Tensor:
        """Grid (b gh gw h d) with zeros around it, out to whole tiles and ``reach`` beyond them."""
        (gh, gw), (ty, tx), r = self.grid, self.tiles, self.reach
        pads = (0, 0, 0, 0, r, r + tx * TILE - gw, r, r + ty * TILE - gh)
        return F.pad(x, pads)


@lru_cache(maxsize=8)
def tile_bias(reach: int, slopes: tuple[float, ...], device: str) -> Float[Tensor, "1 heads q k"]:
    """ALiBi bias of a tile's queries and the keys around it, ``NEVER`` beyond ``reach``."""
    query, key = grid_coordinates(TILE, TILE) + reach, grid_coordinates(TILE + 2 * reach, TILE + 2 * reach)
    far = (query[:, None] - key).abs().amax(dim=-1) > reach
    bias = alibi_bias(query, key, torch.tensor(slopes)).masked_fill(far, NEVER)
    return bias[None].to(device)


def around(padded: Shaped[Tensor, "b y x h d"], reach: int) -> Shaped[Tensor, "b ty tx k h d"]:
    """The keys of every tile: a copy of each tile's square and ``reach`` patches around it."""
    side = TILE + 2 * reach
    squares = padded.unfold(1, side, TILE).unfold(2, side, TILE)
    return squares.permute(0, 1, 2, 5, 6, 3, 4).flatten(3, 4)


def attend_local(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n d"], near: Neighbourhood
) -> Float[Tensor, "b h n d"]:
    """Softmax attention over the fed keys within reach, scaled by 1/sqrt(d), plus the ALiBi bias.

    Rows of tiles run one after the other, so that gathered keys take memory by the width of a grid, not by its area.
    What comes out for a query without a fed key within reach is finite and means nothing.
    """
    (gh, gw), (rows, columns) = near.grid, near.tiles
    b, heads, _, d = q.shape
    grids = [x.transpose(1, 2).unflatten(1, near.grid) for x in (q, k, v)]  # b gh gw h d
    queries = F.pad(grids[0], (0, 0, 0, 0, 0, columns * TILE - gw, 0, rows * TILE - gh))
    queries = queries.unflatten(2, (columns, TILE)).unflatten(1, (rows, TILE)).permute(0, 1, 3, 5, 2, 4, 6)
    keys, values = (near.padded(x) for x in grids[1:])
    step = max(1, GATHERED_NUMBERS // (b * columns * near.bias.shape[-1] * heads * d))
    found = []
    for top in range(0, rows, step):
        count = min(step, rows - top)
        square = slice(top * TILE, (top + count) * TILE + 2 * near.reach)
        q_tiles = queries[:, top : top + count].flatten(0, 2).flatten(2, 3)  # tiles h q d
        k_tiles, v_tiles = (around(x[:, square], near.reach).flatten(0, 2).transpose(1, 2) for x in (keys, values))
        is_key = near.is_key[:, top : top + count].expand(b, -1, -1, -1).flatten(0, 2)
        out = fused(q_tiles, k_tiles, v_tiles, tile_mask(near.bias, is_key))
        found.append(out.unflatten(2, (TILE, TILE)).unflatten(0, (b, count, columns)))
    whole = torch.cat(found, dim=1).permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
    return whole[:, :, :gh, :gw].flatten(2, 3)


def tile_mask(bias: Float[Tensor, "1 h q k"], is_key: Bool[Tensor, "t k"]) -> Float[Tensor, "#t h q k"]:
    """The bias, shared where all keys of all tiles are there."""
    if is_key.all():
        return bias
    most = torch.where(is_key, torch.inf, NEVER).to(bias)  # a minimum is one pass, several times as fast as filling
    return torch.minimum(bias, most[:, None, None, :])


def attend_local_flex(q: Tensor, k: Tensor, v: Tensor, near: Neighbourhood, compiled: bool = True) -> Tensor:
    """The same as ``attend_local`` in a FlexAttention kernel that skips blocks of keys out of reach (GPU).

    Tokens are put in the order of tiles, so that a block of 128 is two neighbouring tiles and few blocks touch.
    """
    order = tile_order(near.grid).to(q.device)
    row, column = grid_coordinates(*near.grid).to(q.device)[order].unbind(-1)
    slopes = near.slopes.to(q.device)
    run, _ = flex_kernels(compiled)
    out = run(
        *(x[:, :, order].contiguous() for x in (q, k, v)),
        score_mod=lambda score, sample, head, i, j: (
            score - slopes[head] * torch.sqrt(((row[i] - row[j]) ** 2 + (column[i] - column[j]) ** 2).float())
        ),
        block_mask=near.block_mask(q.device, compiled),
    )
    return torch.empty_like(out).index_copy(2, order, out)


@lru_cache(maxsize=2)
def flex_kernels(compiled: bool) -> tuple[Any, Any]:
    """FlexAttention and the maker of its block masks; compiled once per process, and again for another grid."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # lazy: pulls in the compiler

    if not compiled:
        return flex_attention, create_block_mask
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, FLEX_SHAPES)  # beyond it scores would be held as a whole
    return torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask, dynamic=False)


@lru_cache(maxsize=4)
def whole_block_mask(grid: tuple[int, int], reach: int, device: torch.device, compiled: bool) -> Any:
    """Which keys in the order of tiles are within reach, where all keys are fed."""
    return block_mask(grid, reach, None, device, compiled)


def block_mask(
    grid: tuple[int, int], reach: int, fed: Bool[Tensor, "b n"] | None, device: torch.device, compiled: bool
) -> Any:
    """Which keys in the order of tiles are within reach and fed."""
    order = tile_order(grid).to(device)
    row, column = grid_coordinates(*grid).to(device)[order].unbind(-1)
    samples, seen = (1, fed) if fed is None else (len(fed), fed[:, order])
    return flex_kernels(compiled)[1](
        lambda sample, head, i, j: (
            ((row[i] - row[j]).abs() <= reach)
            & ((column[i] - column[j]).abs() <= reach)
            & (True if seen is None else seen[sample, j])
        ),
        *(samples, None, len(order), len(order)),
        device=str(device),
    )


@lru_cache(maxsize=8)
def tile_order(grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Row-major ids of all patches, tile after tile."""
    row, column = grid_coordinates(*grid).unbind(-1)
    tile = (row // TILE) * -(-grid[1] // TILE) + column // TILE
    return torch.argsort(tile, stable=True)


def within_reach(fed: Bool[Tensor, "b gh gw"], reach: int) -> Bool[Tensor, "b gh gw"]:
    """Where some fed patch is at most ``reach`` patches away in row and column."""
    return F.max_pool2d(fed[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
