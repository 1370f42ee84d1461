"""Encoders as programs of ``torch.export``: ``model.pt2`` in and out, normalisation and nodata handling inside."""

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.export import Dim, ExportedProgram

from geossl.errors import GridError, WeightsError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.encoders.stacked import only_kept
from geossl.models.foreign.masked import Exportable
from geossl.models.foreign.vetting import vet

NOTE = "geossl.json"  # record of the archive
SAMPLES = 2  # of the traced batch: 1 would be taken for a constant
LARGEST = 4096  # batch, and patches per side
Run = Callable[..., tuple[Tensor, Tensor]]


class ProgramEncoder(DenseEncoder):
    """A program of ``torch.export``; its bytes are its only tensor, so that it fits in any file of geossl.

    Args:
        spec: ``arguments["bytes"]``: length of the program. ``arguments["side_px"]``: side of its images; None = any
            whole number of patches.
    """

    is_rebuilt_from_spec: ClassVar[bool] = False
    program: Tensor

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("program", torch.zeros(int(spec.arguments["bytes"]), dtype=torch.uint8))
        self.read: tuple[int, bytes] | None = None

    def run(self) -> Run:
        """The program as a function; read once.

        Raises:
            WeightsError: If it holds more than a plain network.
        """
        if self.read is None or self.read[0] != self.program.data_ptr():
            self.read = self.program.data_ptr(), self.program.cpu().numpy().tobytes()
        return opened(self.read[1], str(self.program.device))

    def both(self, images: Images, kept: Kept | None) -> tuple[Tensor, Tensor]:
        """Tokens and vectors per image; a sensor that is missing has no data.

        Raises:
            GridError: If the program takes images of another size.
        """
        kept, first = kept or {}, next(iter(images.values()))
        (h, w), side, patch = first.shape[-2:], self.spec.arguments["side_px"], self.spec.patch_px
        if side is not None and (h, w) != (side, side):
            raise GridError(f"{self.spec.name} does not take images of {h} x {w} px; give it {side} x {side} px")
        if h % patch or w % patch:
            raise GridError(f"images are {h} x {w} px; height and width must be multiples of the {patch} px patch")
        pixels = [
            only_kept(images[name], kept.get(name))
            if name in images
            else first.new_full((len(first), self.spec.channels(name), h, w), torch.nan)
            for name in self.spec.sensors
        ]
        return self.run()(*pixels)

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseModel."""
        return self.both(images, kept)[0]

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder."""
        return self.both(images, kept)[1]


@lru_cache(maxsize=4)
def opened(program: bytes, device: str) -> Run:
    """A program, vetted, as a function on a device."""
    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        file.write(program)
        file.flush()
        vet(Path(file.name))
        found = torch.export.load(file.name)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass  # lazy: only for a GPU

        found = move_to_device_pass(found, device)
    return found.module()


def read_program(path: Path) -> ProgramEncoder:
    """The encoder in a ``.pt2`` file of ``geossl export``.

    Raises:
        WeightsError: If the file is damaged, might run code, or says nothing of bands and units.
    """
    note = vet(path)
    if not note:
        raise WeightsError(
            f"{path} does not say which bands and units it takes, as it was not written by geossl export; wrap it: "
            "geossl.wrap(torch.export.load(...).module(), bands=...)"
        )
    try:
        return of_bytes(path.read_bytes(), DenseSpec.from_dict(note["spec"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise WeightsError(f"{path} has a damaged note of geossl export; export it again") from None


def of_bytes(program: bytes, spec: DenseSpec) -> ProgramEncoder:
    """An encoder of a program's bytes."""
    arguments = {"bytes": len(program), **kept_arguments(spec, spec.arguments.get("side_px"))}
    spec = replace(spec, architecture="program", arguments=arguments, reach=None)
    encoder = ProgramEncoder(spec).eval()
    encoder.program.copy_(torch.frombuffer(bytearray(program), dtype=torch.uint8))
    return encoder


def kept_arguments(spec: DenseSpec, side_px: int | None) -> dict[str, Any]:
    """What a program says of its images: their side (None = any), and for series their months."""
    months = {name: spec.arguments[name] for name in ("dates", "month")} if spec.dates > 1 else {}
    return {"side_px": side_px, **months}


def traced(encoder: DenseEncoder) -> tuple[ExportedProgram, int | None, float]:
    """An encoder as a program, for any batch and size where it can be.

    Args:
        encoder: In evaluation mode.

    Returns:
        The program, the side of its images in pixels (None = any), and the largest difference from the encoder on
        images with holes.

    Raises:
        WeightsError: If the encoder has no such form.
    """
    spec, model = encoder.spec, Exportable(encoder).eval()
    patch, errors = spec.patch_px, []
    images = example(spec, SAMPLES, spec.window_px)
    batch, rows, columns = (Dim(name, min=1, max=LARGEST) for name in ("batch", "rows", "columns"))
    sizes = {0: batch, 2: patch * rows, 3: patch * columns} if patch > 1 else {0: batch, 2: rows, 3: columns}
    for side, shape in ((None, sizes), (spec.window_px, {0: batch})):
        if side is None and not model.is_dynamic:
            continue
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about its own inside
                shapes = tuple(dict(shape) for _ in images)
                found = torch.export.export(model, tuple(images.values()), dynamic_shapes=(shapes,), strict=False)
        except WeightsError:
            raise
        except Exception as error:  # torch raises many kinds for what it cannot trace
            errors.append(" ".join(str(error).split())[:120])
            continue
        for node in found.graph.nodes:
            node.meta.pop("stack_trace", None)  # holds paths of this machine
        return found, side, difference(encoder, found, side)
    raise WeightsError(f"{spec.name} cannot be exported: torch cannot trace it ({errors[-1]}); use it as it is")


@torch.no_grad()
def difference(encoder: DenseEncoder, program: ExportedProgram, side: int | None) -> float:
    """Largest difference between a program's tokens and the encoder's, on images with holes, of two sizes if it can."""
    run, patch, worst = program.module(), encoder.spec.patch_px, 0.0
    for count, px in ((SAMPLES, encoder.spec.window_px), (SAMPLES + 1, side or encoder.spec.window_px - patch)):
        images = example(encoder.spec, count, px)
        kept = {
            name: x.isfinite().all(dim=1).unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).any(dim=4).any(dim=2)
            for name, x in images.items()
        }
        want, got = encoder.tokens(images, kept), run(*images.values())[0]
        if not torch.equal(want.isnan(), got.isnan()):
            raise WeightsError(f"{encoder.spec.name} cannot be exported: the program loses or invents patches")
        worst = max(worst, float((want - got).nan_to_num().abs().max()))
    return worst


def example(spec: DenseSpec, samples: int, side_px: int) -> dict[str, Tensor]:
    """Plausible noise; the last image has a hole of a patch in every sensor."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, sensor in spec.sensors.items():
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (sensor.mean, sensor.std))
        mean, std = (v.repeat(spec.dates, 1, 1) for v in (mean, std))
        x = mean + std * torch.randn(samples, spec.channels(name), side_px, side_px, generator=generator)
        x[-1, :, : spec.patch_px, : spec.patch_px] = torch.nan
        found[name] = x
    return found


def program_bytes(program: ExportedProgram, note: Mapping[str, Any]) -> bytes:
    """The archive of a program, with what geossl needs to know of it."""
    buffer = io.BytesIO()
    program.example_inputs = None  # noise, larger than many a network
    torch.export.save(program, buffer, extra_files={NOTE: json.dumps(note, sort_keys=True)})
    return buffer.getvalue()


def portable(encoder: DenseEncoder) -> DenseEncoder:
    """An encoder that a file can hold: itself, or a wrapped one as a program.

    Raises:
        WeightsError: If it cannot be exported.
    """
    if encoder.spec.architecture != "wrapped":
        return encoder
    program, side, _ = traced(encoder)
    spec = replace(encoder.spec, arguments=kept_arguments(encoder.spec, side))
    return of_bytes(program_bytes(program, {"spec": spec.to_dict()}), spec)
