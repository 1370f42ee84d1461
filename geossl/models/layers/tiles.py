"""Transformer blocks with local attention over a list of tiles, for inference on large grids.

The tokens of a grid lie tile after tile, so that a tile's queries, feed-forward and output are whole rows of memory and
its keys are gathered by row number. Tiles run in groups of a fixed size, filled up, never shrunk: every matrix product
has the same shape whatever is asked for, so a token has the same bits whichever other tiles are computed. Tiles that no
wanted token can see are not computed, layer by layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.models.layers.attention import fused
from geossl.models.layers.local_attention import TILE, tile_bias, tile_mask
from geossl.models.layers.transformer import Block, CrossAttention, CrossBlock, SelfAttention

GROUP = 8  # tiles per matrix product: 512 rows; what 16 gather of a wide encoder is mapped anew every time
PATCHES = TILE**2  # of a tile


@dataclass(frozen=True, eq=False)
class TileGrid:
    """The tiles of one or more samples' grids.

    Args:
        samples: Number of samples.
        grid: Rows and columns of patches of a sample.
        reach: Farthest key in patches, in row and in column.
        slopes: ALiBi slope per head.
    """

    samples: int
    grid: tuple[int, int]
    reach: int
    slopes: Float[Tensor, " heads"]

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of tiles of a sample."""
        return -(-self.grid[0] // TILE), -(-self.grid[1] // TILE)

    @property
    def count(self) -> int:
        """Tiles of all samples."""
        return self.samples * self.sides[0] * self.sides[1]

    @cached_property
    def bias(self) -> Float[Tensor, "1 heads q k"]:
        """What is added to the scores of any tile."""
        return tile_bias(self.reach, tuple(self.slopes.tolist()), "cpu")

    def keys(self, tiles: Int[Tensor, " t"]) -> Int[Tensor, "t k"]:
        """Row numbers of the tokens around some tiles; the row after the last stands for those beyond the grid."""
        per_sample = self.sides[0] * self.sides[1]
        ids = key_rows(*self.sides, self.reach)[tiles % per_sample]
        first = (tiles // per_sample * per_sample * PATCHES)[:, None]
        return torch.where(ids < 0, self.count * PATCHES, ids + first)

    def pack(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "t q d"]:
        """Row-major tokens tile after tile; zeros where a tile reaches beyond the grid."""
        (gh, gw), (ty, tx) = self.grid, self.sides
        x = F.pad(x.unflatten(1, self.grid), (0, 0, 0, tx * TILE - gw, 0, ty * TILE - gh))
        return x.unflatten(2, (tx, TILE)).unflatten(1, (ty, TILE)).transpose(2, 3).flatten(3, 4).flatten(0, 2)

    @cached_property
    def numbers(self) -> Int[Tensor, "t q"]:
        """Patches of all samples by number, row-major, tile after tile; 0 where a tile reaches beyond the grid."""
        count = self.samples * self.grid[0] * self.grid[1]
        return self.pack(torch.arange(count, dtype=torch.float64).view(self.samples, -1, 1))[..., 0].long()

    def unpack(self, x: Float[Tensor, "t q d"]) -> Float[Tensor, "b n d"]:
        """Inverse of ``pack``."""
        x = x.unflatten(0, (self.samples, *self.sides)).unflatten(3, (TILE, TILE)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    def rows(self, fed: Bool[Tensor, "b n"]) -> Bool[Tensor, " r"]:
        """A mask by row number, with False for the row beyond the grid."""
        return F.pad(self.pack(fed[..., None].float()).flatten() > 0, (0, 1))

    def needed(self, wanted: Bool[Tensor, "b ty tx"], reach: int, rows: Bool[Tensor, " r"]) -> Int[Tensor, " t"]:
        """Tiles with a token that is at most ``reach`` patches from a wanted tile; those without any are left out."""
        steps = -(-reach // TILE)
        near = F.max_pool2d(wanted[:, None].float(), 2 * steps + 1, stride=1, padding=steps) > 0
        return (near.flatten() & rows[:-1].view(-1, PATCHES).any(dim=1)).nonzero()[:, 0]

    def whole_first(self, tiles: Int[Tensor, " t"], fed: Bool[Tensor, "*s r"]) -> Int[Tensor, " t"]:
        """The tiles in another order: first those all of whose keys are fed, which share one mask."""
        is_whole = fed.reshape(-1, fed.shape[-1]).all(dim=0)[self.keys(tiles)].all(dim=1)
        return torch.cat([tiles[is_whole], tiles[~is_whole]])


@lru_cache(maxsize=8)
def key_rows(ty: int, tx: int, reach: int) -> Int[Tensor, "t k"]:
    """Row numbers of the keys around every tile of a sample, -1 beyond its tiles."""
    around = torch.arange(-reach, TILE + reach)
    y, x = (torch.arange(n)[:, None] * TILE + around for n in (ty, tx))
    row = y[:, None, :, None].expand(ty, tx, -1, len(around))
    column = x[None, :, None, :].expand(ty, tx, len(around), -1)
    inside = (row >= 0) & (row < ty * TILE) & (column >= 0) & (column < tx * TILE)
    number = (row // TILE * tx + column // TILE) * PATCHES + row % TILE * TILE + column % TILE
    return torch.where(inside, number, -1).flatten(2).flatten(0, 1)


def groups(tiles: Int[Tensor, " t"]) -> Iterator[Int[Tensor, " g"]]:
    """Fixed-size groups of tiles; the last is filled up by repeating its last tile."""
    for start in range(0, len(tiles), GROUP):
        group = tiles[start : start + GROUP]
        yield torch.cat([group, group[-1:].expand(GROUP - len(group))])


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys and values of some tokens by row number, and which of them may be attended to.

    Args:
        rows: Key, then value, heads side by side; the last row is zeros.
        fed: False = not attended to.
    """

    rows: Float[Tensor, "r kv"]
    fed: Bool[Tensor, " r"]

    def attend(self, q: Float[Tensor, "g q d"], group: Int[Tensor, " g"], area: TileGrid) -> Float[Tensor, "g q d"]:
        """What the queries of a group of tiles see around them."""
        heads = len(area.slopes)
        ids = area.keys(group)
        kv = self.rows.index_select(0, ids.flatten()).view(*ids.shape, 2, heads, -1)
        k, v = (kv[:, :, i].transpose(1, 2) for i in (0, 1))
        mask = tile_mask(area.bias, self.fed[ids])
        return fused(q.unflatten(-1, (heads, -1)).transpose(1, 2), k, v, mask).transpose(1, 2).flatten(2)


class Linears:
    """A module's linear layers, their weights cast once to the type they run in.

    Args:
        dtype: Type of the matrix products; norms and sums stay in the type of the tokens.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.cast: dict[tuple[int, int, int], tuple[Tensor, Tensor | None]] = {}

    def __call__(self, layer: nn.Linear, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Apply the outputs ``first`` to ``last`` of a layer."""
        key = (id(layer), first, last or layer.out_features)
        if key not in self.cast:
            bias = None if layer.bias is None else layer.bias[first:last].to(self.dtype)
            self.cast[key] = layer.weight[first:last].to(self.dtype), bias
        return F.linear(x.to(self.dtype), *self.cast[key])


def embedded(
    layer: nn.Linear, patches: Float[Tensor, "b n p"], tiles: Int[Tensor, " s"], area: TileGrid, linear: Linears
) -> Float[Tensor, "t q d"]:
    """Patches as tokens, tile after tile; zeros where a tile is not among ``tiles``."""
    x, flat = patches.new_zeros(area.count, PATCHES, layer.out_features), patches.flatten(0, 1)
    for group in groups(tiles):
        x.index_copy_(0, group, linear(layer, flat[area.numbers[group]]).to(x.dtype))
    return x


def self_keys(attention: SelfAttention, x: Float[Tensor, "t q d"], tiles: Tensor, fed: Tensor, linear: Linears) -> Keys:
    """Keys and values of some tiles."""
    d = x.shape[-1]
    rows = x.new_zeros(x.shape[0] * PATCHES + 1, 2 * d, dtype=linear.dtype)
    stored = rows[:-1].view(x.shape[0], PATCHES, 2 * d)
    for group in groups(tiles):
        stored.index_copy_(0, group, linear(attention.to_qkv, attention.norm(x[group]), d, 3 * d))
    return Keys(rows, fed)


def cross_keys(
    attention: CrossAttention, context: Float[Tensor, "t q d"], tiles: Tensor, fed: Tensor, linear: Linears
) -> Keys:
    """Keys and values of some tiles of another stream."""
    d = context.shape[-1]
    rows = context.new_zeros(context.shape[0] * PATCHES + 1, 2 * d, dtype=linear.dtype)
    stored = rows[:-1].view(context.shape[0], PATCHES, 2 * d)
    for group in groups(tiles):
        normed = attention.norm(context[group])
        stored.index_copy_(0, group, torch.cat([linear(attention.to_k, normed), linear(attention.to_v, normed)], -1))
    return Keys(rows, fed)


@torch.no_grad()
def run_blocks(
    blocks: nn.ModuleList,
    x: Float[Tensor, "t q d"],
    fed: Bool[Tensor, " r"],
    area: TileGrid,
    wanted: Bool[Tensor, "b ty tx"],
    dtype: torch.dtype,
    far: int = 0,
    context: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "t q d"]:
    """Run blocks in place; only what wanted tiles need is right afterwards.

    Args:
        blocks: ``Block`` or ``CrossBlock``; the latter need a context.
        x: Tokens, tile after tile.
        fed: Which tokens may be attended to, by row number.
        area: The tiles.
        wanted: Tiles whose tokens are asked for after the last block.
        dtype: Type of the matrix products.
        far: Patches around wanted tiles that are asked for, too.
        context: Tokens of the other stream, and which of them may be attended to.
    """
    linear, known = Linears(dtype), fed if context is None else torch.stack([fed, context[1]])
    for number, layer in enumerate(blocks):
        block = cast("Block | CrossBlock", layer)
        left = far + (len(blocks) - 1 - number) * area.reach
        queries, around = (area.needed(wanted, far, fed) for far in (left, left + area.reach))
        own, across = self_keys(block.attention, x, around, fed, linear), None
        if isinstance(block, CrossBlock):
            assert context is not None
            seen = area.needed(wanted, left + area.reach, context[1])
            across = cross_keys(block.cross_attention, context[0], seen, context[1], linear)
        for group in groups(area.whole_first(queries, known)):
            x.index_copy_(0, group, run_group(block, x[group], own, across, group, area, linear))
    return x


def run_group(
    block: Block | CrossBlock,
    h: Float[Tensor, "g q d"],
    own: Keys,
    across: Keys | None,
    group: Tensor,
    area: TileGrid,
    linear: Linears,
) -> Float[Tensor, "g q d"]:
    """A block on a group of tiles."""
    attention, wide = block.attention, block.feed_forward
    q = linear(attention.to_qkv, attention.norm(h), 0, h.shape[-1])
    h = h + linear(attention.to_out, own.attend(q, group, area))
    if isinstance(block, CrossBlock) and across is not None:
        cross = block.cross_attention
        h = h + linear(cross.to_out, across.attend(linear(cross.to_q, cross.norm(h)), group, area))
    return h + linear(wide.contract, F.gelu(linear(wide.expand, wide.norm(h))))


def in_groups(norm: nn.Module, x: Float[Tensor, "t q d"]) -> Float[Tensor, "t q d"]:
    """A norm over all tokens, in place, without a second copy of them."""
    for part in x.split(GROUP):
        part.copy_(norm(part))
    return x
