#!/usr/bin/env bash
# Builds Horovod 0.28.1 for the torch that is installed in a venv, once, and keeps the wheel.
#
#   install_horovod.sh VENV [cpu|gpu]
#
# With an MPI compiler (mpicxx) on PATH the wheel holds MPI and Gloo, otherwise Gloo alone; with gpu, NCCL too.
# The wheel is kept under ~/.cache/hvd_yolo, named by torch, Python, device and MPI: pip's own cache key has none of
# these, and hands out a wheel that does not load after a change of torch.
set -euo pipefail

version=0.28.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$(cd "$1" && pwd)
device=${2:-cpu}
python=$venv/bin/python

mpi=gloo
if command -v mpicxx >/dev/null; then mpi=mpi+gloo; fi
torch=$("$python" -c 'import torch; print(torch.__version__)')
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
kept=${XDG_CACHE_HOME:-$HOME/.cache}/hvd_yolo/horovod-$version-torch$torch-$tag-$(uname -m)-$device-$mpi

# Not a pipe into grep -q: under pipefail its early exit would count as a failure of horovodrun.
has() { grep -q "\[X\] $1" <<<"$("$venv/bin/horovodrun" --check-build 2>/dev/null)"; }
if [ "$(cat "$venv/.horovod" 2>/dev/null)" = "$kept" ] &&
  "$python" -c 'import horovod.torch' 2>/dev/null; then
  echo "horovod: $version for torch $torch ($device, $mpi) is installed"
  exit 0
fi

if [ "$device" = gpu ]; then
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  export CUDA_HOME=$site/nvidia/cu13 HOROVOD_CUDA_HOME=$site/nvidia/cu13
  # The wheels carry versioned libraries only; CMake looks for the plain names.
  [ -e "$CUDA_HOME/lib64" ] || ln -s lib "$CUDA_HOME/lib64"
  ln -sf libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"
  ln -sf libnccl.so.2 "$site/nvidia/nccl/lib/libnccl.so"
  export PATH=$CUDA_HOME/bin:$PATH CUDACXX=$CUDA_HOME/bin/nvcc
  # nvcc 13 builds nothing below compute capability 7.5; code for 8.0 runs on all later cards of its family.
  export CUDAARCHS=80 HOROVOD_BUILD_CUDA_CC_LIST=80,90 HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
  export HOROVOD_NCCL_INCLUDE=$site/nvidia/nccl/include HOROVOD_NCCL_LIB=$site/nvidia/nccl/lib
fi

if ! ls "$kept"/horovod-*.whl >/dev/null 2>&1; then
  echo "horovod: building $version for torch $torch ($device, $mpi): 2 to 4 minutes"
  mkdir -p "$kept"
  building=$(mktemp -d "$kept/building.XXXXXX")
  trap 'rm -rf "$building"' EXIT
  export CMAKE_TOOLCHAIN_FILE=$here/horovod.cmake CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS=-j$(nproc)
  export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
  if [ "$mpi" = gloo ]; then export HOROVOD_WITHOUT_MPI=1; else export HOROVOD_WITH_MPI=1; fi
  log=$building.log
  if ! PATH=$venv/bin:$PATH "$python" -m pip wheel -v --no-cache-dir --no-deps --use-pep517 \
      --no-build-isolation -w "$building" "horovod==$version" >"$log" 2>&1; then
    grep -E 'error|Error' "$log" | head -20 >&2 || true
    echo "horovod: the build failed; all of its output is in $log" >&2
    exit 1
  fi
  mv "$building"/horovod-*.whl "$kept"/
  rm -f "$log"
fi

"$python" -m pip install -q --no-deps --force-reinstall "$kept"/horovod-*.whl
has PyTorch && has Gloo || { echo "horovod: the wheel in $kept does not load; remove it and try again" >&2; exit 1; }
if [ "$mpi" != gloo ]; then has MPI || { echo "horovod: built without MPI although mpicxx is here" >&2; exit 1; }; fi
if [ "$device" = gpu ]; then has NCCL || { echo "horovod: built without NCCL" >&2; exit 1; }; fi
echo "$kept" >"$venv/.horovod"
echo "horovod: $version for torch $torch ($device, $mpi) installed"
