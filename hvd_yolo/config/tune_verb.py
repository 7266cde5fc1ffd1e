"""The options of `python -m hvd_yolo.tune`."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt


@dataclass
class TuneConfig:
    """Search for the best options of training, trials side by side on groups of the job's ranks.

    Args:
        space: YAML file that maps options of training to lists or ranges, see docs/tune.md. What
            all trials have in common follows after --, as in -- --data coco.yaml --epochs 30.
        trials: so many in all; those of earlier starts count, and those that failed. A grid has at
            most its points.
        ranks_per_trial: ranks of the job that train one trial, on one host where they can.
        output: folder of the study; one that is there goes on.
        metric: number of an eval line that is searched for, of a trial's best evaluation: the
            highest, of val_loss the lowest. Best.pt is the best by it too.
        sampler: grid (all points, in an order drawn by seed), random, tpe (Bergstra et al. 2011)
            or gp (a Gaussian process).
        pruner: asha (Li et al. 2020) ends trials that are behind others at the same epoch, or none.
        min_epochs: asha: no trial ends sooner; 3, as long as the usual warmup.
        reduction: asha: one of so many goes on at min_epochs, at min_epochs x reduction, and so on.
        seed: of the sampler. That of training is an option like others.
        grace: seconds that a trial has to save and end when the job is stopped, or asha ends it.
        plots: draw plots/ when the job ends.
    """

    space: str = ""
    trials: PositiveInt = 20
    ranks_per_trial: PositiveInt = 1
    output: str = "runs/tune"
    metric: str = "AP"
    sampler: Literal["grid", "random", "tpe", "gp"] = "tpe"
    pruner: Literal["asha", "none"] = "asha"
    min_epochs: PositiveInt = 3
    reduction: PositiveInt = 3
    seed: NonNegativeInt = 0
    grace: NonNegativeFloat = 60.0
    plots: bool = True
