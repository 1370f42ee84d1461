"""Tokens of several dates as one vector per patch: their mean, a mean per season, or all dates side by side."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geossl.rules import check_values

SEASONS = ("djf", "mam", "jja", "son")  # December to February, and so on
FIRST_DAY = np.datetime64("2015-01-01")  # day 0


def season_of(days: Float[Tensor, "*s"]) -> Int[Tensor, "*s"]:
    """Number of the season of days since 1 January 2015, as in ``SEASONS``."""
    whole = np.floor(days.detach().cpu().double().numpy()).astype(np.int64)
    months = (FIRST_DAY + whole).astype("datetime64[M]").astype(np.int64) % 12
    return torch.from_numpy(np.asarray((months + 1) // 3 % 4)).to(days.device)


def join_dates(
    tokens: Float[Tensor, "b s n d"], fed: Bool[Tensor, "b s n"], days: Float[Tensor, "b s"], dates: str
) -> Float[Tensor, "b n e"]:
    """One vector per patch; NaN where no date is usable.

    Args:
        tokens: Of every date and patch.
        fed: Which of them are usable; others are not looked at.
        days: Of every date, since 1 January 2015, in order.
        dates: ``mean`` over usable dates (d numbers). ``season``: a mean per season side by side, in the order of
            ``SEASONS`` (4 d); a season without a usable date takes the patch's mean over all dates. ``each``: all
            dates side by side (s d); one that is not usable is filled from the usable dates before and after it, in
            proportion to the days between, or from the nearest.

    Raises:
        InputError: If ``dates`` is another word.
    """
    check_values(dates=dates)
    if dates == "mean":
        return mean_of(tokens, fed, dim=1)
    if dates == "each":
        return filled(tokens, fed, days).transpose(1, 2).flatten(2)
    mean, season, parts = mean_of(tokens, fed, dim=1), season_of(days), []
    for number in range(len(SEASONS)):
        inside = fed & (season == number)[..., None]
        parts.append(torch.where(inside.any(dim=1)[..., None], mean_of(tokens, inside, dim=1), mean))
    return torch.cat(parts, dim=-1)


def mean_of(x: Float[Tensor, "*b d"], fed: Bool[Tensor, "*b"], dim: int) -> Float[Tensor, "*c d"]:
    """Mean over an axis of those that were fed; NaN where none was."""
    return (x * fed[..., None]).sum(dim=dim) / fed.sum(dim=dim)[..., None]


def filled(
    tokens: Float[Tensor, "b s n d"], fed: Bool[Tensor, "b s n"], days: Float[Tensor, "b s"]
) -> Float[Tensor, "b s n d"]:
    """Tokens with those that were not fed interpolated along time; NaN at patches without any."""
    count = fed.shape[1]
    number = torch.arange(count, device=fed.device)[None, :, None]
    before = torch.where(fed, number, -1).cummax(dim=1).values
    after = torch.where(fed, number, count).flip(1).cummin(dim=1).values.flip(1)
    first = torch.where(before < 0, after, before).clamp(max=count - 1)
    last = torch.where(after == count, before, after).clamp(min=0)
    day = days[..., None].expand(fed.shape)
    gap = day.gather(1, last) - day.gather(1, first)
    share = torch.where(gap > 0, (day - day.gather(1, first)) / gap.clamp(min=1e-6), 0.0)[..., None]
    one, other = (tokens.gather(1, i[..., None].expand(tokens.shape)) for i in (first, last))
    found = torch.where(share > 0, one + share * (other - one), one)
    return found.masked_fill(~fed.any(dim=1, keepdim=True)[..., None], torch.nan)


def date_names(dates: str, dim: int, days: list[str]) -> list[str]:
    """Name of every number of a vector, such as ``e003``, ``jja_e003`` or ``20200113_e003``.

    Args:
        dates: As of ``join_dates``.
        dim: Numbers per date.
        days: Every date, as its file says it.
    """
    groups = {"mean": [""], "season": [f"{name}_" for name in SEASONS], "each": [f"{day}_" for day in days]}
    return [f"{group}e{i:03d}" for group in groups[dates] for i in range(dim)]
