"""Images with more objects than an evaluation keeps or counts detections."""

import numpy as np

from hvd_yolo.comm import Comm, log
from hvd_yolo.config import EvalConfig
from hvd_yolo.evaluate.scoring import Table


def warn_of_limits(table: Table, options: EvalConfig, comm: Comm) -> None:
    """Rank 0 logs limit_warnings(): all ranks have the same table."""
    if comm.is_main:
        for warning in limit_warnings(table, options):
            log(comm).warning(warning)


def limit_warnings(table: Table, options: EvalConfig) -> list[str]:
    """What keeps the scores of this truth below 1, however good the detections are, and the
    remedy."""
    objects = table.truths[table.truths[:, 7] == 0]
    _, of_image = np.unique(objects[:, 0], return_counts=True)
    pairs, of_class = np.unique(objects[:, [0, 5]], axis=0, return_counts=True)
    kept, (one, ten, counted) = options.max_detections, options.max_dets
    warnings = []
    if (crowded := of_class > counted).any():
        warnings.append(
            f"{len(np.unique(pairs[crowded, 0]))} images hold more than {counted} objects of one "
            f"class, up to {of_class.max()}, and eval.max_dets counts the {counted} best "
            "detections of a class: AP stays below 1; --eval.max_dets "
            f'"[{one},{ten},{of_class.max()}]"'
        )
    if (crowded := of_image > kept).any():
        warnings.append(
            f"{crowded.sum()} images hold more than {kept} objects, up to {of_image.max()}, and "
            f"eval.max_detections keeps {kept} detections of an image: AP stays below 1; "
            f"--eval.max_detections {of_image.max()}"
        )
    elif kept < counted:
        warnings.append(
            f"eval.max_detections keeps {kept} detections of an image, fewer than the {counted} of "
            f"a class that eval.max_dets counts; --eval.max_detections {counted}"
        )
    return warnings
