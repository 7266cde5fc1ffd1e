"""predict on what comes over the network."""

import functools
import http.server
import json
import signal
import subprocess
import threading
import time

import cv2
import numpy as np
import pytest

from hvd_yolo.data.dataset import Dataset, load_sample
from hvd_yolo.data.streams import FrameBlock, Stream, shown
from hvd_yolo.errors import InputError
from tests.conftest import command_for, job_environment, needs_mpi, run_job
from tests.predict.conftest import frames_read, picture, tree


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


class Camera(Quiet):
    """JPEGs without end, as network cameras send them."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        seed = 0
        try:
            while True:
                image = cv2.imencode(".jpg", picture(seed % 20))[1].tobytes()
                head = (
                    f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
                )
                self.wfile.write(head.encode() + image + b"\r\n")
                time.sleep(0.02)
                seed += 1
        except OSError:
            # The receiver has gone.
            return


@pytest.fixture
def serve():
    """Starts a server for a kind of request; gives its address."""
    servers = []

    def start(handler):
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("name", ["b_frames.mp4", "transport.ts"])
def test_a_stream_gives_what_its_file_gives(predict, videos, tmp_path, serve, name):
    address = serve(functools.partial(Quiet, directory=videos))
    film = tmp_path / "film.mp4"
    options = ("--batch_size", "5", "--video", film)
    told, entries = predict(f"{address}/{name}", tmp_path / "stream", *options)
    _, expected = predict(videos / name, tmp_path / "file", "--batch_size", "5")
    assert f"on {len(frames_read(videos / name))} images" in told
    for one, other in zip(entries, expected, strict=True):
        assert one.pop("video") == f"{address}/{other.pop('video')}"
        assert one == other
    for part in ("images", "labels"):
        assert tree(tmp_path / "stream" / part) == tree(tmp_path / "file" / part)
    assert len(frames_read(film)) == len(tree(tmp_path / "stream" / "images"))


def test_a_stream_ends_at_ctrl_c_with_everything_saved(weights, tmp_path, serve):
    address = serve(Camera)
    output = tmp_path / "out"
    words = ["--weights", weights, "--source", f"{address}/camera", "--output", output,
             "--batch_size", "2", "--conf", "0.001", "--device", "cpu"]  # fmt: skip
    command = command_for(1, ["-m", "hvd_yolo.predict", *map(str, words)])
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=job_environment())
    deadline = time.monotonic() + 60
    while not (output / "labels" / "camera_000004.txt").exists():
        assert time.monotonic() < deadline
        assert job.poll() is None
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    told, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    number = len(tree(output / "images"))
    assert f"on {number} images" in told
    assert "stopped on request" in told
    entries = json.loads((output / "detections.json").read_text())
    assert {entry["frame"] for entry in entries} <= set(range(1, number + 1))


@needs_mpi
def test_a_stream_has_one_receiver(weights):
    words = ["--weights", str(weights), "--source", "rtsp://user:secret@127.0.0.1:9/live"]
    done = run_job(2, ["-m", "hvd_yolo.predict", *words])
    assert done.returncode == 2
    assert "start one rank" in done.stderr
    assert "secret" not in done.stderr


def test_a_stream_that_cannot_be_opened_is_named(serve, tmp_path):
    address = serve(functools.partial(Quiet, directory=tmp_path))
    with pytest.raises(InputError, match=r"source http://127.0.0.1:\d+/none.mp4: .*opened"):
        Stream(f"{address}/none.mp4?token=secret")


def test_an_address_is_shown_without_its_secrets():
    assert shown("rtsp://me:pass@host:554/live/1?key=x") == "rtsp://host:554/live/1"


_MEMBERS = {*Dataset.__annotations__, *(key for key in vars(Dataset) if not key.startswith("_"))}


def test_frames_of_a_stream_are_a_complete_data_set():
    frame = np.full((24, 32, 3), 7, np.uint8)
    block = FrameBlock(("a",), (1,), [frame], 5, "stream")
    missing = [name for name in _MEMBERS if not hasattr(block, name)]
    assert not missing
    sample = load_sample(block, 0)
    assert (sample.width, sample.height, len(sample.boxes), sample.image_id) == (32, 24, 0, 5)
