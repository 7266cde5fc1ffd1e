"""What CUDA's operators do otherwise than the CPU's, from torch's own table and by hand."""

import json
from pathlib import Path

# Operators whose CUDA kernel waits for the device, mostly to know the size of their result.
# By hand, from ATen/native/cuda: nothing in torch lists them. Indexing with masks is in dispatch.h.
SYNCHRONIZING = (
    "nonzero", "nonzero.out", "masked_select", "masked_select.out", "equal", "_unique", "_unique2",
    "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount", "histc",
    "multinomial", "_linalg_eigh", "_linalg_svd", "_local_scalar_dense",
)  # fmt: skip

# Keys of native_functions.yaml under which an operator runs on CUDA.
_ON_CUDA = {
    "CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional",
    "CompositeImplicitAutograd",
}  # fmt: skip


def operator_tables(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Operators that accept a 0-dim CPU tensor beside the device's, those that have a kernel for
    the CPU but none for CUDA, and those that synchronize. folder: where the parsed table stays."""
    table = folder / "operators.json"
    if not table.exists():
        scratch = table.with_suffix(".json.tmp")
        scratch.write_text(json.dumps(_parse()))
        scratch.rename(table)
    accepts_scalars, without_cuda = json.loads(table.read_text())
    return accepts_scalars, without_cuda, [f"aten::{name}" for name in SYNCHRONIZING]


def _parse() -> tuple[list[str], list[str]]:
    # 15,000 lines: read once per torch, and torchgen is imported then only.
    import torchgen
    import yaml

    file = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    rows = yaml.load(file.read_text(), yaml.CSafeLoader)
    by_name = {row["func"].split("(")[0]: row for row in rows}
    accepts_scalars, without_cuda = [], []
    for name, row in by_name.items():
        delegate = by_name.get(row.get("structured_delegate"), row)
        if "NoCheck" in (row.get("device_check"), delegate.get("device_check")):
            accepts_scalars.append(f"aten::{name}")
        dispatch = delegate.get("dispatch") or {}
        keys = {key.strip() for group in dispatch for key in group.split(",")}
        if "CPU" in keys and not keys & _ON_CUDA:
            without_cuda.append(f"aten::{name}")
    return accepts_scalars, without_cuda
