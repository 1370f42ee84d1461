"""Galileo: a space-time transformer over band groups, published weights for Sentinel-1 and Sentinel-2.

Paper: Tseng et al., ICML 2025, arXiv:2502.09356. Weights and facts: github.com/nasaharvest/galileo, MIT.
Every patch and date gives a token per band group; all tokens attend to each other, and a patch's vector is the mean of
its tokens. As published, positions are sines of the place in the window, and they stay visible in the tokens: on the
bundled scenes 82 % of the variance of a map's vectors is the place in the window. With ``place="one"``, the default,
all patches get the position of the first one: 9 % (by chance 11 %), EuroSAT by linear probe on the mean of tokens
0.776 as with ``window``.
Differs from the released code: only its Sentinel groups and NDVI are here; weather, terrain, land cover and location
are not inputs (they would be masked tokens, which influence nothing).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.errors import WeightsError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.layers.normalize import ClippedRange
from geossl.models.layers.transformer import Block
from geossl.models.loading import load_strictly
from geossl.models.spec import ImageGeometry, Provenance, dense_spec
from geossl.sensors import OPTICAL, RADAR, S1_BANDS, SensorSpec

BASE_PX = 8  # side of the stored patch kernels
BASE_GSD_M = 10.0
MAX_DATES = 24
S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
GROUPS = {  # name in the released weights -> sensor and bands, in the order of its channel embedding
    "S1": (RADAR, ("VV", "VH")),
    "S2_RGB": (OPTICAL, ("B02", "B03", "B04")),
    "S2_Red_Edge": (OPTICAL, ("B05", "B06", "B07")),
    "S2_NIR_10m": (OPTICAL, ("B08",)),
    "S2_NIR_20m": (OPTICAL, ("B8A",)),
    "S2_SWIR": (OPTICAL, ("B11", "B12")),
    "NDVI": (OPTICAL, ("NDVI",)),
}
S1 = SensorSpec(S1_BANDS, "dB", "GRD sigma0 or gamma0", (-11.728724389, -18.855881580), (4.887145775, 5.730270320))
S2 = SensorSpec(  # published statistics of numbers, over 10000
    S2_BANDS,
    "reflectance",
    "L1C or L2A",
    tuple(n / 10000 for n in (
        1395.3408730676722, 1338.4026921784578, 1343.09883810357, 1543.8607982512297, 2186.2022069512263,
        2525.0932853316694, 2410.3377187373408, 2750.2854646886753, 2234.911100061487, 1474.5311266077113,
    )),
    tuple(n / 10000 for n in (
        917.7041440370853, 913.2988423581528, 1092.678723527555, 1047.2206083460424, 1048.0101611156767,
        1143.6903026819996, 1098.979177731649, 1204.472755085893, 1145.9774063078878, 980.2429840007796,
    )),
)  # fmt: skip
NDVI_MEAN, NDVI_STD = 0.28921165, 0.27209389
SIZES = {
    "nano": {"dim": 128, "depth": 4, "heads": 8},
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "base": {"dim": 768, "depth": 12, "heads": 12},
}
MARK = "s_t_channel_embed"  # a name that only Galileo's released weights have


def galileo_spec(
    size: str = "nano",
    *,
    patch_px: int = 8,
    window_px: int = 96,
    margin_px: int = 16,
    month: int = 7,
    place: str = "one",
) -> DenseSpec:
    """Spec of a released Galileo.

    Args:
        size: Key of ``SIZES``.
        patch_px: Side of a patch, 1 to 8: the patch kernels are resized to it, as published.
        window_px: Side of the square the encoder sees in map inference; it was trained on 4 to 12 patches.
        margin_px: Pixels of a window's halo whose embeddings are dropped.
        month: Month of images of one date, 1 to 12.
        place: ``one`` position for all patches, for maps; ``window``, the place in the window, as published.
    """
    if place not in ("one", "window"):
        raise ValueError(f"place={place!r} is not known; use one or window")
    if not 1 <= patch_px <= BASE_PX or not 1 <= month <= 12:
        raise ValueError(f"patch_px={patch_px} must be 1 to {BASE_PX} and month={month} 1 to 12")
    source = "github.com/nasaharvest/galileo @ 0f0b5b95, arXiv:2502.09356"
    return dense_spec(
        "galileo",
        {**SIZES[size], "month": month, "place": place},
        {RADAR: S1, OPTICAL: S2},
        ImageGeometry(window_px=window_px, margin_px=margin_px, gsd_m=BASE_GSD_M),
        Provenance(source=source, licence="MIT").stated(f"galileo_{size}"),
        dim=SIZES[size]["dim"],
        patch_px=patch_px,
    )


@dataclass(frozen=True)
class Fed:
    """Which tokens may be attended to.

    Args:
        keys: True where a token is fed, per sample.
    """

    keys: Bool[Tensor, "b n"]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention over the fed tokens."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.keys[:, None, None])


class GalileoEncoder(DenseEncoder):
    """Patch embedding per band group, encodings, pre-norm blocks, norm.

    Args:
        spec: From ``galileo_spec``.
    """

    month_table: Tensor
    date_table: Tensor
    kernel: Tensor

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        dim, depth, heads = (int(spec.arguments[name]) for name in ("dim", "depth", "heads"))
        self.scale = nn.ModuleDict({name: Range(sensor.mean, sensor.std) for name, sensor in spec.sensors.items()})
        self.scale["ndvi"] = Range((NDVI_MEAN,), (NDVI_STD,))
        self.embed = nn.ModuleDict(
            {name: nn.Conv2d(len(bands), dim, BASE_PX, BASE_PX) for name, (_, bands) in GROUPS.items()}
        )
        self.channel = nn.Parameter(torch.zeros(len(GROUPS), dim // 4))
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("month_table", months(dim // 4), persistent=False)
        self.register_buffer("date_table", sines(torch.arange(MAX_DATES).float(), dim // 4), persistent=False)
        self.register_buffer("kernel", resizing(spec.patch_px), persistent=False)

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseModel."""
        tokens, fed = self.encoded({name: x[:, None] for name, x in images.items()}, kept)
        weight = fed[..., None].to(tokens.dtype)
        total = (tokens.nan_to_num() * weight).sum(dim=1)
        return (total / weight.sum(dim=1)).where(fed.any(dim=1)[..., None], torch.nan)

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """Mean of all fed tokens, as published."""
        tokens, fed = self.encoded({name: x[:, None] for name, x in images.items()}, kept)
        weight = fed[..., None].to(tokens.dtype)
        return (tokens.nan_to_num() * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))

    def encoded(
        self,
        series: Mapping[str, Float[Tensor, "b t c h w"]],
        kept: Kept | None = None,
        month: Int[Tensor, "b t"] | None = None,
    ) -> tuple[Float[Tensor, "b g gh gw d"], Bool[Tensor, "b g gh gw"]]:
        """Tokens of every band group and date, and which of them are fed.

        Args:
            series: Pixels by sensor in physical units, NaN where there are none; at most 24 dates.
            kept: Patches that are fed, by sensor; all where None.
            month: Month of every date, 1 to 12; that of the spec by default.

        Returns:
            Tokens by date and group (``g`` = dates x groups, groups fastest), and where they were fed.
        """
        first = next(iter(series.values()))
        b, t = first.shape[:2]
        if t > MAX_DATES:
            raise ValueError(f"{t} dates; Galileo takes at most {MAX_DATES}")
        month = first.new_full((b, t), int(self.spec.arguments["month"])).long() if month is None else month
        names = [name for name, (sensor, _) in GROUPS.items() if sensor in series]
        scaled = {name: self.scaled(name, x) for name, x in series.items()}
        parts = torch.stack([self.patches(name, scaled) for name in names], dim=2)  # b t g gh gw d
        gh, gw = parts.shape[3:5]
        x = parts + self.encodings(names, month, gh, gw).to(parts)
        fed = torch.ones(b, t, len(names), gh, gw, dtype=torch.bool, device=x.device)
        for i, name in enumerate(names):
            sensor = GROUPS[name][0]
            if kept is not None and sensor in kept:
                fed[:, :, i] = kept[sensor].reshape(b, 1, gh, gw)
        flat, keys = x.flatten(1, 4), fed.flatten(1)
        placed = None if bool(keys.all()) else Fed(keys)
        for block in self.blocks:
            flat = block(flat, placed)
        return self.norm(flat).unflatten(1, (t * len(names), gh, gw)), fed.flatten(1, 2)

    def scaled(self, sensor: str, x: Float[Tensor, "b t c h w"]) -> dict[str, Float[Tensor, "b t h w"]]:
        """Every band as the first layer takes it, NDVI beside those of Sentinel-2."""
        bands = dict(zip(self.spec.sensors[sensor].bands, self.scale[sensor](x).unbind(2), strict=True))
        if sensor == OPTICAL:
            near, red = (x[:, :, S2_BANDS.index(band)] for band in ("B08", "B04"))
            ndvi = (near - red) / torch.where(near + red == 0, torch.ones_like(near), near + red)
            bands["NDVI"] = self.scale["ndvi"](ndvi[:, :, None])[:, :, 0]
        return bands

    def patches(self, group: str, scaled: Mapping[str, Mapping[str, Tensor]]) -> Float[Tensor, "b t gh gw d"]:
        """Patch embedding of a band group."""
        sensor, bands = GROUPS[group]
        x = torch.stack([scaled[sensor][band] for band in bands], dim=2)
        side = self.spec.patch_px
        layer: Any = self.embed[group]
        weight = (
            layer.weight if side == BASE_PX else (layer.weight.flatten(2) @ self.kernel.T).unflatten(2, (side, side))
        )
        out = F.conv2d(x.flatten(0, 1), weight, layer.bias, stride=side)
        return out.unflatten(0, x.shape[:2]).permute(0, 1, 3, 4, 2)

    def encodings(self, names: list[str], month: Int[Tensor, "b t"], gh: int, gw: int) -> Tensor:
        """Quarters of the width: band group, number of the date, month, place in metres over 10."""
        b, t = month.shape
        quarter = self.channel.shape[1]
        channel = self.channel[[list(GROUPS).index(name) for name in names]]
        step = self.spec.patch_px * self.spec.gsd_m / BASE_GSD_M
        step *= self.spec.arguments["place"] == "window"
        columns, rows = (sines(torch.arange(n, device=month.device) * step, quarter // 2) for n in (gw, gh))
        place = torch.cat([columns.expand(gh, gw, -1), rows[:, None].expand(gh, gw, -1)], dim=-1)
        shape = (b, t, len(names), gh, gw, quarter)
        return torch.cat(
            [
                channel[:, None, None].expand(shape),
                self.date_table[:t, None, None, None].expand(shape),
                self.month_table[month - 1][:, :, None, None, None].expand(shape),
                place.expand(shape),
            ],
            dim=-1,
        )


class Range(ClippedRange):
    """Mean -+ 2 std to 0..1 without clipping, as published."""

    def forward(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Return scaled values, without NaN."""
        return ((x - self.low) / self.width).nan_to_num(nan=0.5)


def sines(position: Float[Tensor, " n"], dim: int) -> Float[Tensor, "n dim"]:
    """Sines, then cosines; frequencies 10000^(-k / (2 dim)), as in the released code."""
    frequency = 10000.0 ** (-torch.arange(dim // 2, device=position.device) / dim / 2)
    angle = position[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def months(dim: int) -> Float[Tensor, "12 dim"]:
    """Place of every month on the circle of the year: its sine ``dim / 2`` times, then its cosine."""
    angle = torch.arange(12) * (2 * torch.pi / 12)
    return torch.cat([angle.sin()[:, None].expand(-1, dim // 2), angle.cos()[:, None].expand(-1, dim // 2)], dim=1)


def resizing(side: int) -> Float[Tensor, "new old"]:
    """Matrix from stored patch kernels to those of another side (FlexiViT, arXiv:2212.08013).

    It is the pseudo-inverse of resizing pixels, so that an enlarged patch gives what the small one gave.
    """
    basis = torch.eye(BASE_PX**2).reshape(-1, 1, BASE_PX, BASE_PX)
    resized = F.interpolate(basis, (side, side), mode="bicubic", antialias=True)
    return torch.linalg.pinv(resized.flatten(1))


def from_layout(values: Mapping[str, Tensor], path: Path | str = "weights") -> GalileoEncoder:
    """Build an encoder from released weights of any size; the size comes from the tensors.

    Args:
        values: The released state dict, or torchgeo's copy of it.
        path: Named in messages.

    Raises:
        WeightsError: If it is of no released size, or tensors are missing or of other shapes.
    """
    if not all(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(f"{path} holds more than the tensors of a Galileo encoder; save its state dict alone")
    depth = sum(str(key).endswith(".attn.proj.weight") for key in values)
    dim = 4 * values[MARK].shape[-1] if values[MARK].ndim else 0
    size = next((name for name, known in SIZES.items() if (known["dim"], known["depth"]) == (dim, depth)), None)
    if size is None:
        known = "; ".join(f"{name}: {shape['dim']} and {shape['depth']}" for name, shape in SIZES.items())
        raise WeightsError(
            f"{path} is a Galileo of {dim} numbers and {depth} blocks, of which the attention heads are not known; "
            f"known are {known}"
        )
    try:
        state = from_released(values)
    except KeyError as error:
        raise WeightsError(f"{path} is an incomplete Galileo weight file: {error} is not in it") from None
    except RuntimeError:
        raise WeightsError(f"{path} holds queries, keys and values of different shapes; it is damaged") from None
    encoder = GalileoEncoder(galileo_spec(size))
    load_strictly(encoder, state, path)
    return encoder.eval()


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the released weights to ours; what belongs to inputs we do not take is left out."""
    found = {
        "channel": state[MARK],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    for name in GROUPS:
        for kind in ("weight", "bias"):
            found[f"embed.{name}.{kind}"] = state[f"space_time_embed.{name}.proj.{kind}"]
    depth = sum(str(key).endswith(".attn.proj.weight") for key in state)
    for i in range(depth):
        for kind in ("weight", "bias"):
            at, to = f"blocks.{i}", f"blocks.{i}"
            found[f"{to}.attention.norm.{kind}"] = state[f"{at}.norm1.{kind}"]
            found[f"{to}.attention.to_qkv.{kind}"] = torch.cat([state[f"{at}.attn.{n}.{kind}"] for n in "qkv"])
            found[f"{to}.attention.to_out.{kind}"] = state[f"{at}.attn.proj.{kind}"]
            found[f"{to}.feed_forward.norm.{kind}"] = state[f"{at}.norm2.{kind}"]
            found[f"{to}.feed_forward.expand.{kind}"] = state[f"{at}.mlp.fc1.{kind}"]
            found[f"{to}.feed_forward.contract.{kind}"] = state[f"{at}.mlp.fc2.{kind}"]
    return found
