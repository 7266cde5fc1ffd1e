"""Packages that an option needs and that are not installed with hvd_yolo."""

import importlib.util

from hvd_yolo.config.run_options import ReportConfig
from hvd_yolo.errors import InputError

# Databases that MLflow reaches by SQLAlchemy, which mlflow-skinny leaves out.
_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


def check_loggers(options: ReportConfig) -> None:
    """Raises InputError where the package of a logger is missing: before the run begins, for later
    a logger is dropped."""
    wanted = {
        "tensorboard": ["tensorboard"] if options.tensorboard else [],
        "wandb": ["wandb"] if options.wandb else [],
        "mlflow": ["mlflow"] if options.mlflow else [],
    }
    if options.mlflow.startswith(_DATABASES):
        wanted["mlflow"].append("sqlalchemy")
    for name, packages in wanted.items():
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"report.{name}: the package {package} is not installed: "
                    f"pip install 'hvd_yolo[{name}]', or leave report.{name} out"
                )
