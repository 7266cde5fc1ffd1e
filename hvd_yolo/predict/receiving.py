"""Detection on a stream, until it ends or the user stops it."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from hvd_yolo import checkpoint, cli
from hvd_yolo.comm import Comm
from hvd_yolo.config import PredictConfig
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.data.sources import Place
from hvd_yolo.data.streams import FrameBlock, Stream, blocks, shown
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import results_json
from hvd_yolo.precision import evaluation_amp
from hvd_yolo.predict.annotated_video import AnnotatedVideo
from hvd_yolo.predict.detecting import Detected, detect
from hvd_yolo.predict.output_names import OutputNames, output_names, refuse_output
from hvd_yolo.predict.outputs import draw, entry_of
from hvd_yolo.weights.trained import Trained, trained_amp


def predict_stream(config: PredictConfig, comm: Comm, trained: Trained) -> None:
    """Detects on the frames of config.source as they come; raises InputError on several ranks, or
    when there is no stream."""
    if comm.size > 1:
        raise InputError(
            f"source {shown(config.source)}: {comm.size} ranks would each receive the stream at "
            "times of their own and could not share its frames out: start one rank"
        )
    folder = Path(config.output or cli.next_free("predict"))
    refuse_output(folder, [], Path(), is_tree=False)
    detected = Detected()
    with _stop_request() as is_stopped:
        stream = Stream(config.source)
        output = AnnotatedVideo(Path(config.video), stream.rate) if config.video else nullcontext()
        with output as video:
            for block in blocks(
                stream, config.batch_size, trained.names, trained.category_ids, is_stopped
            ):
                _detect_block(config, comm, trained, block, folder, detected, video)
    if not detected.num_images:
        raise InputError(f"source {stream.shown}: no frame came that OpenCV can decode")
    table = np.concatenate(detected.rows)
    results = results_json(table, trained.category_ids)
    for result in results:
        place = Place(stream.name, result["image_id"])
        result.update(entry_of(_output(place), stream.shown, place.frame))
    checkpoint.save_text(folder / "detections.json", json.dumps(results))
    ending = ", stopped on request" if is_stopped() else ""
    print(f"{len(table)} detections on {detected.num_images} images: {folder}{ending}", flush=True)


def _detect_block(
    config: PredictConfig,
    comm: Comm,
    trained: Trained,
    block: FrameBlock,
    folder: Path,
    detected: Detected,
    video: AnnotatedVideo | None,
) -> None:
    model = trained.model.to(comm.device, memory_format=torch.channels_last)
    size = config.imgsz or trained.config.imgsz
    batches = evaluation_batches(block, size, len(block), 0, 1, 0)
    before = len(detected.rows)
    amp = evaluation_amp(config.amp, trained_amp(trained.config), comm.device)
    detect(model, batches, block, lambda i: _output(block.place(i)), folder, comm, detected, amp)
    if video is not None:
        for frame, rows in zip(block.frames, detected.rows[before:], strict=True):
            video.write(draw(frame, rows, trained.names))


def _output(place: Place) -> OutputNames:
    return output_names([place])[0]


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM are noted, and a second one ends the process; gives whether one
    has come."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        """Signal handler."""
        asked.append(number)
        for each in previous:
            signal.signal(each, signal.SIG_DFL)

    previous = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
