"""Presto: a transformer over the months of one pixel, published weights for Sentinel-1 and Sentinel-2.

Paper: Tseng et al., arXiv:2304.14065. Weights and facts: github.com/nasaharvest/presto, MIT.
Every month gives a token per band group; terrain and location give one token each. All tokens attend to each other, and
a pixel's vector is their mean, normalised. What is missing is no token, and influences nothing.
Differs from the released code: its location token is always there; here it is one only if a location is given, since
vectors with it also say where a pixel lies. benchmarks/README.md says what leaving it out costs.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.encoders.galileo import GROUPS as IMAGE_GROUPS
from geossl.models.encoders.galileo import S1, S2, S2_BANDS, Fed, months
from geossl.models.layers.transformer import Block
from geossl.models.spec import ImageGeometry, Provenance, dense_spec
from geossl.sensors import OPTICAL, RADAR

MAX_DATES = 24
MONTHS = 12
WEATHER, TERRAIN, LAND_COVER = "ERA5", "SRTM", "dynamic_world"
MORE_GROUPS = {WEATHER: 2, TERRAIN: 2}  # bands of what is not an image
GROUPS = {name: len(bands) for name, (_, bands) in IMAGE_GROUPS.items() if name != "NDVI"} | MORE_GROUPS | {"NDVI": 1}
CHANNELS = (*GROUPS, LAND_COVER)  # in the order of the released channel embedding
OPTIONAL = {OPTICAL: ("B05", "B06", "B07", "B8A", "B11", "B12")}  # band groups that files may lack
CLASSES = 9  # of Dynamic World
SHIFT_DB, WIDTH_DB = 25.0, 25.0  # radar: (dB + 25) / 25; reflectance stays as it is
ZERO_K, WIDTH_K, WIDTH_RAIN_M = 272.15, 35.0, 0.03
WIDTH_HEIGHT_M, WIDTH_SLOPE = 2000.0, 50.0
CHUNK = 256  # series that run at once
WINDOW_PX = 32  # side of the squares a map is made of; pixels do not see each other


def presto_spec(month: int = 1, dates: int = MONTHS) -> DenseSpec:
    """Spec of the released Presto.

    Args:
        month: First month of a series, 1 to 12.
        dates: Months of a series in a map, at most 24.
    """
    if not 1 <= month <= MONTHS or not 1 <= dates <= MAX_DATES:
        raise ValueError(f"month={month} must be 1 to {MONTHS} and dates={dates} 1 to {MAX_DATES}")
    source = "github.com/nasaharvest/presto @ 13173d02, arXiv:2304.14065"
    levels = {RADAR: (S1, "GRD sigma0"), OPTICAL: (S2, "L1C")}
    return dense_spec(
        "presto",
        {"dim": 128, "depth": 2, "heads": 8, "dates": dates, "month": month},
        {name: replace(s, level=level, optional=OPTIONAL.get(name, ())) for name, (s, level) in levels.items()},
        ImageGeometry(window_px=WINDOW_PX),
        Provenance(source=source, licence="MIT").stated("presto"),
        dim=128,
        patch_px=1,
    )


class More(NamedTuple):
    """What Presto also takes of a pixel, besides its Sentinel bands.

    Attributes:
        weather: Mean temperature of every month at 2 m in kelvin, and its precipitation in metres.
        terrain: Elevation in metres and slope in degrees.
        land_cover: Dynamic World class of every month, 0 to 8; 9 = not known.
        location: Latitude and longitude in degrees.
    """

    weather: Float[Tensor, "b t 2"] | None = None
    terrain: Float[Tensor, "b 2"] | None = None
    land_cover: Int[Tensor, "b t"] | None = None
    location: Float[Tensor, "b 2"] | None = None


NOTHING = More()


class PrestoEncoder(DenseEncoder):
    """A linear layer per band group, encodings, pre-norm blocks, mean, norm.

    Args:
        spec: From ``presto_spec``.
    """

    knows_own_sensors_only = True
    month_table: Tensor
    date_table: Tensor

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        dim, depth, heads = (int(spec.arguments[name]) for name in ("dim", "depth", "heads"))
        self.embed = nn.ModuleDict({name: nn.Linear(bands, dim) for name, bands in GROUPS.items()})
        self.land_cover = nn.Embedding(CLASSES, dim)
        self.location = nn.Linear(3, dim)
        self.channel = nn.Parameter(torch.zeros(len(CHANNELS), dim // 4))
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("month_table", months(dim // 4), persistent=False)
        self.register_buffer("date_table", waves(MAX_DATES, dim // 2), persistent=False)

    def of_months(self, month: int, dates: int) -> "PrestoEncoder":
        """The same network for images of other months; weights are shared."""
        found = copy.copy(self)
        found.spec = presto_spec(month, dates)
        return found

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b h w d"]:
        """One vector per pixel; ``images`` hold the spec's dates one after the other, each with all bands.

        Pixels do not see each other. A month and band group with a NaN is left out; a pixel without any is NaN.
        """
        dates = self.spec.dates
        series = {name: x.unflatten(1, (dates, -1)).movedim((1, 2), (3, 4)) for name, x in images.items()}
        for name, fed in (kept or {}).items():
            if name in series:
                series[name] = series[name].masked_fill(~fed[..., None, None], torch.nan)
        count = len(next(iter(series.values())))
        return torch.stack([self.window({name: x[i] for name, x in series.items()}) for i in range(count)])

    def window(self, series: Mapping[str, Float[Tensor, "h w t c"]]) -> Float[Tensor, "h w d"]:
        """One vector per pixel of a window, a few pixels at a time; how many there are around it changes nothing."""
        first = next(iter(series.values()))
        flat = {name: x.flatten(0, 1) for name, x in series.items()}
        usable = []
        for name, x in flat.items():
            needed = [i for i in self.spec.needed(name) if i < x.shape[2]]  # of a date
            usable.append(x[:, :, needed].isfinite().all(dim=2).any(dim=1))
        known = torch.stack(usable).any(dim=0)
        out = first.new_full((len(known), self.spec.dim), torch.nan)
        rows = known.nonzero()[:, 0]
        for part in rows.split(CHUNK):
            out[part] = self.series({name: x[part] for name, x in flat.items()}).to(out)
        return out.unflatten(0, first.shape[:2])

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """Mean of the vectors of all pixels that have one."""
        return self.tokens(images, kept).flatten(1, 2).nanmean(dim=1)

    def series(
        self,
        pixels: Mapping[str, Float[Tensor, "b t _"]],
        month: int | Int[Tensor, " b"] | None = None,
        more: More = NOTHING,
    ) -> Float[Tensor, "b d"]:
        """One vector per series of one pixel.

        Args:
            pixels: By sensor, of consecutive months, at most 24: ``s1`` in dB and ``s2`` in reflectance, in the spec's
                band order. A band group of a month is left out where one of its bands is NaN.
            month: The first, 1 to 12, of all series or of each; that of the spec by default.
            more: Of the same pixels.

        Returns:
            Vectors; NaN where nothing of a series is known.

        Raises:
            ValueError: If there are more than 24 months, or a month is none.
        """
        first = next(iter(pixels.values()))
        b, t = first.shape[:2]
        start = torch.as_tensor(self.spec.arguments["month"] if month is None else month, device=first.device)
        if t > MAX_DATES or int(start.min()) < 1 or int(start.max()) > MONTHS:
            raise ValueError(f"{t} months from {start.tolist()}; Presto takes at most {MAX_DATES}, from month 1 to 12")
        calendar = (start.reshape(-1, 1) - 1 + torch.arange(t, device=first.device)) % MONTHS
        when = self.month_table[calendar].expand(b, t, -1), self.date_table[:t].expand(b, t, -1)
        tokens, fed = [], []
        for name, x in {**self.groups(pixels), **monthly(more)}.items():
            known = x.isfinite().all(dim=2)
            tokens.append(self.embed[name](x.nan_to_num()) + self.encoding(name, *when))
            fed.append(known)
        if more.land_cover is not None:
            known = (more.land_cover >= 0) & (more.land_cover < CLASSES)
            classes = self.land_cover(torch.where(known, more.land_cover, 0))
            tokens.append(classes + self.encoding(LAND_COVER, *when))
            fed.append(known)
        nowhere = tuple(torch.zeros_like(x[:, :1]) for x in when)
        if more.terrain is not None:
            x = more.terrain[:, None] / more.terrain.new_tensor([WIDTH_HEIGHT_M, WIDTH_SLOPE])
            tokens.append(self.embed[TERRAIN](x.nan_to_num()) + self.encoding(TERRAIN, *nowhere))
            fed.append(x.isfinite().all(dim=2))
        if more.location is not None:
            tokens.append(self.location(on_sphere(more.location))[:, None])
            fed.append(more.location.isfinite().all(dim=1, keepdim=True))
        return self.joined(torch.cat(tokens, dim=1), torch.cat(fed, dim=1))

    def joined(self, x: Float[Tensor, "b n d"], fed: Bool[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """Run the blocks over the tokens that are fed, and join them; NaN where none is."""
        used = fed.any(dim=0)  # what no series here has is not run at all
        x, fed = x[:, used], fed[:, used]
        alone = ~fed.any(dim=1)
        placed = None if bool(fed.all()) else Fed(fed | alone[:, None])
        for block in self.blocks:
            x = block(x, placed)
        weight = fed[..., None].to(x.dtype)
        mean = (x * weight).sum(dim=1) / weight.sum(dim=1)
        return self.norm(mean).masked_fill(alone[:, None], torch.nan)

    def encoding(self, name: str, month: Float[Tensor, "b t q"], date: Float[Tensor, "b t k"]) -> Tensor:
        """A quarter of the width says the month, a quarter the band group, half the number of the date."""
        channel = self.channel[CHANNELS.index(name)].expand(*month.shape[:2], -1)
        return torch.cat([month, channel, date], dim=2)

    def groups(self, pixels: Mapping[str, Float[Tensor, "b t _"]]) -> dict[str, Float[Tensor, "b t _"]]:
        """Band groups of the sensors that are there, as the first layer takes them."""
        found = {}
        for name, (sensor, bands) in IMAGE_GROUPS.items():
            if sensor not in pixels:
                continue
            x = pixels[sensor]
            if name == "NDVI":
                near, red = (x[:, :, S2_BANDS.index(band)] for band in ("B08", "B04"))
                total = near + red
                ratio = torch.where(total > 0, (near - red) / torch.where(total > 0, total, 1.0), 0.0)
                found[name] = ratio.masked_fill(total.isnan(), torch.nan)[:, :, None]
            else:
                own = self.spec.sensors[sensor].bands
                x = x[:, :, [own.index(band) for band in bands]]
                found[name] = (x + SHIFT_DB) / WIDTH_DB if sensor == RADAR else x
        return found


def monthly(more: More) -> dict[str, Float[Tensor, "b t 2"]]:
    """Weather as the first layer takes it, if there is any."""
    if more.weather is None:
        return {}
    scale = more.weather.new_tensor([WIDTH_K, WIDTH_RAIN_M])
    return {WEATHER: (more.weather - more.weather.new_tensor([ZERO_K, 0.0])) / scale}


def on_sphere(location: Float[Tensor, "b 2"]) -> Float[Tensor, "b 3"]:
    """Latitude and longitude in degrees as a point of the unit sphere."""
    latitude, longitude = torch.deg2rad(location.nan_to_num()).unbind(dim=1)
    flat = latitude.cos()
    return torch.stack([flat * longitude.cos(), flat * longitude.sin(), latitude.sin()], dim=1)


def waves(count: int, dim: int) -> Float[Tensor, "count dim"]:
    """Sines at even, cosines at odd places; frequencies 1000^(-k / dim), as in the released code."""
    frequency = 1000.0 ** (-torch.arange(0, dim, 2) / dim)
    angle = torch.arange(count)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Names of the released weights to ours; the decoder, which only training needs, is left out."""
    found = {
        "channel": state["encoder.channel_embed.weight"],
        "land_cover.weight": state["encoder.dw_embed.weight"][:CLASSES],  # the last stands for missing, and is no token
    }
    names = {"encoder.latlon_embed": "location", "encoder.norm": "norm"}
    names |= {f"encoder.eo_patch_embed.{name}": f"embed.{name}" for name in GROUPS}
    for i in range(sum(key.startswith("encoder.blocks") and key.endswith("qkv.weight") for key in state)):
        parts = {"norm1": "attention.norm", "attn.qkv": "attention.to_qkv", "attn.proj": "attention.to_out"}
        parts |= {"norm2": "feed_forward.norm", "mlp.fc1": "feed_forward.expand", "mlp.fc2": "feed_forward.contract"}
        names |= {f"encoder.blocks.{i}.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in parts.items()}
    for theirs, ours in names.items():
        found |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    return found
