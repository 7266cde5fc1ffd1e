"""Inputs that a loader is tried with; without torch and pytest, which a worker would import too."""

import os
import signal

import numpy as np

from hvd_yolo.data.batch_layout import BatchLayout, slot_bytes, write_targets
from hvd_yolo.data.inputs import Filled, Item


class Numbers:
    """Batch i is one input of 2 x 2 pixels of value i; tells which process filled it, and whether
    its table was copied."""

    layout = BatchLayout(num_images=1, height=2, width=2, max_objects=8)
    slot_bytes = layout.num_bytes

    def __init__(self, ends_at=1000):
        self.table = np.arange(1_000_000)
        # As the boxes of a data set without an object.
        self.nothing = np.zeros((0, 4))
        self.ends_at = ends_at

    def fill(self, number, out):
        if number == self.ends_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.layout.images(out)[:] = number
        targets = write_targets(out, self.layout, [np.full((1, 4), number)], [np.array([number])])
        facts = f"{os.getpid()} {self.table.flags.owndata} {self.table[number]}"
        return Filled([Item(number, 1)], [facts], 2, 2, targets=targets)


class Tens(Numbers):
    """Batch i is of value 10 i, and larger."""

    layout = BatchLayout(num_images=1, height=4, width=8, max_objects=8)
    slot_bytes = layout.num_bytes

    def fill(self, number, out):
        filled = super().fill(number * 10, out)
        filled.width, filled.height = 8, 4
        return filled


class Crowded:
    """Batch i has i inputs of 32 x 32 pixels, input j with COUNTS[i][j] objects."""

    COUNTS = ([], [0], [3, 0], [1, 9, 2], [1200, 20, 0, 7], [2, 5, 8, 8, 1])
    slot_bytes = slot_bytes(5, 32)

    def fill(self, number, out):
        counts = self.COUNTS[number]
        filled = Filled([Item(i, count) for i, count in enumerate(counts)], [], 32, 32)
        filled.layout.images(out)[:] = number
        found = [objects(number, count) for count in counts]
        boxes, labels = [boxes for boxes, _ in found], [labels for _, labels in found]
        filled.targets = write_targets(out, filled.layout, boxes, labels)
        return filled


def objects(number, count):
    """Boxes (count, 4) and labels (count) of a batch."""
    rng = np.random.default_rng(number * 1000 + count)
    return rng.uniform(0, 32, (count, 4)), rng.integers(0, 80, count)
