"""predict on videos: frame k is the k-th that is read from the start, on any number of ranks."""

import json
import pickle

import cv2
import numpy as np
import pytest

from hvd_yolo.data.source_files import find_files
from hvd_yolo.data.sources import Sources
from hvd_yolo.data.videos import measure
from hvd_yolo.errors import InputError
from hvd_yolo.predict.annotated_video import AnnotatedVideo
from tests.conftest import needs_mpi, run_job
from tests.predict.conftest import ffmpeg, frames_read, save_picture, tree

NAMES = (
    "b_frames.mp4", "cut.mp4", "cut.ts", "half.avi", "motion.avi", "mpeg1.mpg", "mpeg2.mpg",
    "transport.ts", "variable.mp4", "vp9.webm",
)  # fmt: skip


def open_video(file):
    found = find_files(str(file))
    return Sources(found, [measure(file).num_frames], ("a",), (1,))


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_the_one_that_is_read_in_its_turn(videos, name):
    expected = frames_read(videos / name)
    sources = open_video(videos / name)
    assert len(sources) == len(expected) > 5
    # As ranks and workers are dealt them, and once more from the start.
    for indices in (range(0, len(sources), 3), range(1, len(sources), 2), [3, 0]):
        copy = pickle.loads(pickle.dumps(sources))
        for index in indices:
            assert np.array_equal(copy.scaled(index, 1 << 30).pixels(), expected[index])
            assert np.array_equal(copy.image(index), expected[index])


def test_a_turned_video_has_the_frames_as_they_are_shown(videos, tmp_path):
    file = tmp_path / "turned.mp4"
    try:
        ffmpeg("-display_rotation", "90", "-i", videos / "b_frames.mp4", "-c", "copy", file)
    except Exception:
        # FFmpeg before version 6.
        ffmpeg("-i", videos / "b_frames.mp4", "-c", "copy", "-metadata:s:v", "rotate=90", file)
    expected = frames_read(file)
    assert expected[0].shape == (64, 48, 3)
    sources = open_video(file)
    assert np.array_equal(sources.image(7), expected[7])
    assert (sources.scaled(7, 32).width, sources.scaled(7, 32).height) == (48, 64)


def run(weights, source, output, num_ranks, *options):
    common = ("--weights", weights, "--conf", "0.001", "--max_detections", "5", "--device", "cpu",
              "--batch_size", "4")  # fmt: skip
    words = [*common, "--source", source, "--output", output, *options]
    done = run_job(num_ranks, ["-m", "hvd_yolo.predict", *map(str, words)])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@needs_mpi
def test_any_number_of_ranks_and_workers_gives_the_same_files(weights, videos, tmp_path):
    """And they are those of the frames saved as pictures."""
    pictures = tmp_path / "pictures"
    for name in NAMES:
        for number, frame in enumerate(frames_read(videos / name), 1):
            file = pictures / name.replace(".", "_") / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), frame)
    outputs = {}
    for num_ranks, workers in ((1, 0), (2, 2), (3, 0)):
        output = tmp_path / str(num_ranks)
        told = run(weights, videos, output, num_ranks, "--workers", workers)
        assert told.count("half.avi: ") == 1
        outputs[num_ranks] = {name: (output / name).read_bytes() for name in tree(output)}
    assert outputs[1] == outputs[2] == outputs[3]
    run(weights, pictures, tmp_path / "of_pictures", 1, "--workers", "0")
    results, expected = (
        json.loads((tmp_path / name / "detections.json").read_text())
        for name in ("1", "of_pictures")
    )
    keys = ("image_id", "category_id", "bbox", "score")
    assert [[r[k] for k in keys] for r in results] == [[r[k] for k in keys] for r in expected]
    assert [f"{r['video'].replace('.', '_')}/{r['frame']:03}.png" for r in results] == [
        r["file_name"] for r in expected
    ]
    assert {r["file_name"] for r in results} <= set(tree(tmp_path / "1" / "images"))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_an_annotated_video_has_all_frames_in_order(predict, videos, tmp_path, suffix):
    film = tmp_path / f"film{suffix}"
    predict(videos / "variable.mp4", tmp_path / "out", "--video", film)
    drawn = frames_read(film)
    names = tree(tmp_path / "out" / "images")
    assert len(drawn) == len(names) == len(frames_read(videos / "variable.mp4"))
    pictures = [cv2.imread(str(tmp_path / "out" / "images" / name)) for name in names]
    # Each is nearer to its own picture than to any other.
    for number, frame in enumerate(drawn):
        distances = [float(np.abs(frame.astype(int) - p).mean()) for p in pictures]
        assert distances.index(min(distances)) == number
    rates = [
        cv2.VideoCapture(str(f)).get(cv2.CAP_PROP_FPS) for f in (film, videos / "variable.mp4")
    ]
    assert rates[0] == pytest.approx(rates[1], rel=0.01)
    assert tree(tmp_path) == sorted(
        [film.name, *(f"out/{name}" for name in tree(tmp_path / "out"))]
    )


def test_an_annotated_video_is_written_over_nothing(predict, videos, tmp_path):
    file = videos / "motion.avi"
    before = file.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        predict(file, tmp_path / "out", "--video", file)
    assert file.read_bytes() == before
    with pytest.raises(InputError, match="suffix must be one of"):
        predict(file, tmp_path / "out", "--video", tmp_path / "film.gif")
    for source in (videos, save_picture(tmp_path / "a.jpg")):
        with pytest.raises(InputError, match="needs one video as its source"):
            predict(source, tmp_path / "out", "--video", tmp_path / "film.mp4")
    assert not (tmp_path / "out").exists()


def test_a_video_that_cannot_be_opened_is_counted(predict, videos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "in" / "good.ts").write_bytes((videos / "cut.ts").read_bytes())
    told, entries = predict(tmp_path / "in", tmp_path / "out")
    assert f"on {len(frames_read(videos / 'cut.ts'))} images" in told
    assert "(1 more could not be read" in told
    assert {entry["video"] for entry in entries} == {"good.ts"}


def test_an_annotated_video_that_ends_in_an_error_leaves_nothing(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(KeyError), AnnotatedVideo(tmp_path / "out.avi", 25.0) as video:
        video.write(picture)
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with AnnotatedVideo(tmp_path / "out.avi", 25.0) as video:
        video.write(picture)
    assert [file.name for file in tmp_path.iterdir()] == ["out.avi"]
