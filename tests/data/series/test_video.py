import numpy as np
import pytest
import torch
from PIL import Image

from geossl.data.series.batches import VideoClips, video_clips
from geossl.data.series.video import find_videos, read_frames
from geossl.errors import InputError, MissingFileError, RunError

av = pytest.importorskip("av")


def picture(number, side=32):
    """Grey that tells the number of the frame, darker to the left."""
    grey = np.full((side, side, 3), 10 + 12 * number, np.uint8)
    grey[:, : side // 2] //= 2
    return grey


def write_video(path, frames=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())


def write_frames(folder, frames=12):
    folder.mkdir(parents=True)
    for number in range(frames):
        Image.fromarray(picture(number)).save(folder / f"{number:04d}.png")


def level(frame):
    """Number of the frame by its grey."""
    return (float(frame[:, :, 20:].mean()) * 255 - 10) / 12


def test_files_and_folders_of_frames_are_found_with_their_classes(tmp_path):
    write_video(tmp_path / "run" / "a.mp4")
    write_frames(tmp_path / "walk" / "b")
    found = find_videos(tmp_path)
    assert [(v.path.name, v.frames, v.label) for v in found] == [("a.mp4", 12, "run"), ("b", 12, "walk")]


@pytest.mark.parametrize("kind", ["file", "frames"])
def test_the_asked_frames_are_read(tmp_path, kind):
    write_video(tmp_path / "a.mp4") if kind == "file" else write_frames(tmp_path / "a")
    frames = read_frames(find_videos(tmp_path)[0], [1, 6, 6, 11])
    assert frames.shape == (4, 3, 32, 32)
    assert [level(f) for f in frames] == pytest.approx([1, 6, 6, 11], abs=0.5)
    assert 0 <= float(frames.min()) < float(frames.max()) <= 1


def test_clips_take_frames_at_equal_steps_of_their_span_and_flip_all_alike(tmp_path):
    write_frames(tmp_path / "a")
    clips = VideoClips(find_videos(tmp_path), frames=4, chip_px=16, seed=0, span=8)
    sides = set()
    for number in range(8):
        clip = clips[number]
        assert clip["clip"].shape == (4, 3, 16, 16)
        assert np.diff(clip["days"]).tolist() == [2, 2, 2]
        brighter_right = (
            clip["clip"][:, :, :, -3:].mean((1, 2, 3)) > clip["clip"][:, :, :, :3].mean((1, 2, 3))
        ).tolist()
        assert len(set(brighter_right)) == 1
        sides.add(brighter_right[0])
    assert sides == {True, False}
    assert torch.equal(clips[3]["clip"], VideoClips(find_videos(tmp_path), 4, 16, 0, 8)[3]["clip"])


def test_a_short_video_is_taken_whole(tmp_path):
    write_frames(tmp_path / "a", frames=3)
    days = VideoClips(find_videos(tmp_path), frames=6, chip_px=16, seed=0, span=64)[0]["days"]
    assert days.tolist() == [0, 0, 1, 1, 2, 2]


def test_what_is_no_video_is_refused_by_name(tmp_path):
    with pytest.raises(MissingFileError, match="expected one with videos"):
        video_clips(tmp_path / "nowhere", 4, 16, 0, 8)
    with pytest.raises(InputError, match="holds neither a video"):
        find_videos(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="broken.mp4 cannot be decoded"):
        find_videos(tmp_path)


def test_frames_of_different_sizes_are_refused(tmp_path):
    write_frames(tmp_path / "a", 3)
    Image.fromarray(picture(0, 16)).save(tmp_path / "a" / "9.png")
    with pytest.raises(RunError, match="frames of different sizes"):
        read_frames(find_videos(tmp_path)[0], [0, 3])


def test_without_pyav_files_are_refused_with_advice(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'geossl\[video\]'"):
        find_videos(tmp_path)
