"""Packaging of hvd_yolo. Horovod is not a dependency here: pip cannot build it, `make setup` does
(install_horovod.sh)."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "fast-eval": ["faster-coco-eval>=1.6"],
    "tensorboard": ["tensorboard"],
    "mlflow": ["mlflow>=3.1"],
    "wandb": ["wandb>=0.31"],
    "tune": ["optuna>=5", "scipy>=1.11", "matplotlib>=3.8"],
    "export": ["onnx", "onnxruntime", "openvino"],
    "ensemble": ["ensemble-boxes"],
    # The font (SIL Open Font License) shows Chinese, Japanese and Korean class names.
    "plots": ["matplotlib>=3.8", "noto-cjk-sans-otc"],
    "shards": ["webdataset>=1.0"],
    "test": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "ruff>=0.9",
        "faster-coco-eval>=1.6",
        "webdataset>=1.0",
        "matplotlib>=3.8",
        "noto-cjk-sans-otc",
    ],
}

setup(
    name="hvd_yolo",
    version="0.1.0",
    description="Trains any YOLO or torch detector on any number of machines with Horovod",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["hvd_yolo", "hvd_yolo.*"]),
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "opencv-python-headless>=4.11",
        "pillow>=10.1",
        "pyyaml>=6.0",
        "psutil>=5.9",
        "pycocotools>=2.0.8",
        "jsonargparse[signatures]>=4.40,<5",
        "safetensors>=0.4",
        "simplejpeg>=1.7",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
)
