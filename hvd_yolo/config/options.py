"""Every option of hvd_yolo, once. The dataclasses are the command line, the YAML file and the
documentation.

The words are those of YOLOv5 and Ultralytics where they have one. Where a default differs from
theirs, the line says why.
"""

from dataclasses import dataclass, field
from typing import Literal

from hvd_yolo.config.comm_options import CommConfig
from hvd_yolo.config.data_options import AugmentConfig, LoaderConfig, OrderConfig
from hvd_yolo.config.run_options import (
    CheckpointConfig,
    DistillConfig,
    EvalConfig,
    ReportConfig,
)


@dataclass
class OptimConfig:
    """Optimizer, learning rate and its schedule.

    Args:
        name: adamw, or sgd with Nesterov momentum. AdamW, as Ultralytics chooses by itself for runs
            under 10,000 updates. For updates of some thousand images, where these two need more
            epochs or diverge: lamb (AdamW's heir) or lars (SGD's), whose step in each layer is a
            share of that layer's weights. Start from lr 0.001 (lamb) or 1 (lars) for 16 images a
            rank, with lr_scaling sqrt; short runs want more.
        lr: learning rate of one rank; lr_scaling multiplies it.
        lr_scaling: rate on N ranks and A accumulated passes: linear (x N A, Goyal et al. 2017),
            sqrt (x sqrt(N A), the rule for Adam, Malladi et al. 2022, and that of LAMB's paper) or
            none. With global_batch the rate does not change with the ranks.
        schedule: decay after the warmup: cosine, linear or constant.
        final_lr: the schedule ends at this share of the peak rate.
        warmup_epochs: the rate climbs from its start to its peak over this many epochs.
        warmup_start: the warmup starts at this share of lr, the unscaled rate.
        momentum: momentum of SGD and LARS, and first beta of AdamW and LAMB.
        weight_decay: decay of weights; biases and normalisation layers are left out.
        trust_coefficient: of LARS: the norm of a layer's step over that of its weights at rate 1.
        lamb_eps: of LAMB: added to the root of the second moment.
        clip_norm: largest global norm of the gradient; 0 switches clipping off.
        ema_decay: decay of the exponential moving average of the weights; 0 switches it off.
        ema_tau: updates over which that decay builds up.
    """

    name: Literal["adamw", "sgd", "lars", "lamb"] = "adamw"
    lr: float = 0.001
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr: float = 0.01
    warmup_epochs: float = 3.0
    warmup_start: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0005
    trust_coefficient: float = 0.001
    lamb_eps: float = 1e-6
    clip_norm: float = 10.0
    ema_decay: float = 0.9999
    ema_tau: float = 2000.0


@dataclass
class TrainConfig:
    """The training step.

    Args:
        accumulate: passes of batch_size images a rank makes before each update; global_batch
            computes it by itself.
        amp: forward and backward in none (float32), bf16, fp16 (with loss scaling), or auto: for
            built-in models bf16 on a GPU of compute capability 8 or higher and on a CPU that has
            the instructions, fp16 on a GPU of 7, else none; decided by rank 0 at the start of a
            run.
        tf32: what is computed in float32 on a GPU is multiplied in TF32, with 10 bits of precision
            in place of 23, but much faster.
        deterministic: the same bits from run to run on a GPU, at a cost: operations with
            deterministic counterparts use these, others are named.
        compile: forward pass and loss by torch.compile: faster steps after up to minutes of
            compilation, once for each shape of a batch (built-in models).
        sync_bn: BatchNorm over the images of all ranks in place of each rank's own.
        freeze_bn: BatchNorm keeps the statistics it has (for fine-tuning, and exact accumulation).
        max_bad_updates: updates in a row that may be left out because a gradient is not finite; one
            more and the run has diverged.
        on_divergence: what it does then: stop, or rollback: weights, optimizer and EMA become those
            of the last checkpoint, and training goes on with the images that come next, for the
            same ones would lead to the same end (Chowdhery et al. 2022, section 5.1); after the
            third time it stops.
        freeze: layers that are not trained, their names or the beginnings of these, comma
            separated, as backbone. or backbone.stages.0,backbone.stages.1.
        autoanchor: fit the anchors of a YOLOv5 to the objects when they do not match.
        checkpoint_activations: compute activations again in the backward pass in place of keeping
            them, for large images (built-in models).
        channels_last: NHWC weights and images, the faster layout on CPUs and on tensor cores.
        dtype: float32, or float64 to compare runs to the last digit.
    """

    accumulate: int = 1
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    tf32: bool = False
    deterministic: bool = False
    compile: bool = False
    sync_bn: bool = False
    freeze_bn: bool = False
    max_bad_updates: int = 10
    on_divergence: Literal["stop", "rollback"] = "stop"
    freeze: str = ""
    autoanchor: bool = True
    checkpoint_activations: bool = False
    channels_last: bool = True
    dtype: Literal["float32", "float64"] = "float32"


@dataclass
class Config:
    """Train a detector on any number of ranks.

    Args:
        model: built-in model (yolov8n, yolo11s, yolov5m, yolov10b, yolox-l, ...), torchvision:NAME,
            ultralytics:NAME.yaml, libreyolo:yolo9t, or package.module:callable that takes
            num_classes.
        weights: file to start from: a checkpoint of ours, of Ultralytics, YOLOv5 or YOLOX, or
            safetensors; classes may differ, layers that fit are taken.
        teacher: checkpoint of ours that the model learns from as well (distillation); its classes
            and strides must be the same, its family may differ.
        data: shapes (drawn, needs no files), a data.yaml (of Ultralytics, or of tar shards),
            Darknet's obj.data, or a folder of COCO, Pascal VOC, Roboflow, CVAT or LabelMe.
        imgsz: side of the square model input, pixels.
        epochs: passes over the training images.
        batch_size: images a rank handles at once; -1: as many as fit into the memory, found at the
            start of a run.
        global_batch: images per update over all ranks, whatever their number; 0: batch_size x ranks
            x train.accumulate.
        max_updates: stop after so many updates; 0: no limit.
        max_hours: stop after so many hours of this job, as at a signal: saved, exit code 75, the
            same command goes on; 0: no limit.
        workers: loader processes a rank; -1: from the CPUs there are.
        device: auto, cpu or cuda; which GPU is decided by the local rank.
        seed: of initial weights, order and augmentation.
        output: folder of the run, continued if it holds an unfinished one; empty: the next free
            runs/exp, runs/exp2, ...
        resume: folder of a run to continue, or a checkpoint in it; the run goes on from its newest
            state.
        override: keys that may differ from the resumed run although they change the mathematics,
            comma separated; data: the images may have changed as well.
        optim: optimizer and learning rate.
        augment: what happens to training images.
        loader: how images reach the loop.
        order: which images an update takes, and how large.
        train: the training step.
        distill: what the model learns from its teacher.
        comm: how ranks talk.
        checkpoint: when state is written.
        eval: evaluation.
        report: what the run tells.
    """

    model: str = "yolov8n"
    weights: str = ""
    teacher: str = ""
    data: str = "shapes"
    imgsz: int = 640
    epochs: int = 100
    batch_size: int = 16
    global_batch: int = 0
    max_updates: int = 0
    max_hours: float = 0.0
    workers: int = -1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    output: str = ""
    resume: str = ""
    override: str = ""
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    comm: CommConfig = field(default_factory=CommConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
