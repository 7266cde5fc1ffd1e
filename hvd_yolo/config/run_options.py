"""The options of what a run writes, how it is evaluated, and its teacher."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class CheckpointConfig:
    """When the training state is written.

    Args:
        every_updates: also write last.pt every so many updates; 0 writes it at the end of each
            epoch only. Ranks that keep something to themselves (comm.sync_every, powersgd, topk)
            put it together there.
        every_minutes: also after so many minutes without, at the end of an update; 0: never.
        every_epochs: also keep epoch_NNN.pt every so many epochs; 0 keeps none.
        keep: so many of last.pt: that one, last-1.pt and so on, in case a disk damages one.
        on_failure: what a full disk does: stop, or go_on with the checkpoint before.
    """

    every_updates: int = 0
    every_minutes: float = 0.0
    every_epochs: int = 0
    keep: int = 2
    on_failure: Literal["stop", "go_on"] = "stop"


def is_lowest_best(metric: str) -> bool:
    """Whether the lower number of an evaluation is the better."""
    return metric == "val_loss"


@dataclass
class EvalConfig:
    """Evaluation on the val split, by all ranks.

    Args:
        every: evaluate after every so many epochs, and after the last; 0: not by them, and never
            if the two below are 0 as well.
        every_updates: also after every so many updates; 0: not by them. Ranks that keep something
            to themselves (comm.sync_every, powersgd, topk) put it together there.
        every_minutes: also after so many minutes without, at the end of an update; 0: not by them.
        metric: what best.pt is the best by, and patience looks at; of val_loss, the lowest.
        patience: stop after so many evaluations in a row without a better one; 0: never.
        batch_size: images a forward pass; 0 takes batch_size of the training.
        conf: detections below this score are dropped.
        iou: overlap above which the weaker of two detections of one class is dropped.
        max_detections: detections kept an image, of all classes together.
        max_dets: three numbers: how many detections of a class of an image COCO's scorer counts.
            AR_1, AR_10 and AR_100 are the recalls at the first, second and third, whatever they
            are; AP, precision and all else count the third. For images of more than 100 objects:
            "[1,10,500]", with max_detections as large.
        loss: compute the validation loss too.
        max_unreadable: unreadable images that are named and left out of the score before it is an
            error, as loader.max_unreadable: a fraction below 1 or a count, and never all images;
            the metrics tell how many they were.
        scorer: pycocotools, faster-coco-eval (the same numbers, several times faster), or auto: the
            faster where installed.
        amp: forward passes in none (float32), bf16, fp16, or auto: on a GPU as train.amp, on the
            CPU none.
    """

    every: int = 1
    every_updates: int = 0
    every_minutes: float = 0.0
    metric: Literal[
        "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
        "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
        "precision", "recall", "f1", "val_loss",
    ] = "AP"  # fmt: skip
    patience: int = 100
    batch_size: int = 0
    conf: float = 0.001
    iou: float = 0.7
    max_detections: int = 300
    max_dets: list[int] = field(default_factory=lambda: [1, 10, 100])
    loss: bool = True
    max_unreadable: float = 0.01
    scorer: Literal["auto", "pycocotools", "faster-coco-eval"] = "auto"
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"

    @property
    def is_wanted(self) -> bool:
        """Whether a training evaluates at all."""
        return bool(self.every or self.every_updates or self.every_minutes)


@dataclass
class ReportConfig:
    """What the run tells.

    Args:
        every: updates between two progress lines and train lines of metrics.jsonl.
        plots: draw plots/ and report.html when the run ends.
        csv: write metrics.csv too, for spreadsheets.
        sqlite: database file that the run's lines go to as well, others' runs too; empty: none.
        tensorboard: write tensorboard/ too, for TensorBoard.
        mlflow: tracking URI of MLflow: sqlite:///mlflow.db, a server; empty: none.
        wandb: project of Weights & Biases; WANDB_MODE=offline keeps it on this machine; empty:
            none.
        openmetrics: file that node_exporter's textfile collector reads, *.prom; empty: none.
    """

    every: int = 10
    plots: bool = True
    csv: bool = True
    sqlite: str = ""
    tensorboard: bool = False
    mlflow: str = ""
    wandb: str = ""
    openmetrics: str = ""


@dataclass
class DistillConfig:
    """What a student learns from the teacher, beside the objects.

    Args:
        cls: gain of the class distributions, 8 times that of the student's own class loss; 0: none.
        box: gain of the box distributions (Zheng et al. 2022), 4 times that of the student's own;
            0: none.
        feature: gain of the attention maps (Zagoruyko and Komodakis 2017) of distill.layers.
        layers: modules whose maps are compared, comma separated: neck, backbone.stages.2, or
            STUDENT=TEACHER where the names differ.
        temperature: softens the distributions that are compared (Hinton et al. 2015).
    """

    cls: float = 4.0
    box: float = 6.0
    feature: float = 0.0
    layers: str = ""
    temperature: float = 1.0
