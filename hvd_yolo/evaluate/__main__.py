"""`python -m hvd_yolo.evaluate --weights runs/exp/checkpoints/best.pt [--data ...] [--split test]`,
on any number of ranks."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hvd_yolo import cli
from hvd_yolo.checkpoint import save_text
from hvd_yolo.comm import agree, connect, log
from hvd_yolo.config import EvaluateConfig, check_values, parse
from hvd_yolo.data import open_dataset
from hvd_yolo.data.digest import summary
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import evaluate, in_annotation_frame, results_json
from hvd_yolo.evaluate.classes import match_classes
from hvd_yolo.evaluate.limits import warn_of_limits
from hvd_yolo.evaluate.scoring import COCO_NUMBERS
from hvd_yolo.feed import open_evaluation, refuse_different
from hvd_yolo.models.ensemble import Ensemble
from hvd_yolo.once_per_host import read_once_per_host
from hvd_yolo.precision import evaluation_amp
from hvd_yolo.value_range import range_as_trained
from hvd_yolo.weights.trained import open_ensemble, trained_amp


def main(argv: Sequence[str]) -> None:
    """Prints the numbers on rank 0, as a table and as one line of JSON."""
    config = parse(EvaluateConfig, argv, "hvd_yolo.evaluate")
    check_values(config)
    if not config.weights:
        raise InputError(
            "weights is missing: name the checkpoint to score, --weights RUN/checkpoints/best.pt"
        )
    comm = connect(config.comm, config.device)
    with agree(comm):
        trained = open_ensemble(config.weights, config.fuse, config.eval)
    data = config.data or trained.config.data
    dataset = read_once_per_host(comm, data, partial(open_dataset, data, config.split))
    with agree(comm):
        _check_output(config, dataset.has_truth, data, comm.is_main)
        classes, told = match_classes(dataset, trained.names, config.classes, data)
    refuse_different({config.split: summary(dataset)}, data, comm)
    range_as_trained([dataset], trained.config.loader.value_range, comm)
    if told and comm.is_main:
        log(comm).warning(told)
    # Fused detections have no loss, nor has the model one of other classes.
    is_loss_known = dataset.has_truth and classes.is_identity
    if isinstance(trained.model, Ensemble) or not is_loss_known:
        config.eval.loss = False
    model = trained.model.to(comm.device, memory_format=torch.channels_last)
    size = config.imgsz or trained.config.imgsz
    block = config.eval.batch_size or config.batch_size
    batches = open_evaluation(dataset, size, block, config.workers, comm)
    amp = evaluation_amp(config.eval.amp, trained_amp(trained.config), comm.device)
    found = evaluate(model, dataset, batches, comm, config.eval, classes, amp)
    if dataset.has_truth:
        warn_of_limits(found.table, config.eval, comm)
    if comm.is_main:
        if config.results:
            detections = in_annotation_frame(found.table.detections, found.turned)
            results = results_json(detections, classes.category_ids)
            save_text(Path(config.results), json.dumps(results))
        _print(found.metrics, config)


def _check_output(config: EvaluateConfig, has_truth: bool, data: str, is_main: bool) -> None:
    """Raises InputError where nothing would come of the evaluation."""
    folder = Path(config.results).parent
    if is_main and config.results and not folder.is_dir():
        raise InputError(f"results {config.results}: there is no folder {folder}")
    if not has_truth and not config.results:
        raise InputError(
            f"data {data}: the {config.split} split has no annotations, so there is no ground "
            "truth to score against; --results FILE.json writes the detections for who has it"
        )


def _print(metrics: dict[str, Any], config: EvaluateConfig) -> None:
    if "AP" not in metrics:
        print(
            f"{config.results}: the detections on {metrics['images']} images; the {config.split} "
            "split has no annotations, so there is no ground truth to score against"
        )
    else:
        for name in (*COCO_NUMBERS, "precision", "recall", "f1", "threshold"):
            value = metrics[name]
            print(f"{name:<10} {'undefined' if value is None else f'{value:.4f}'}")
        for name, numbers in metrics["per_class"].items():
            print(
                f"class {name}: "
                + ("no truth" if numbers["AP"] is None else f"AP {numbers['AP']:.4f}")
            )
    print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    cli.run(main, "a smaller --batch_size or --imgsz, or fewer --workers")
