"""The stores of loggers, read back by their own libraries: {(kind, step): {name: number}} as
metrics.jsonl has it."""

import csv
import json
import math
import re
import sqlite3
import struct
import sys
from collections import defaultdict


def truth(folder, with_classes=False):
    """What metrics.jsonl says, `losses` and the like flattened by hand."""
    found = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if line["kind"] == "event":
            continue
        flat = {}
        for name, value in line.items():
            if name == "per_class" and with_classes:
                for label, values in value.items():
                    flat |= {f"per_class.{label}.{k}": v for k, v in values.items()}
            elif name in ("losses", "val_losses"):
                flat |= {f"{name}.{term}": number for term, number in value.items()}
            elif name != "per_class":
                flat[name] = value
        key = (flat.pop("kind"), flat.pop("step"))
        found[key] = {k: float(v) for k, v in flat.items() if v is not None}
    return found


def of_csv(folder):
    found = {}
    with open(folder / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            key = (row.pop("kind"), int(row.pop("step")))
            assert key not in found
            found[key] = {name: float(value) for name, value in row.items() if value}
    return found


def of_sqlite(file, folder):
    base = sqlite3.connect(file)
    ids = base.execute("SELECT id FROM runs WHERE folder = ?", (str(folder),)).fetchall()
    assert len(ids) == 1
    found = defaultdict(dict)
    rows = base.execute("SELECT kind, step, epoch, name, value FROM numbers WHERE run = ?", ids[0])
    for kind, step, epoch, name, value in rows:
        found[kind, step] |= {"epoch": epoch, name: float("nan") if value is None else value}
    return dict(found)


def of_tensorboard(folder):
    """As truth() without times of day, in float32."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(list(folder.iterdir())) == 1
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = defaultdict(dict)
    for tag in reader.Tags()["scalars"]:
        kind, name = tag.split("/")
        for event in reader.Scalars(tag):
            assert name not in found[kind, event.step]
            found[kind, event.step][name] = event.value
    return dict(found)


def of_mlflow(uri):
    """The numbers of the one run there, and that run; of a step the latest counts."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    found = defaultdict(dict)
    for key in run.data.metrics:
        kind, name = key.split("/")
        for metric in sorted(client.get_metric_history(run.info.run_id, key), key=_moment):
            # What MLflow's databases have for infinity.
            is_infinite = metric.value == sys.float_info.max
            found[kind, metric.step][name] = math.inf if is_infinite else metric.value
    return dict(found), run


def _moment(metric):
    return metric.timestamp


def of_wandb(folder):
    """The numbers of the run's offline files in their order, and the ids of the runs there; of an
    update the last row counts."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, ids, rows = {}, set(), []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for data in _records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = record.history.item
                row = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in items}
                rows.append(row["_step"])
                kind = next(name.split("/")[0] for name in row if "/" in name)
                numbers = {k.split("/")[1]: float(v) for k, v in row.items() if "/" in k}
                found[kind, row["update"]] = numbers
    # Row numbers go on over restarts: no row takes another's place when they are synced.
    assert rows == sorted(set(rows))
    return found, ids


def _records(data):
    """Of a LevelDB log, whose format W&B's files have after seven bytes of their own: blocks of
    32 KiB of records, each a checksum, a length and a type (whole, first, middle, last part)."""
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            at += left
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_VALUE = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|Inf)|NaN"


def of_openmetrics(file):
    """{name: {label text: number}}; asserts what OpenMetrics and Prometheus' own format ask for."""
    text = file.read_text()
    assert text.endswith("\n# EOF\n")
    assert "\n\n" not in text
    found, current = {}, ""
    lines = iter(text.splitlines()[:-1])
    for line in lines:
        if line.startswith("# HELP "):
            current = re.fullmatch(rf"# HELP ({_NAME}) \S.*", line)[1]
            assert current not in found, "the samples of a metric stand together"
            assert next(lines) == f"# TYPE {current} gauge"
            assert not re.search(r"_(total|sum|count|bucket|info|created)$", current)
            found[current] = {}
            continue
        match = re.fullmatch(rf"({_NAME})\{{({_LABEL}(?:,{_LABEL})*)\}} ({_VALUE})", line)
        assert match, line
        assert match[1] == current
        assert match[2] not in found[current]
        found[current][match[2]] = float(match[3])
    return found
