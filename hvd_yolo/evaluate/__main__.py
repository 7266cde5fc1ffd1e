"""`python -m hvd_yolo.evaluate --weights runs/exp/checkpoints/best.pt [--data ...] [--split test]`,
on any number of ranks."""

import json
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo import cli
from hvd_yolo.comm import agree, connect, launch
from hvd_yolo.config import EvaluateConfig, check_values, parse
from hvd_yolo.data import different_names, open_dataset
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import evaluate, results_json
from hvd_yolo.evaluate.scoring import COCO_NUMBERS
from hvd_yolo.feed import refuse_different, told
from hvd_yolo.models.ensemble import Ensemble
from hvd_yolo.weights.trained import open_ensemble


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
        dataset = open_dataset(config.data or trained.config.data, config.split)
        if dataset.names != trained.names:
            raise InputError(different_names("the data", dataset.names, trained.names))
    refuse_different(told({config.split: dataset}), config.data or trained.config.data, comm)
    if isinstance(trained.model, Ensemble):
        # Fused detections have no loss.
        config.eval.loss = False
    model = trained.model.to(comm.device)
    size = config.imgsz or trained.config.imgsz
    workers = launch.loader_workers(config.workers, comm.own_cpus, comm.device)
    batches = evaluation_batches(
        dataset, size, config.eval.batch_size or config.batch_size, comm.rank, comm.size, workers
    )
    found = evaluate(model, dataset, batches, comm, config.eval)
    if comm.is_main:
        if config.results:
            results = results_json(found.table.detections, dataset.category_ids)
            Path(config.results).write_text(json.dumps(results), encoding="utf-8")
        for name in (*COCO_NUMBERS, "precision", "recall", "f1", "threshold"):
            value = found.metrics[name]
            print(f"{name:<10} {'undefined' if value is None else f'{value:.4f}'}")
        for name, numbers in found.metrics["per_class"].items():
            print(
                f"class {name}: "
                + ("no truth" if numbers["AP"] is None else f"AP {numbers['AP']:.4f}")
            )
        print(json.dumps(found.metrics), flush=True)


if __name__ == "__main__":
    cli.run(main)
