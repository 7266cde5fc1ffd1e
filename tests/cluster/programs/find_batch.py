"""Finds the batch size of YOLOv8n at 128 pixels on ranks that are told how much memory is free, and
prints it with the memory that a batch of that size then takes: `find_batch MEGABYTES_OF_RANK_0 ...`

With ADDRESS_SPACE in place of a number the rank thinks it has 8 GB, and the kernel refuses more
than 300 MB.
"""

import json
import resource
import sys

from hvd_yolo import autobatch, cli, config
from hvd_yolo.comm import connect, launch
from hvd_yolo.config import CommConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.memory import MemoryMeter, _status
from hvd_yolo.models.losses import own_losses
from hvd_yolo.state import new_state

TOLD = sys.argv[1:][launch.launched_rank()]


class TightMeter(MemoryMeter):
    """The real meter, of a device with less memory."""

    def __init__(self, device, num_sharing):
        super().__init__(device, num_sharing)
        self.available = 8 * 10**9 if TOLD == "ADDRESS_SPACE" else int(TOLD) * 10**6


def main(_):
    options = config.load(["--data", "shapes:1600", "--imgsz", "128", "--train.amp", "none"])
    comm = connect(CommConfig(), "cpu")
    train_set = open_dataset(options.data, "train")
    state = new_state(options, 6, comm.device)
    # Counting objects draws the images, which then lie in memory before it is measured.
    autobatch._densest_images(train_set, is_mosaic=True)
    if TOLD == "ADDRESS_SPACE":
        limit = _status("VmSize") + 300 * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    autobatch.MemoryMeter = TightMeter
    meter = MemoryMeter(comm.device, 1)
    found = autobatch.find_batch_size(state.model, options, comm, train_set)
    told = {"images": found}
    if TOLD != "ADDRESS_SPACE":
        trial = autobatch._Trial(state.model, own_losses, "none", 128, [20], 6)
        told["peak"] = meter.peak(lambda: trial.run(found))
    print("FOUND " + json.dumps(told), flush=True)


if __name__ == "__main__":
    cli.run(main)
