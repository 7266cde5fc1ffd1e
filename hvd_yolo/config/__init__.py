"""Every option of hvd_yolo, and how a command line becomes a Config; data_verbs holds those of
`python -m hvd_yolo.data`."""

from hvd_yolo.config.comm_options import CommConfig, Sharing
from hvd_yolo.config.data_options import AugmentConfig, LoaderConfig, OrderConfig
from hvd_yolo.config.options import Config, OptimConfig, TrainConfig
from hvd_yolo.config.parsing import (
    check_values,
    flatten,
    from_yaml,
    load,
    overridden,
    parse,
    parse_train,
    to_yaml,
)
from hvd_yolo.config.run_options import (
    CheckpointConfig,
    DistillConfig,
    EvalConfig,
    ReportConfig,
)
from hvd_yolo.config.verbs import (
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    FuseConfig,
    PredictConfig,
    SoupConfig,
)

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "CommConfig",
    "Config",
    "DistillConfig",
    "DoctorConfig",
    "EvalConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FuseConfig",
    "LoaderConfig",
    "OptimConfig",
    "OrderConfig",
    "PredictConfig",
    "ReportConfig",
    "Sharing",
    "SoupConfig",
    "TrainConfig",
    "check_values",
    "flatten",
    "from_yaml",
    "load",
    "overridden",
    "parse",
    "parse_train",
    "to_yaml",
]
