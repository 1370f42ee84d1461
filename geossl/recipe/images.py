"""Recipe keys of methods that learn from single images: pictures, or scenes with all sensors stacked."""

from typing import Annotated, Literal

from pydantic import Field

from geossl.recipe.sections import Positive, Scenes, ScenesRecipe, Section

SENSORS = ("s1", "s2", "rgb", "bands")
ALONE = ("rgb", "bands")  # pictures, and images of any bands: never together with other sensors
Bands = Literal["all"] | tuple[str | int, ...]


class Images(Scenes):
    """Chips of Sentinel-1/2 scenes; for an encoder of ``rgb`` a folder of pictures, of ``bands`` one of GeoTIFFs."""

    crop_share: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None


class ImageEncoder(Section):
    """Size, input and map geometry of an encoder that stacks its sensors."""

    size: Literal["nano", "tiny", "small", "base", "large"]
    sensors: dict[str, Bands]
    patch_px: Positive = 8
    position: Literal["sincos", "alibi"] = "sincos"
    class_token: bool = False
    statistics: Literal["published", "data"] = "published"
    window_px: Positive | None = None
    halo_px: Annotated[int, Field(ge=0)] = 0
    gsd_m: Annotated[float, Field(gt=0)] = 10.0


class Teacher(Section):
    """A frozen network to imitate: an encoder of ours, a network of timm, or weights of torchgeo.

    ``bands`` says which of images of any bands are red, green and blue to a network of timm.
    """

    kind: Literal["geossl", "timm", "torchgeo"] = "geossl"
    name: str
    weights: str | None = None
    recipe: str | None = None
    sensors: tuple[str, ...] | None = None
    bands: tuple[Positive, Positive, Positive] | None = None


def check_teacher(key: str, teacher: Teacher, encoder: ImageEncoder) -> None:
    """Refuse keys that do not go together."""
    numbered = "bands" in encoder.sensors
    if teacher.kind == "timm" and numbered and teacher.bands is None:
        raise ValueError(f"{key}.bands is missing; say which bands are red, green and blue, such as [3, 2, 1]")
    if teacher.bands and not (numbered and teacher.kind == "timm"):
        raise ValueError(
            f"{key}.bands is of networks of timm that see images of any bands (encoder.sensors={{bands: all}})"
        )
    if teacher.kind == "timm" and teacher.weights is None:
        raise ValueError(f"{key}.weights is missing; give a local weight file of {teacher.name}")
    if teacher.kind == "geossl" and teacher.weights is not None:
        raise ValueError(f"{key}.weights belongs to timm and torchgeo; of an encoder of ours, {key}.name is the file")
    if teacher.kind != "geossl" and (teacher.recipe or teacher.sensors):
        raise ValueError(f"{key}.recipe and {key}.sensors belong to kind geossl, not to {teacher.kind}")


def check_images(recipe: ScenesRecipe, encoder: ImageEncoder, data: Images, patch_px: int) -> None:
    """Refuse sensors, sizes and keys that do not go together; says which and what would.

    Raises:
        ValueError: For pydantic, which adds where.
    """
    names = set(encoder.sensors)
    if not names or not names <= set(SENSORS) or (names & set(ALONE) and len(names) > 1):
        raise ValueError(
            f"encoder.sensors={dict(encoder.sensors)!r} must be {{rgb: all}} for pictures, {{bands: all}} for GeoTIFFs "
            "of any bands, or s1, s2 or both, each with all or a list of bands"
        )
    if "bands" in names:
        check_numbered(recipe, encoder, data)
    check_sizes(encoder, data.chip_px, patch_px)
    scenes_only = [key for key in ("crop_px", "holdout", "s2_offset") if getattr(data, key)]
    if "rgb" in names and (scenes_only or recipe.probe.every_steps):
        raise ValueError(
            f"{f'data.{scenes_only[0]}' if scenes_only else 'probe.every_steps'} is of scenes, not pictures"
        )
    if names & set(ALONE) and data.source == "sample":
        raise ValueError("data.source=sample has Sentinel scenes only; give a folder of your own")
    if "rgb" not in names and data.crop_share:
        raise ValueError("data.crop_share is of pictures; scenes and images of any bands take data.crop_px")
    if recipe.probe.every_steps and patch_px != 8:
        raise ValueError(f"probe.every_steps needs 8-px patches, not {patch_px}; set it to 0")


def check_numbered(recipe: ScenesRecipe, encoder: ImageEncoder, data: Images) -> None:
    """Refuse what images of any bands do not have: known statistics, names of bands, labels."""
    if encoder.statistics == "published":
        raise ValueError("encoder.statistics=published is of s1, s2 and rgb; of images of any bands use data")
    bands = encoder.sensors["bands"]
    if bands != "all" and not (bands and all(str(b).isdecimal() and int(b) > 0 for b in bands)):
        raise ValueError(f"encoder.sensors.bands={list(bands)!r} must be all, or numbers from 1, such as [4, 3, 2]")
    if data.s2_offset is not None or recipe.probe.every_steps:
        key = "data.s2_offset" if data.s2_offset is not None else "probe.every_steps"
        raise ValueError(f"{key} is of Sentinel scenes, not of images of any bands")


def check_sizes(encoder: ImageEncoder, chip_px: int, patch_px: int) -> None:
    """Refuse sizes that are not whole patches or leave nothing, and a class token that lies nowhere."""
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
        raise ValueError("encoder.class_token needs encoder.position=sincos: a class token lies nowhere")
