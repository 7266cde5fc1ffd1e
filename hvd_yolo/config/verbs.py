"""The options of the verbs beside training, as options.py holds those of training."""

from dataclasses import dataclass, field
from typing import Literal

from hvd_yolo.config.comm_options import CommConfig
from hvd_yolo.config.data_options import LoaderConfig
from hvd_yolo.config.run_options import EvalConfig


@dataclass
class FuseConfig:
    """How the detections of several models become one list.

    Args:
        method: wbf (weighted boxes fusion, Solovyev et al. 2021), nms or soft_nms (Bodla et al.
            2017); wbf needs the package ensemble-boxes.
        weights: how much each model counts, comma separated; empty: all the same.
        iou: wbf and nms: overlap from which boxes of one class are the same object.
    """

    method: Literal["wbf", "nms", "soft_nms"] = "wbf"
    weights: str = ""
    iou: float = 0.55


@dataclass
class EvaluateConfig:
    """Score a checkpoint on one split of a data set, on any number of ranks.

    Args:
        weights: checkpoint of a run (best.pt); several, comma separated, are an ensemble.
        data: data set, as in training; empty: the one the run was trained on.
        split: train, val or test.
        classes: classes to score, comma separated; objects and detections of others are dropped.
            Empty: those of the data set, all of which the checkpoint must know.
        imgsz: side of the square model input, pixels; 0: that of the training.
        batch_size: images a forward pass.
        workers: loader processes a rank; -1: from the CPUs there are.
        device: auto, cpu or cuda.
        results: file to write the detections to, in COCO's results format.
        fuse: how the detections of an ensemble are joined.
        comm: how ranks talk.
        eval: evaluation.
    """

    weights: str = ""
    data: str = ""
    split: str = "val"
    classes: str = ""
    imgsz: int = 0
    batch_size: int = 16
    workers: int = -1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    results: str = ""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    comm: CommConfig = field(default_factory=CommConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


@dataclass
class PredictConfig:
    """Detect on pictures and videos, on any number of ranks.

    Args:
        weights: checkpoint of a run (best.pt); several, comma separated, are an ensemble.
        source: a picture, a video, a folder, a glob pattern in quotes, a list (.txt: a path a
            line), or on one rank a stream (rtsp://, http://, https://).
        output: folder for images/, labels/ (YOLO text) and detections.json (COCO results), laid out
            as the source is, without results of an earlier run; empty: the next free
            runs/predict, runs/predict2, ...
        video: file to write an annotated video to (.mp4, .avi, .mkv, .mov, .m4v, .webm), when the
            source is one video or a stream.
        imgsz: side of the square model input, pixels; 0: that of the training.
        batch_size: images a forward pass.
        workers: loader processes a rank; -1: from the CPUs there are.
        device: auto, cpu or cuda.
        conf: detections below this score are dropped.
        iou: overlap above which the weaker of two detections of one class is dropped.
        max_detections: detections kept an image.
        amp: forward passes in none (float32), bf16, fp16, or auto: on a GPU as in the
            training, on the CPU none.
        fuse: how the detections of an ensemble are joined.
        comm: how ranks talk.
    """

    weights: str = ""
    source: str = ""
    output: str = ""
    video: str = ""
    imgsz: int = 0
    batch_size: int = 16
    workers: int = -1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    conf: float = 0.25
    iou: float = 0.7
    max_detections: int = 300
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    fuse: FuseConfig = field(default_factory=FuseConfig)
    comm: CommConfig = field(default_factory=CommConfig)


@dataclass
class SoupConfig:
    """Average the weights of several checkpoints of one model (Wortsman et al. 2022, Model soups).

    Args:
        weights: checkpoints, comma separated, or as plain arguments: soup a.pt b.pt.
        method: uniform, or greedy: from the best by val AP on, each is taken in unless AP falls.
        shares: with uniform, how much each counts, comma separated; empty: all the same.
        output: file to write.
        data: data set; empty: the one of the first training.
        imgsz: side of the square model input, pixels; 0: that of the first training.
        batch_size: images a forward pass of a rank.
        workers: loader processes a rank; -1: from the CPUs there are.
        device: auto, cpu or cuda.
        comm: how ranks talk.
        eval: evaluation, for greedy.
    """

    weights: str = ""
    method: Literal["uniform", "greedy"] = "uniform"
    shares: str = ""
    output: str = "soup.pt"
    data: str = ""
    imgsz: int = 0
    batch_size: int = 16
    workers: int = -1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    comm: CommConfig = field(default_factory=CommConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


@dataclass
class ExportConfig:
    """Write a trained detector for other programs, and run it against torch on real images.

    Args:
        weights: checkpoint of a run (best.pt).
        format: onnx, torchscript, openvino, or ultralytics (a state dict for that package).
            TensorRT builds from the ONNX file: trtexec --onnx=best.onnx.
        data: data set whose val images it is tried on; empty: the one of the training, or, where
            that is not here, drawn images.
        imgsz: side of the square input it is tried on, pixels; 0: that of the training. ONNX and
            OpenVINO take any multiple of the stride, TorchScript this one.
        half: weights and arithmetic in float16 (onnx), or weights alone (openvino); inputs and
            outputs stay float32, and so do the boxes' coordinates.
        opset: version of ONNX's operators to write, 13 to 20 (onnx).
        nms: end with per-class suppression inside the file (onnx).
        conf: with nms, detections below this score are dropped.
        iou: with nms, overlap above which the weaker of two detections of one class is dropped.
        max_detections: with nms, detections kept of each class of an image.
    """

    weights: str = ""
    format: Literal["onnx", "torchscript", "openvino", "ultralytics"] = "onnx"
    data: str = ""
    imgsz: int = 0
    half: bool = False
    opset: int = 17
    nms: bool = False
    conf: float = 0.25
    iou: float = 0.7
    max_detections: int = 300


@dataclass
class DoctorConfig:
    """Find what is wrong with the hosts, links and files of a job, under the launcher it will have.

    Args:
        data: data set that every host must see, as in training; empty: none is looked at.
        output: folder that rank 0 will write runs into.
        workers: loader processes a rank, as in training; -1: from the CPUs there are.
        device: auto, cpu or cuda.
        json: file to write everything to that was found, as JSON.
        timeout: seconds that the ranks have to find each other, and three times as many to answer.
        link_seconds: spent on measuring how fast sums over all ranks are; 0 leaves it out.
        loader: as in training; a data set on a network file system is well with a cache or stage.
        comm: how ranks talk.
    """

    data: str = ""
    output: str = "runs"
    workers: int = -1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    json: str = ""
    timeout: int = 40
    link_seconds: float = 12.0
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    comm: CommConfig = field(default_factory=CommConfig)
