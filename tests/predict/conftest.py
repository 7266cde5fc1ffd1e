"""A detector that finds something anywhere, and pictures and videos to show it."""

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from hvd_yolo import checkpoint
from hvd_yolo.config import Config, to_yaml
from hvd_yolo.data.category_ids import category_ids_of
from hvd_yolo.predict.__main__ import main
from tests.teachers import sure_model

NAMES = ("cell", "plate", "dust")


def write_checkpoint(path, category_ids):
    """Equal weights for any category ids."""
    content = {
        "config": to_yaml(Config(model="yolov8n", imgsz=64)),
        "names": list(NAMES),
        "category_ids": list(category_ids),
        "weights": sure_model("yolov8n", len(NAMES)).float().state_dict(),
    }
    checkpoint.save(path, content)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt", category_ids_of(NAMES))


@pytest.fixture
def predict(weights, capsys):
    """Runs predict in this process; what it printed, and the entries of detections.json."""

    def run(source, output, *options):
        common = ("--weights", weights, "--conf", "0.001", "--max_detections", "20",
                  "--workers", "0", "--device", "cpu")  # fmt: skip
        words = ("--source", source, "--output", output, *common, *options)
        main([str(word) for word in words])
        entries = json.loads((Path(output) / "detections.json").read_text())
        return capsys.readouterr().out, entries

    return run


def picture(seed, width=64, height=48):
    """Smooth and coloured (H, W, 3), another for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def save_picture(file, seed=0):
    """Writes one in the format of the suffix, a JPEG where that is no format of OpenCV's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    suffix = file.suffix if file.suffix in (".png", ".jpg", ".bmp", ".tif") else ".jpg"
    file.write_bytes(cv2.imencode(suffix, picture(seed))[1].tobytes())
    return file


def tree(folder):
    """The files below a folder."""
    return sorted(f.relative_to(folder).as_posix() for f in Path(folder).rglob("*") if f.is_file())


def ffmpeg(*words, frames=b""):
    """Runs FFmpeg, of the system or of the package imageio-ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None:
        program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [program, "-loglevel", "error", "-y", *map(str, words)]
    subprocess.run(command, input=frames, check=True)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder of the kinds of video in which frames are not where their numbers say."""
    folder = tmp_path_factory.mktemp("videos")
    content = b"".join(picture(seed).tobytes() for seed in range(24))
    raw = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "64x48", "-r", "25", "-i", "-")
    h264 = ("-c:v", "libx264", "-bf", "3", "-g", "10", "-pix_fmt", "yuv420p")
    variable = ("-vf", "select='gt(n,14)+not(mod(n,3))'", "-fps_mode", "vfr")
    for name, options in {
        "b_frames.mp4": h264,
        "mpeg1.mpg": ("-c:v", "mpeg1video"),
        "mpeg2.mpg": ("-c:v", "mpeg2video", "-bf", "2", "-g", "10"),
        "transport.ts": h264,
        "variable.mp4": (*variable, *h264),
        "vp9.webm": ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p"),
    }.items():
        ffmpeg(*raw, *options, folder / name, frames=content)
    for suffix, source in ((".mp4", "b_frames.mp4"), (".ts", "transport.ts")):
        ffmpeg("-ss", "0.5", "-i", folder / source, "-c", "copy", folder / f"cut{suffix}")
    motion = cv2.VideoWriter(
        str(folder / "motion.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48)
    )
    for seed in range(24):
        motion.write(picture(seed))
    motion.release()
    whole = (folder / "motion.avi").read_bytes()
    (folder / "half.avi").write_bytes(whole[: len(whole) // 2])
    return folder


def frames_read(file):
    """The frames that OpenCV reads one after the other."""
    video = cv2.VideoCapture(str(file))
    frames = []
    while (frame := video.read()[1]) is not None:
        frames.append(frame)
    video.release()
    return frames
