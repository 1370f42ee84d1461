"""Encoders on disk: one safetensors file with weights, spec and provenance; programs; and networks by name."""

import hashlib
import json
import math
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geossl.errors import GeosslError, WeightsError, missing
from geossl.models.download import cache_folder, known_sha256, sha256_of
from geossl.models.download import encoder_path as released_path
from geossl.models.encoder import Encoder
from geossl.models.kinds import require_image_encoder
from geossl.models.loading import load_strictly
from geossl.outputs import replacing

LARGEST = 4096  # a size no spec exceeds unless one of its tensors does
ARCHITECTURES = {  # imported when needed: some need an extra
    "croma": "geossl.models.encoders.croma:CROMAEncoder",
    "vit": "geossl.models.encoders.vit:ViT",
    "conv_vit": "geossl.models.encoders.conv_vit:ConvViT",
    "novelty_map": "geossl.models.heads.novelty:NoveltyMap",
    "patch_autoencoder": "geossl.models.encoders.score_autoencoder:PatchAutoencoder",
    "series_vit": "geossl.models.encoders.series_vit:SeriesViT",
    "detector": "geossl.models.heads.image_classifier:ImageClassifier",
    "exit_resnet": "geossl.models.encoders.exit_resnet:ExitResNet",
    "galileo": "geossl.models.encoders.galileo:GalileoEncoder",
    "network": "geossl.models.foreign.feature_map:NetworkEncoder",
    "presto": "geossl.models.encoders.presto:PrestoEncoder",
    "program": "geossl.models.foreign.programs:ProgramEncoder",
    "terratorch": "geossl.models.foreign.terratorch_models:TerratorchEncoder",
    "wrapped": "geossl.models.foreign.feature_map:WrappedEncoder",
    "gnn": "geossl.models.encoders.gnn:GNNEncoder",
    "node_mlp": "geossl.models.encoders.gnn:NodeMLP",
    "projected": "geossl.models.heads.projection:ProjectedEncoder",
    "point_segmenter": "geossl.models.heads.point_segmenter:PointSegmenter",
    "point_transformer": "geossl.models.encoders.point_transformer:PointTransformer",
    "segmenter": "geossl.models.heads.segmenter:Segmenter",
    "side_by_side": "geossl.models.side_by_side:SideBySide",
    "vector_autoencoder": "geossl.models.encoders.score_autoencoder:VectorAutoencoder",
}
NETWORKS = {  # prefix of names -> what builds the encoder; imported when asked for, as architectures are
    "terratorch": "geossl.models.foreign.terratorch_models:from_terratorch",
    "timm": "geossl.models.foreign.networks:from_timm",
    "torchgeo": "geossl.models.foreign.networks:from_torchgeo",
}
PROJECTION = "projection."  # beginning of the names of what is not the encoder's own
PROGRAMS = "geossl.models.foreign.programs"


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
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it; safetensors makes files that only they can read
        state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
        save_file(state | {PROJECTION + k: v for k, v in (encoder.projection or {}).items()}, temporary, metadata)
        temporary.chmod(mode)


def load_encoder(name_or_path: str | Path) -> Encoder:
    """Load an encoder by released name (downloaded once, hash-checked) or from a weight file.

    Args:
        name_or_path: A released name such as ``croma_base``; our ``.safetensors``; a ``.pt2`` of ``geossl.export``; a
            ``.pt`` as CROMA or Galileo was published; or a name of others: ``timm:resnet18.a1_in1k``,
            ``torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_DINO``,
            ``terratorch:prithvi_eo_v2_300``, ``hf:owner/repo/file.safetensors@commit``.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        UnknownNameError: If it is neither a released name nor a path.
        MissingFileError: If the file does not exist.
        WeightsError: If it cannot be downloaded, or is damaged, unsafe or of another layout.
    """
    return read_encoder(encoder_path(name_or_path))


@dataclass(frozen=True)
class EncoderFile:
    """A weight file that was found, hashed and loaded once.

    Args:
        path: The local file.
        sha256: SHA-256 of its bytes.
        encoder: Loaded, in evaluation mode, shared by all that open the same file: copy it before training it.
    """

    path: Path
    sha256: str
    encoder: Encoder

    @classmethod
    def open(cls, encoder: str | Path | Encoder) -> "EncoderFile":
        """Open an encoder by name, file or as an object; a file again only if it has changed since.

        Raises:
            UnknownNameError, MissingFileError, WeightsError: As in ``load_encoder``.
        """
        if isinstance(encoder, Encoder):
            return of_object(encoder)
        path = encoder_path(encoder).absolute()
        if path in OBJECTS:
            return OBJECTS[path]
        state = path.stat()
        return opened_once(path, (state.st_ino, state.st_size, state.st_mtime_ns))

    @classmethod
    def portable(cls, encoder: str | Path | Encoder) -> "EncoderFile":
        """``open`` for what is saved within another model: a wrapped network as a program.

        Raises:
            WeightsError: If it cannot be exported.
        """
        found = cls.open(encoder)
        if found.encoder.is_rebuilt_from_spec or found.encoder.spec.architecture != "wrapped":
            return found
        return of_object(import_module(PROGRAMS).portable(found.encoder))

    def cut(self, dims: int | None) -> "EncoderFile":
        """The same encoder with so many numbers per patch; None = as it is.

        Raises:
            InputError: If the file has no projection, or the number is not possible.
        """
        if dims is None:
            return self
        projection = import_module("geossl.models.heads.projection")  # heads load files, so only where asked for
        return of_object(projection.projected(require_image_encoder(self.encoder), dims))


OBJECTS: dict[Path, EncoderFile] = {}  # wrapped networks of this process, by the file that stands for them


@lru_cache(maxsize=2)
def opened_once(path: Path, version: tuple[int, int, int]) -> EncoderFile:
    """A weight file as it is at ``version``; the last two of a process are kept."""
    return EncoderFile(path, known_sha256(path), read_encoder(path))


@cache
def scratch() -> "tempfile.TemporaryDirectory[str]":
    """Folder of this process for files of encoders that were given as objects."""
    return tempfile.TemporaryDirectory(prefix="geossl-")


def of_object(encoder: Encoder) -> EncoderFile:
    """A file for an encoder that was given as an object; of a wrapped network it only stands for the object.

    The same weights give the same hash, so that a map that was broken off resumes in another process.
    """
    is_wrapped = encoder.spec.architecture == "wrapped"
    digest = digest_of(encoder)
    path = Path(scratch().name) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', encoder.spec.name)}-{digest[:16]}.safetensors"
    if is_wrapped and not path.exists():
        note = {"spec": encoder.spec.to_dict(), "provenance": {"weights_sha256": digest}}
        save_file({}, path, {"geossl": json.dumps(note, sort_keys=True)})
    elif not path.exists():
        save_encoder(path, encoder, {})
    if not is_wrapped:
        return EncoderFile.open(path)
    OBJECTS[path] = EncoderFile(path, sha256_of(path), encoder)
    return OBJECTS[path]


def digest_of(encoder: Encoder) -> str:
    """Hash of spec and weights; of a wrapped network also of what it answers, since its code is in no file."""
    state = dict(encoder.state_dict())
    if (answer := getattr(encoder, "answer", None)) is not None:
        state["answer"] = answer()
    found = hashlib.sha256(json.dumps(encoder.spec.to_dict(), sort_keys=True).encode())
    for key in sorted(state):
        found.update(key.encode())
        found.update(state[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def encoder_path(name_or_path: str | Path) -> Path:
    """The local weight file of a name or path: downloaded, or built from a network of others, if it is not cached.

    Raises:
        UnknownNameError, MissingFileError, WeightsError: As in ``load_encoder``.
    """
    kind, colon, name = str(name_or_path).partition(":")
    if not colon or kind not in NETWORKS or Path(name_or_path).is_file():
        return released_path(name_or_path)
    path = cache_folder() / f"{kind}_{re.sub(r'[^A-Za-z0-9_.@-]', '_', name)}.safetensors"
    note = path.with_suffix(".sha256")
    if not (path.is_file() and note.is_file() and known_sha256(path) == note.read_text().strip()):
        module, function = NETWORKS[kind].split(":")
        encoder = getattr(import_module(module), function)(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_encoder(path, encoder, {"source": encoder.spec.source})
        note.write_text(sha256_of(path))
    return path


def read_encoder(path: str | Path) -> Encoder:
    """Read a weight file of any known layout; strict, and without running anything the file might hold."""
    path = Path(path)
    if path.suffix == ".pt2":
        return import_module(PROGRAMS).read_program(path)
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return read_safetensors(path)
    if zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        raise WeightsError(
            f"{path} is a TorchScript program, which holds code; it was not run. Use a .pt2 of geossl export, or wrap "
            "the network yourself with geossl.wrap"
        )
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=start[:2] == b"PK")
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} holds pickled code or objects besides tensors, or is not a weight file; it was not run. "
            "Use a file from a source you trust, or .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError):
        raise WeightsError(f"{path} is damaged or no PyTorch weight file; download or copy it again") from None
    return published(values, path=path)


def published(values: Any, path: Path) -> Encoder:
    """An encoder in a layout that CROMA or Galileo was published in; imported when asked for, as any architecture."""
    galileo = import_module("geossl.models.encoders.galileo")
    if isinstance(values, Mapping) and isinstance(values.get(galileo.MARK), torch.Tensor):
        return galileo.from_layout(values, path=path)
    return import_module("geossl.models.encoders.croma_weights").from_layout(values, path=path)


def read_safetensors(path: Path) -> Encoder:
    """Read our own format."""
    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {}).get("geossl", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (safe_open is not a mapping)
    except (SafetensorError, OSError, ValueError, RecursionError):
        raise WeightsError(f"{path} is damaged or no safetensors file; copy it again") from None
    if note is None:
        return published(state, path=path)
    extra = {key: state.pop(key) for key in [*state] if key.startswith(PROJECTION)}
    encoder = built(note, state, path)
    load_strictly(encoder, state, path)
    encoder.projection = {key.removeprefix(PROJECTION): value for key, value in extra.items()} or None
    return encoder.eval()


def built(note: Any, state: Mapping[str, Tensor], path: Path) -> Encoder:
    """The encoder that a file's own header describes, weights not yet loaded.

    Raises:
        WeightsError: If the header is not one of ours, or claims a model larger than the tensors beside it.
    """
    spec = note.get("spec") if isinstance(note, dict) else None
    name = spec.get("architecture") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(name, str):
        raise WeightsError(f"{path} has a damaged header (no spec of an encoder); copy it again")
    if name not in ARCHITECTURES:
        raise WeightsError(f"{path} needs architecture {name!r}; this geossl knows {', '.join(ARCHITECTURES)}")
    largest = max((max(value.shape, default=1) for value in state.values()), default=1)
    if claimed := [key for key, number in numbers_in(spec) if max(LARGEST, largest, len(state)) < number < math.inf]:
        raise WeightsError(f"{path} claims {claimed[0]} far beyond the tensors it holds; it is damaged")
    kind = architecture(name)
    try:
        spec = kind.spec_type.from_dict(spec)
        check_fields(spec)
        with suppress(NotImplementedError), torch.device("meta"):  # sizes first: takes no memory
            tensors = [*kind(spec).state_dict().values()]
            if sum(t.numel() for t in tensors) > 2 * sum(t.numel() for t in state.values()) + LARGEST:
                raise WeightsError(f"{path} claims a model far larger than the tensors it holds; it is damaged")
        return kind(spec)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, ArithmeticError) as error:
        if isinstance(error, GeosslError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path} describes no encoder that can be built ({reason}); copy it again") from None


def check_fields(spec: Any) -> None:
    """Refuse what JSON holds in place of the text and whole numbers of a spec.

    Raises:
        TypeError: Which, and what it is.
    """
    for field, hint in get_type_hints(type(spec)).items():
        value = getattr(spec, field)
        if hint in (int, str) and (not isinstance(value, hint) or isinstance(value, bool)):
            raise TypeError(f"{field} is {value!r}, not {'text' if hint is str else 'a whole number'}")


def numbers_in(values: Any, key: str = "spec") -> Iterator[tuple[str, float]]:
    """Numbers in nested JSON, with the key they stand under."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from numbers_in(value, str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from numbers_in(value, key)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield key, values


def architecture(name: str) -> type[Encoder]:
    """The class of a key of ``ARCHITECTURES``."""
    module, attribute = ARCHITECTURES[name].split(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise missing(error) from None


def fresh(spec: Mapping[str, Any]) -> Encoder:
    """An encoder with fresh weights, from its spec as JSON has it."""
    kind = architecture(spec["architecture"])
    return kind(kind.spec_type.from_dict(dict(spec)))


def provenance(path: str | Path) -> dict[str, Any]:
    """What ``save_encoder`` recorded; empty for a foreign file."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("geossl", '{"provenance": {}}'))["provenance"]
