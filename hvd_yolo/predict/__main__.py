"""`python -m hvd_yolo.predict --weights runs/exp/checkpoints/best.pt --source FOLDER`: annotated
pictures, YOLO text and COCO results, on any number of ranks."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hvd_yolo import checkpoint, cli
from hvd_yolo.comm import Comm, agree, connect, gather_json, log, send_to_main
from hvd_yolo.config import PredictConfig, check_values, parse
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.problems import log_problems
from hvd_yolo.data.source_files import SourceFiles, find_files, is_video
from hvd_yolo.data.sources import Sources
from hvd_yolo.data.streams import is_stream
from hvd_yolo.data.videos import frame_rate, measure, open_video
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import results_json
from hvd_yolo.feed import open_evaluation
from hvd_yolo.precision import evaluation_amp
from hvd_yolo.predict.annotated_video import AnnotatedVideo, refuse_video
from hvd_yolo.predict.detecting import Detected, detect
from hvd_yolo.predict.output_names import OutputNames, output_names, refuse_output
from hvd_yolo.predict.outputs import draw, entry_of
from hvd_yolo.predict.receiving import predict_stream
from hvd_yolo.value_range import range_as_trained
from hvd_yolo.weights.trained import Trained, open_ensemble, trained_amp


def main(argv: Sequence[str]) -> None:
    """Each rank detects on its share; the results are gathered once."""
    config = parse(PredictConfig, argv, "hvd_yolo.predict")
    check_values(config)
    for key in ("weights", "source"):
        if not getattr(config, key):
            raise InputError(f"{key} is missing; see --help")
    comm = connect(config.comm, config.device)
    with agree(comm):
        if config.video:
            refuse_video(Path(config.video))
        trained = open_ensemble(config.weights, config.fuse, config)
    if is_stream(config.source):
        predict_stream(config, comm, trained)
        return
    with agree(comm):
        found = find_files(config.source)
    _check_files(config, comm, found)
    if comm.is_main:
        log_problems(f"source {config.source}", found.problems)
    folder = _claim_output(config, comm, found)
    try:
        _predict_files(config, comm, trained, found, folder)
    finally:
        if not config.output:
            # Empty, when there was nothing to detect on.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _predict_files(
    config: PredictConfig, comm: Comm, trained: Trained, found: SourceFiles, folder: Path
) -> None:
    num_frames, unopened = _measure_videos(comm, found)
    sources = Sources(found, num_frames, trained.names, trained.category_ids)
    range_as_trained([sources], trained.config.loader.value_range, comm)
    outputs = output_names([sources.place(index) for index in range(len(sources))])
    detected = _detect(config, comm, trained, sources, outputs, folder)
    own = {
        "num_images": detected.num_images, "unreadable": detected.unreadable,
        "label": detected.label,
    }  # fmt: skip
    parts = gather_json(comm, own)
    rows = send_to_main(comm, torch.from_numpy(np.concatenate(detected.rows)))
    num_images = sum(part["num_images"] for part in parts)
    unreadable = unopened + [message for part in parts for message in part["unreadable"]]
    if not num_images:
        raise InputError(
            f"source {config.source!r}: nothing can be read, the first of "
            f"{len(unreadable)}: {unreadable[0]}"
        )
    if not comm.is_main:
        return
    _warn_of_scattered(comm, folder, [part["label"] for part in parts])
    table = torch.cat(rows).numpy()
    table = table[np.argsort(table[:, 0], kind="stable")]
    write_results(folder, table, sources, outputs)
    if config.video:
        _write_video(config, sources, found.files[0], table)
    lost = len(unreadable) + found.num_unusable
    ending = f" ({lost} more could not be read, see above)" if lost else ""
    print(f"{len(table)} detections on {num_images} images: {folder}{ending}", flush=True)


def _detect(
    config: PredictConfig,
    comm: Comm,
    trained: Trained,
    sources: Sources,
    outputs: list[OutputNames],
    folder: Path,
) -> Detected:
    """What this rank's share holds; its pictures and texts are written."""
    model = trained.model.to(comm.device, memory_format=torch.channels_last)
    amp = evaluation_amp(config.amp, trained_amp(trained.config), comm.device)
    size = config.imgsz or trained.config.imgsz
    batches = open_evaluation(sources, size, config.batch_size, config.workers, comm)
    detected = Detected()
    detect(model, batches, sources, outputs.__getitem__, folder, comm, detected, amp)
    return detected


def _warn_of_scattered(comm: Comm, folder: Path, labels: list[str]) -> None:
    """Names the ranks whose last text (labels) is not below the folder that rank 0 sees."""
    away = [
        rank
        for rank, label in enumerate(labels)
        if label and not (folder / "labels" / label).exists()
    ]
    if away:
        log(comm).warning(
            "output %s: the pictures and texts of rank %s lie on other hosts, in the folder of "
            "this name there; name one that all hosts share to have all in one",
            folder, ", ".join(map(str, away)),
        )  # fmt: skip


def write_results(
    folder: Path, table: np.ndarray, sources: Sources, outputs: Sequence[OutputNames]
) -> None:
    """Writes detections.json, of detections (D, 7)."""
    index_of_id = {sources.image_id(index): index for index in range(len(sources))}
    results = results_json(table, sources.category_ids)
    for result in results:
        index = index_of_id[result["image_id"]]
        result.update(entry_of(outputs[index], *sources.place(index)))
    checkpoint.save_text(folder / "detections.json", json.dumps(results))


def _measure_videos(comm: Comm, found: SourceFiles) -> tuple[list[int], list[str]]:
    """The number of frames of each file, 0 for a picture, and messages of videos that cannot be
    opened; each rank counts a share of them."""
    videos = [number for number, name in enumerate(found.names) if is_video(name)]
    own = {number: measure(found.files[number]) for number in videos[comm.rank :: comm.size]}
    num_frames, unopened = [0] * len(found.files), []
    lengths = {key: value for part in gather_json(comm, own) for key, value in part.items()}
    for number in videos:
        num_frames[number], stated = lengths[str(number)]
        name = found.names[number]
        if not num_frames[number]:
            unopened.append(f"{name}: not a video that OpenCV can decode")
            log(comm).warning("not detected on: %s", unopened[-1])
        elif num_frames[number] < stated:
            log(comm).warning(
                "%s: %d frames can be decoded, the file states %d", name, num_frames[number], stated
            )
    return num_frames, unopened


def _check_files(config: PredictConfig, comm: Comm, found: SourceFiles) -> None:
    """Each rank deals the files by itself, so all must see the same; and a video is of a video."""
    digest = hashlib.sha256(repr(found.names).encode(errors="surrogateescape")).hexdigest()
    seen = gather_json(comm, [len(found.names), digest])
    odd = [rank for rank, what in enumerate(seen) if what != seen[0]]
    if odd:
        raise InputError(
            f"source {config.source!r} is not the same on all hosts: rank 0 sees {seen[0][0]} "
            f"files, rank {odd[0]} sees {seen[odd[0]][0]}, or others"
        )
    if config.video and (len(found.names) > 1 or not is_video(found.names[0])):
        raise InputError(
            f"video {config.video}: an annotated video needs one video as its source, "
            f"{config.source!r} is {len(found.names)} files or a picture; leave --video out"
        )


def _claim_output(config: PredictConfig, comm: Comm, found: SourceFiles) -> Path:
    """The output folder, made on each rank."""
    folder = config.output or (str(cli.next_free("predict")) if comm.is_main else "")
    folder = Path(gather_json(comm, folder)[0])
    with agree(comm):
        refuse_output(folder, found.files, found.root, found.is_tree)
    with agree(comm), cli.output_file("output", str(folder / "detections.json")):
        pass
    return folder


def _write_video(config: PredictConfig, sources: Sources, file: Path, table: np.ndarray) -> None:
    """The frames of the source with the detections (D, 7) on them."""
    ids = table[:, 0]
    with AnnotatedVideo(Path(config.video), frame_rate(open_video(file))) as video:
        for index in range(len(sources)):
            of_frame = slice(*np.searchsorted(ids, (index + 1, index + 2)))
            # A frame that is missing here has been named.
            with contextlib.suppress(UnreadableImage):
                video.write(draw(sources.image(index), table[of_frame], sources.names))


if __name__ == "__main__":
    cli.run(main, "a smaller --batch_size or --imgsz, or fewer --workers")
