"""The options of `python -m hvd_yolo.supervise`."""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt


@dataclass
class SuperviseConfig:
    """Start a job, named after --, again from its last checkpoint when it fails.

    Args:
        max_restarts: so often, then it is given up.
        backoff: seconds before the first restart, twice as many before each next one.
        most_backoff: but not more than these.
        grace: seconds that a job has to save and end when the supervisor is signalled.
    """

    max_restarts: NonNegativeInt = 10
    backoff: NonNegativeFloat = 5.0
    most_backoff: NonNegativeFloat = 300.0
    grace: NonNegativeFloat = 60.0
