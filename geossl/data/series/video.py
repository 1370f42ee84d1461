"""Ordinary video: files decoded by PyAV, or folders of frames; with a class per folder or without."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geossl.data.images.folders import read_image
from geossl.data.listing import IMAGES, files_in, folders_below
from geossl.errors import InputError, MissingFileError, RunError, needs

VIDEOS = {".mp4", ".webm", ".mkv", ".avi", ".mov", ".mpg", ".m4v"}


@dataclass(frozen=True)
class VideoFile:
    """One video.

    Args:
        path: The file, or the folder of its frames.
        frames: Number of frames.
        label: Name of the folder it lies in, below the root; empty if it lies in the root.
    """

    path: Path
    frames: int
    label: str


def find_videos(root: str | Path) -> list[VideoFile]:
    """Videos below a folder, sorted by path: video files, and folders that hold two or more images.

    Raises:
        InputError: If the folder holds no video, or a file cannot be decoded.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f"folder {str(root)!r} does not exist; expected one with videos or folders of frames")
    found = []
    for path in sorted([*files_in(root, VIDEOS, deep=True), *folders_below(root)]):
        count = len(files_in(path, IMAGES)) if path.is_dir() else frames_of(path)
        if count >= 2:
            parts = path.relative_to(root).parts
            found.append(VideoFile(path, count, parts[0] if len(parts) > 1 else ""))
    if not found:
        raise InputError(f"{root} holds neither a video ({', '.join(sorted(VIDEOS))}) nor a folder of frames")
    return found


def frames_of(path: Path) -> int:
    """Number of frames of a file; counted by decoding where the container does not say."""
    try:
        import av  # lazy: an extra
    except ModuleNotFoundError:
        raise needs("video", "give folders of frames") from None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return int(stream.frames or sum(1 for _ in container.decode(stream)))
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); remove it or convert it to .mp4") from None


def read_frames(video: VideoFile, numbers: Sequence[int]) -> Float[Tensor, "t 3 h w"]:
    """Some frames, 0 to 1, in ascending order of ``numbers``; numbers may repeat.

    Raises:
        RunError: If the file ends before the last of them, or frames differ in size.
    """
    if video.path.is_dir():
        paths = files_in(video.path, IMAGES)
        frames = [torch.from_numpy(read_image(paths[i])) for i in numbers]
        if len({frame.shape for frame in frames}) > 1:
            raise RunError(f"{video.path} holds frames of different sizes; resize them to one")
        return torch.stack(frames)
    return decoded(video, numbers)


def decoded(video: VideoFile, numbers: Sequence[int]) -> Float[Tensor, "t 3 h w"]:
    """Frames of a video file, decoded from its start up to the last number."""
    import av  # lazy: an extra

    found: dict[int, Tensor] = {}
    try:
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in numbers:
                    found[number] = torch.from_numpy(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))
                if number >= max(numbers):
                    break
    except av.FFmpegError as error:
        raise RunError(f"{video.path} cannot be decoded ({error})") from None
    if not found:
        raise RunError(f"{video.path} holds no frame {min(numbers)}")
    last = max(found)
    frames = [found[i] if i in found else found[last] for i in numbers]  # containers may promise a frame too many
    return torch.stack(frames).permute(0, 3, 1, 2).float() / 255
