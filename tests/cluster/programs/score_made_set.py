"""Scores tests.evaluate.test_scoring's made set on any number of ranks and prints the metrics as
JSON."""

import json

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.evaluate.scoring import score
from tests.evaluate.test_scoring import made_table

comm = connect(CommConfig(), "cpu")
metrics = score(made_table(), tuple(str(k) for k in range(80)), comm, "pycocotools")
if comm.is_main:
    print("METRICS " + json.dumps(metrics), flush=True)
