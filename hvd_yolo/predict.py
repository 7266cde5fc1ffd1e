"""`python -m hvd_yolo.predict --weights runs/exp/checkpoints/best.pt --source FOLDER`: annotated
pictures, YOLO text and COCO results, on any number of ranks."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from hvd_yolo import checkpoint, cli
from hvd_yolo.comm import Comm, agree, connect, gather_json, launch, log
from hvd_yolo.config import PredictConfig, check_values, parse
from hvd_yolo.data.drawing import draw_boxes
from hvd_yolo.data.loader import Batch, evaluation_batches
from hvd_yolo.data.sources import Sources
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import detection_rows, results_json
from hvd_yolo.weights.trained import Trained, open_ensemble


def main(argv: Sequence[str]) -> None:
    """Each rank detects on its share; the results are gathered once."""
    config = parse(PredictConfig, argv, "hvd_yolo.predict")
    check_values(config)
    for key in ("weights", "source"):
        if not getattr(config, key):
            raise InputError(f"{key} is missing; see --help")
    comm = connect(config.comm, config.device)
    with agree(comm):
        trained = open_ensemble(config.weights, config.fuse, config)
        sources = Sources(config.source, trained.names)
    folder = config.output or (str(cli.next_free("predict")) if comm.is_main else "")
    folder = Path(gather_json(comm, folder)[0])
    with agree(comm):
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    rows = _detect(config, comm, trained, sources, folder)
    parts = gather_json(comm, rows.tolist())
    if comm.is_main:
        table = np.array([row for part in parts for row in part]).reshape(-1, 7)
        table = table[np.argsort(table[:, 0], kind="stable")]
        results = results_json(table, sources.category_ids)
        for result in results:
            result["file_name"] = sources.name(result["image_id"] - 1)
        checkpoint.save_text(folder / "detections.json", json.dumps(results))
        print(f"{len(results)} detections on {len(sources)} images: {folder}", flush=True)


def _detect(
    config: PredictConfig, comm: Comm, trained: Trained, sources: Sources, folder: Path
) -> np.ndarray:
    """(D, 7) of this rank's share, as evaluate.scoring.Table holds them; writes its pictures and
    texts."""
    model = trained.model.to(comm.device)
    size = config.imgsz or trained.config.imgsz
    workers = launch.loader_workers(config.workers, comm.own_cpus, comm.device)
    batches = evaluation_batches(sources, size, config.batch_size, comm.rank, comm.size, workers)
    rows = [np.zeros((0, 7))]
    for batch in batches:
        for message in batch.unreadable:
            log(comm).error("not detected on, an unreadable image: %s", message)
        for i, item_rows in enumerate(_rows_of(batch, model, comm.device)):
            item = batch.items[i]
            index = item.image_id - 1
            name = sources.name(index)
            picture = draw(sources.image(index), item_rows, trained.names)
            target = folder / "images" / name
            if not cv2.imwrite(str(target), picture):
                raise InputError(f"{target} cannot be written", rank=comm.rank)
            text = _yolo_text(item_rows, item.width, item.height)
            (folder / "labels" / f"{Path(name).stem}.txt").write_text(text)
            rows.append(item_rows)
    return np.concatenate(rows)


@torch.no_grad()
def _rows_of(batch: Batch, model: torch.nn.Module, device: torch.device) -> list[np.ndarray]:
    if not batch.items:
        return []
    images, _ = batch.to_model(device, next(model.parameters()).dtype)
    return [
        detection_rows(item, detections)
        for item, detections in zip(batch.items, model(images), strict=True)
    ]


def draw(image: np.ndarray, rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """A copy of a picture (H, W, 3) BGR with its detections (D, 7), the surest on top."""
    picture = image.copy()
    rows = rows[np.argsort(rows[:, 5], kind="stable")]
    scores, labels = rows[:, 5], rows[:, 6].astype(int)
    texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    draw_boxes(picture, rows[:, 1:5], labels, texts, max(1, round(max(image.shape[:2]) / 320)))
    return picture


def _yolo_text(rows: np.ndarray, width: int, height: int) -> str:
    """`class x y w h score` a line, as shares of the sides."""
    lines = []
    for _, left, top, right, bottom, score, label in rows.tolist():
        numbers = (
            (left + right) / 2 / width, (top + bottom) / 2 / height,
            (right - left) / width, (bottom - top) / height, score,
        )  # fmt: skip
        lines.append(f"{int(label)} " + " ".join(f"{number:.6f}" for number in numbers) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    cli.run(main, "a smaller --batch_size or --imgsz, or fewer --workers")
