"""Write an encoder for other programs: ``model.pt2`` (torch.export) or ``model.onnx``, with MLM metadata beside it."""

import importlib.util
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from geossl.errors import RunError, WeightsError, needs
from geossl.models.encoder import DenseEncoder, DenseSpec
from geossl.models.foreign.mlm import mlm_item
from geossl.models.foreign.programs import LARGEST, SAMPLES, example, kept_arguments, program_bytes, traced
from geossl.outputs import replacing, write_text

CLOSE = 1e-3  # largest difference of an exported program from its encoder, in spreads of its vectors
OPSET = 18
ENDINGS = (".pt2", ".onnx")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: The program.
        metadata: MLM metadata beside it.
        difference: Largest difference of a vector from the encoder's, on images with holes.
        side_px: Side of its images; None = any.
    """

    path: Path
    metadata: Path
    difference: float
    side_px: int | None

    def summary(self) -> str:
        """What a user should know, in lines."""
        size = "any batch, any whole number of patches"
        size = size if self.side_px is None else f"any batch, images of {self.side_px} x {self.side_px} px only"
        return (
            f"exported   {self.path} ({self.path.stat().st_size / 1e6:.1f} MB)\nmetadata   {self.metadata}\n"
            f"takes      {size}\nchecked    largest difference from the encoder {self.difference:.2g}"
        )


def export_encoder(encoder: DenseEncoder, out: Path, sha256: str) -> Exported:
    """Write an encoder as a program that takes pixels in physical units, NaN where there is no data.

    Args:
        encoder: In evaluation mode, on the CPU.
        out: ``.pt2`` or ``.onnx``.
        sha256: Hash of the encoder's file.

    Raises:
        WeightsError: If it cannot be exported.
        RunError: If the program does not give what the encoder gives; nothing is kept.
        MissingExtraError: If ``.onnx`` is asked for without ``geossl[export]``.
    """
    if out.suffix == ".onnx" and any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")):
        raise needs("export", "write a .pt2")
    program, side, difference = traced(encoder)
    spec, scale = encoder.spec, spread(encoder)
    item = mlm_item(spec, out.name, side, sha256)
    with replacing(out) as temporary:
        if out.suffix == ".pt2":
            kept = replace(spec, architecture="program", arguments=kept_arguments(spec, side), reach=None)
            note = {"spec": kept.to_dict(), "encoder_sha256": sha256, "mlm": item}
            temporary.write_bytes(program_bytes(program, note))
        else:
            difference = max(difference, write_onnx(program, spec, side, temporary))
        if difference > CLOSE * scale:
            raise RunError(
                f"{out} would differ from {spec.name} by {difference:.2g}, vectors vary by {scale:.2g}; not written"
            )
    metadata = out.with_suffix(".json")
    write_text(metadata, json.dumps(item, indent=1))
    return Exported(out, metadata, difference, side)


@torch.no_grad()
def spread(encoder: DenseEncoder) -> float:
    """Standard deviation of an encoder's vectors on noise."""
    tokens = encoder.tokens(example(encoder.spec, SAMPLES, encoder.spec.window_px))
    return float(tokens.nan_to_num().std())


def write_onnx(program: ExportedProgram, spec: DenseSpec, side: int | None, path: Path) -> float:
    """Write ONNX and run it with onnxruntime; the largest difference from the program.

    Raises:
        WeightsError: If torch cannot translate it.
    """
    import onnxruntime  # lazy: an extra

    names = [*spec.sensors]
    images = example(spec, SAMPLES, spec.window_px)
    batch, rows, columns = (Dim(name, min=1, max=LARGEST) for name in ("batch", "rows", "columns"))
    patch = spec.patch_px
    sizes = {0: batch} if side is not None else {0: batch, 2: patch * rows, 3: patch * columns}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about its own inside
        try:
            torch.onnx.export(
                program,
                tuple(images.values()),
                str(path),
                input_names=names,
                output_names=["tokens", "pooled"],
                dynamic_shapes=(tuple(dict(sizes) for _ in names),),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch raises many kinds for what it cannot translate
            reason = " ".join(str(error).split())[:120]
            raise WeightsError(f"{spec.name} cannot be written as ONNX ({reason}); write a .pt2") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst, run = 0.0, program.module()
    for count, px in ((SAMPLES, spec.window_px), (SAMPLES + 1, side or spec.window_px - patch)):
        images = example(spec, count, px)
        got = torch.from_numpy(session.run(["tokens"], {name: x.numpy() for name, x in images.items()})[0])
        want: Any = run(*images.values())[0]
        if not torch.equal(want.isnan(), got.isnan()):
            raise WeightsError(f"{spec.name} cannot be written as ONNX: patches without data differ; write a .pt2")
        worst = max(worst, float((want - got).detach().nan_to_num().abs().max()))
    return worst
