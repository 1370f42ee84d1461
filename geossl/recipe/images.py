"""Recipe keys of methods that learn from single images: pictures, or scenes with all sensors stacked."""

from typing import Annotated, Literal

from pydantic import Field

from geossl.recipe.sections import Positive, Scenes, ScenesRecipe, Section

SENSORS = ("s1", "s2", "rgb")
Bands = Literal["all"] | tuple[str, ...]


class Images(Scenes):
    """Chips of Sentinel-1/2 scenes; or, for an encoder of ``rgb``, a folder of pictures."""

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
    margin_px: Annotated[int, Field(ge=0)] = 0
    gsd_m: Annotated[float, Field(gt=0)] = 10.0


class Teacher(Section):
    """A frozen network to imitate: an encoder of ours, a network of timm, or weights of torchgeo."""

    kind: Literal["geossl", "timm", "torchgeo"] = "geossl"
    name: str
    weights: str | None = None
    recipe: str | None = None
    sensors: tuple[str, ...] | None = None


def check_teacher(key: str, teacher: Teacher) -> None:
    """Refuse keys that do not go together."""
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
    if not names or not names <= set(SENSORS) or ("rgb" in names and len(names) > 1):
        raise ValueError(
            f"encoder.sensors={dict(encoder.sensors)!r} must be {{rgb: all}} for pictures, or s1, s2 or both, "
            "each with all or a list of bands"
        )
    check_sizes(encoder, data.chip_px, patch_px)
    scenes_only = [key for key in ("crop_px", "holdout", "s2_offset") if getattr(data, key)]
    if "rgb" in names and (scenes_only or recipe.probe.every_steps):
        raise ValueError(
            f"{f'data.{scenes_only[0]}' if scenes_only else 'probe.every_steps'} is of scenes, not pictures"
        )
    if "rgb" in names and data.source == "sample":
        raise ValueError("data.source=sample has scenes only; give a folder of pictures")
    if "rgb" not in names and data.crop_share:
        raise ValueError("data.crop_share is of pictures; scenes take data.crop_px")
    if recipe.probe.every_steps and patch_px != 8:
        raise ValueError(f"probe.every_steps needs 8-px patches, not {patch_px}; set it to 0")


def check_sizes(encoder: ImageEncoder, chip_px: int, patch_px: int) -> None:
    """Refuse sizes that are not whole patches or leave nothing, and a class token that lies nowhere."""
    window_px = encoder.window_px or chip_px
    sizes = (("data.chip_px", chip_px), ("encoder.window_px", window_px), ("encoder.margin_px", encoder.margin_px))
    for name, value in sizes:
        if value % patch_px:
            raise ValueError(f"{name}={value} must be a multiple of the {patch_px}-px patch")
    if chip_px < 3 * patch_px:
        raise ValueError(f"data.chip_px={chip_px} is less than three patches; use at least {3 * patch_px}")
    if 2 * encoder.margin_px >= window_px:
        raise ValueError(
            f"encoder.margin_px={encoder.margin_px} leaves nothing of encoder.window_px={window_px}; "
            "use less than half of it"
        )
    if encoder.class_token and encoder.position == "alibi":
        raise ValueError("encoder.class_token needs encoder.position=sincos: a class token lies nowhere")
