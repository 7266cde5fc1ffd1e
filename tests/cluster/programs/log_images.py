"""hvd_yolo.train that writes down which images each update saw: `log_images STEM OPTIONS...`, to
STEM.rankN."""

import json
import sys
from pathlib import Path

from hvd_yolo import cli, step, train
from hvd_yolo.comm import launch


class LoggingStep(step.Step):
    """The real step; it only writes down the ids of the images that went through it."""

    def update(self, state, batches):
        seen = []
        update = state.updates
        rate = super().update(state, self._watch(batches, seen))
        with open(f"{OUTPUT}.rank{launch.launched_rank()}", "a") as file:
            file.write(json.dumps([update, seen]) + "\n")
        return rate

    def _watch(self, batches, seen):
        for batch in batches:
            seen.extend(item.image_id for item in batch.items)
            yield batch


if __name__ == "__main__":
    OUTPUT = Path(sys.argv.pop(1))
    train.Step = LoggingStep
    cli.run(train.main)
