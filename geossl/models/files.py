"""Encoders on disk: one safetensors file with weights, spec and provenance."""

import json
import pickle
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from geossl.errors import MissingFileError, UnknownNameError, WeightsError
from geossl.models.download import ENCODERS, download
from geossl.models.encoder import DenseEncoder, DenseModel, Encoder
from geossl.models.encoders.croma_weights import from_layout, load_strictly
from geossl.outputs import replacing

ARCHITECTURES = {  # imported when asked for: some need an extra
    "croma": "geossl.models.encoders.croma:CROMAEncoder",
    "vit": "geossl.models.encoders.vit:ViT",
    "conv_vit": "geossl.models.encoders.conv_vit:ConvViT",
    "novelty_map": "geossl.models.heads.novelty:NoveltyMap",
    "patch_autoencoder": "geossl.models.encoders.score_autoencoder:PatchAutoencoder",
    "series_vit": "geossl.models.encoders.series_vit:SeriesViT",
    "detector": "geossl.models.heads.image_classifier:ImageClassifier",
    "exit_resnet": "geossl.models.encoders.exit_resnet:ExitResNet",
    "gnn": "geossl.models.encoders.gnn:GNNEncoder",
    "node_mlp": "geossl.models.encoders.gnn:NodeMLP",
    "point_segmenter": "geossl.models.heads.point_segmenter:PointSegmenter",
    "point_transformer": "geossl.models.encoders.point_transformer:PointTransformer",
    "segmenter": "geossl.models.heads.segmenter:Segmenter",
    "vector_autoencoder": "geossl.models.encoders.score_autoencoder:VectorAutoencoder",
}


def save_encoder(path: str | Path, encoder: Encoder, provenance: Mapping[str, Any]) -> None:
    """Write weights, spec and provenance as one safetensors file; appears whole or not at all.

    Args:
        path: The ``.safetensors`` file.
        encoder: What to save.
        provenance: JSON values on how the weights came to be.
    """
    path = Path(path)
    metadata = {"geossl": json.dumps({"spec": encoder.spec.to_dict(), "provenance": dict(provenance)}, sort_keys=True)}
    with replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}, temporary, metadata)


def load_encoder(name_or_path: str | Path) -> Encoder:
    """Load an encoder by released name (downloaded once, hash-checked) or from a weight file.

    Args:
        name_or_path: ``croma_base``, ``croma_large``, our ``.safetensors``, or a ``.pt`` in a published CROMA layout.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        UnknownNameError: If it is neither a released name nor a path.
        MissingFileError: If the file does not exist.
        WeightsError: If it cannot be downloaded, or is damaged, unsafe or of another layout.
    """
    return read_encoder(encoder_path(name_or_path))


def encoder_path(name_or_path: str | Path) -> Path:
    """The local weight file of a released name or path; downloads a name's file if it is not cached."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if str(name_or_path) in ENCODERS:
        return download(ENCODERS[str(name_or_path)])
    if path.suffix or len(path.parts) > 1:
        raise MissingFileError(f"encoder file {str(path)!r} does not exist")
    raise UnknownNameError("encoder", str(name_or_path), ENCODERS)


def read_encoder(path: str | Path) -> Encoder:
    """Read a weight file of any known layout; strict, and without running anything the file might hold."""
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return read_safetensors(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=start[:2] == b"PK")
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} holds pickled code or objects besides tensors, or is no weight file; it was not run. "
            "Use a file from a source you trust, or .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError):
        raise WeightsError(f"{path} is damaged or no PyTorch weight file; download or copy it again") from None
    return from_layout(values, path=path)


def read_safetensors(path: Path) -> Encoder:
    """Read our own format."""
    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {}).get("geossl", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
    except (SafetensorError, OSError, json.JSONDecodeError):
        raise WeightsError(f"{path} is damaged or no safetensors file; copy it again") from None
    if note is None:
        return from_layout(state, path=path)
    name = note["spec"]["architecture"]
    if name not in ARCHITECTURES:
        raise WeightsError(f"{path} needs architecture {name!r}; this geossl knows {', '.join(ARCHITECTURES)}")
    kind = architecture(name)
    encoder = kind(kind.spec_type.from_dict(note["spec"]))
    load_strictly(encoder, state, path)
    return encoder.eval()


def architecture(name: str) -> type[Encoder]:
    """The class of a key of ``ARCHITECTURES``."""
    module, attribute = ARCHITECTURES[name].split(":")
    return getattr(import_module(module), attribute)


def mappable(encoder: Encoder) -> DenseModel:
    """The encoder, if the map engine can run it.

    Raises:
        WeightsError: If it is of points or graphs.
    """
    if isinstance(encoder, DenseModel):
        return encoder
    name = f"{encoder.spec.name!r} ({encoder.spec.architecture})"
    raise WeightsError(f"{name} does not take images; this needs an encoder that does, such as croma")


def dense(encoder: Encoder) -> DenseEncoder:
    """The encoder, if it is one of images.

    Raises:
        WeightsError: If it embeds points or graphs, or classifies.
    """
    if isinstance(encoder, DenseEncoder):
        return encoder
    raise WeightsError(f"{mappable(encoder).spec.name!r} gives classes, not embeddings; use it with segment --model")


def provenance(path: str | Path) -> dict[str, Any]:
    """What ``save_encoder`` recorded; empty for a foreign file."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("geossl", '{"provenance": {}}'))["provenance"]
