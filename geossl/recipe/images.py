"""Recipe keys of methods that learn from single images: RGB images, or scenes with all sensors stacked."""

from typing import Any, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import (
    HALO,
    STATISTICS,
    Above0,
    Halo,
    PartShare,
    Pixels,
    Positive,
    Scenes,
    ScenesRecipe,
    Section,
)
from geossl.sensors import SENSORS

ALONE = ("rgb", "bands")  # RGB images, and images of any bands: never together with other sensors
Bands = Literal["all"] | tuple[str | int, ...]


class Images(Scenes):
    """Chips of scenes, or a folder of RGB images or of GeoTIFFs, by encoder.sensors."""

    crop_share: tuple[PartShare, PartShare] | None = Field(
        None,
        description="Least and greatest share of an RGB image's area in a random crop that is resized to chip_px; "
        "null takes the whole image.",
    )

    @model_validator(mode="after")
    def shares_in_order(self) -> "Images":
        """Refuse a least share above the greatest."""
        if self.crop_share and self.crop_share[0] > self.crop_share[1]:
            raise ValueError(f"data.crop_share={list(self.crop_share)} must be the least share, then the greatest")
        return self


WIDTHS = {"nano": 128, "tiny": 192, "small": 384, "base": 768, "large": 1024}  # numbers per patch of a plain ViT


class ImageEncoder(Section):
    """Size, input and map geometry of the encoder; sensors are stacked."""

    size: Literal["nano", "tiny", "small", "base", "large"] = Field(
        description="Size of the encoder: 128, 192, 384, 768 or 1024 numbers per patch."
    )
    sensors: dict[str, Bands] = Field(
        description="Sensors and their bands, each all or a list: {s2: all}, {s1: all, s2: [B02, B03, B04]}, {rgb: "
        "all} for RGB images, {bands: all} for GeoTIFFs of any bands."
    )
    patch_px: Pixels = Field(8, description="Side of a patch in pixels; chip_px is at least three of them.")
    position: Literal["sincos", "alibi"] = Field(
        "sincos", description="How patches know where they are: fixed vectors, or by distance (alibi; seamless maps)."
    )
    class_token: bool = Field(False, description="Whether a class token goes along; needs position=sincos.")
    statistics: Literal["published", "data"] = Field(
        "published", description=STATISTICS.format(published="published takes those of SSL4EO-S12 or ImageNet")
    )
    window_px: Pixels | None = Field(
        None,
        description="Side in pixels of the window the encoder sees in a map; may exceed chip_px with alibi. "
        "null takes chip_px.",
    )
    halo_px: Halo = Field(0, description=HALO)
    gsd_m: Above0 = Field(
        10.0,
        description="Size of a pixel on the ground in metres, by default that of the finest sensor: 10 for Sentinel, "
        "30 for Landsat; 1 for images of no place.",
    )

    @model_validator(mode="before")
    @classmethod
    def pixel_of_the_finest_sensor(cls, values: Any) -> Any:
        """Fill in ``gsd_m`` from the sensors' entries where it is not given."""
        names = values.get("sensors") if isinstance(values, dict) and "gsd_m" not in values else None
        sizes = [SENSORS[name].gsd_m for name in names if name in SENSORS] if isinstance(names, dict) else []
        return {**values, "gsd_m": min(sizes)} if sizes else values


class Teacher(Section):
    """A frozen network to imitate, from geossl, timm or torchgeo."""

    kind: Literal["geossl", "timm", "torchgeo"] = Field(
        "geossl", description="Where the teacher comes from: an encoder of geossl, a timm network or torchgeo weights."
    )
    name: str = Field(description="Weight file or released name (geossl), or the name that timm or torchgeo gives it.")
    weights: str | None = Field(
        None, description="Local weight file of a timm or torchgeo network; null downloads torchgeo's."
    )
    recipe: str | None = Field(None, description="Recipe that makes the teacher's file if it does not exist.")
    sensors: tuple[str, ...] | None = Field(
        None, description="Sensors that an encoder of geossl looks at, of those it can; null takes all."
    )
    bands: tuple[Positive, Positive, Positive] | None = Field(
        None, description="Numbers from 1 of the red, green and blue band, for a timm network on images of any bands."
    )


def check_teacher(key: str, teacher: Teacher, encoder: ImageEncoder) -> None:
    """Refuse keys that do not go together."""
    numbered = "bands" in encoder.sensors
    if teacher.kind == "timm" and numbered and teacher.bands is None:
        raise ValueError(f"{key}.bands is missing; say which bands are red, green and blue, such as [3, 2, 1]")
    if teacher.bands and not (numbered and teacher.kind == "timm"):
        raise ValueError(f"{key}.bands is for timm networks and encoder.sensors={{bands: all}} only; leave it out")
    if teacher.kind == "timm" and teacher.weights is None:
        raise ValueError(f"{key}.weights is missing; give a local weight file for {teacher.name}")
    if teacher.kind == "geossl" and teacher.weights is not None:
        raise ValueError(f"{key}.weights belongs to timm and torchgeo; {key}.name is the file of an encoder of geossl")
    if teacher.kind != "geossl" and (teacher.recipe or teacher.sensors):
        raise ValueError(f"{key}.recipe and {key}.sensors belong to kind geossl, not to {teacher.kind}")


def check_images(recipe: ScenesRecipe, encoder: ImageEncoder, data: Images, patch_px: int) -> None:
    """Refuse sensors, sizes and keys that do not go together; says which and what would.

    Raises:
        ValueError: For pydantic, which adds where.
    """
    names = set(encoder.sensors)
    if not names or not names <= {*SENSORS, *ALONE} or (names & set(ALONE) and len(names) > 1):
        raise ValueError(
            f"encoder.sensors={dict(encoder.sensors)!r} must be {{rgb: all}} for RGB images, {{bands: all}} for "
            f"GeoTIFFs of any bands, or some of {', '.join(SENSORS)}, each with all or a list of bands"
        )
    if "bands" in names:
        check_numbered(recipe, encoder, data)
    check_sizes(encoder, data.chip_px, patch_px)
    scenes_only = [key for key in ("crop_px", "holdout", "s2_offset", "s2_bands") if getattr(data, key)]
    if "rgb" in names and (scenes_only or recipe.probe.every_steps):
        key = f"data.{scenes_only[0]}" if scenes_only else "probe.every_steps"
        raise ValueError(f"{key} is for scenes, not for RGB images; leave it out")
    if names & set(ALONE) and data.source == "sample":
        raise ValueError("data.source=sample has Sentinel scenes only; give a folder of your own")
    if "rgb" not in names and data.crop_share:
        raise ValueError("data.crop_share is for RGB images only; use data.crop_px")
    if recipe.probe.every_steps and patch_px != 8:
        raise ValueError(f"probe.every_steps needs 8-px patches, not {patch_px}; set it to 0")


def check_numbered(recipe: ScenesRecipe, encoder: ImageEncoder, data: Images) -> None:
    """Refuse what images of any bands do not have: known statistics, names of bands, labels."""
    if encoder.statistics == "published":
        raise ValueError("encoder.statistics=published is known for s1, s2 and rgb only; use data")
    bands = encoder.sensors["bands"]
    if bands != "all" and not (bands and all(str(b).isdecimal() and int(b) > 0 for b in bands)):
        raise ValueError(f"encoder.sensors.bands={list(bands)!r} must be all, or numbers from 1, such as [4, 3, 2]")
    if data.s2_offset is not None or data.s2_bands or recipe.probe.every_steps:
        key = (
            "data.s2_offset"
            if data.s2_offset is not None
            else "data.s2_bands"
            if data.s2_bands
            else "probe.every_steps"
        )
        raise ValueError(f"{key} is for Sentinel scenes, not for images of any bands; leave it out")


def check_sizes(encoder: ImageEncoder, chip_px: int, patch_px: int) -> None:
    """Refuse sizes that are not whole patches or leave nothing, and a class token without positions."""
    window_px = encoder.window_px or chip_px
    sizes = (("data.chip_px", chip_px), ("encoder.window_px", window_px), ("encoder.halo_px", encoder.halo_px))
    for name, value in sizes:
        if value % patch_px:
            raise ValueError(f"{name}={value} must be a multiple of the {patch_px}-px patch")
    if chip_px < 3 * patch_px:
        raise ValueError(f"data.chip_px={chip_px} is less than three patches; use at least {3 * patch_px}")
    if 2 * encoder.halo_px >= window_px:
        raise ValueError(
            f"encoder.halo_px={encoder.halo_px} leaves nothing of encoder.window_px={window_px}; "
            "use less than half of it"
        )
    if encoder.class_token and encoder.position == "alibi":
        raise ValueError("encoder.class_token needs encoder.position=sincos: a class token has no position")
