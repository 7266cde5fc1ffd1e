"""Copies of a state in the memory of the host, taken from a GPU in a few large pieces while
training goes on."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hvd_yolo.out_of_memory import is_out_of_memory

# The most that is copied at once. Two such pieces are held on the GPU for a moment. A power of 2,
# for torch rounds page-locked memory up to one.
CHUNK_BYTES = 1 << 28

# Which tensors share one copy: those that are the same memory, seen alike.
_Key = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


@dataclass(frozen=True)
class _Reference:
    """In the place of a tensor."""

    key: _Key


class _Place(NamedTuple):
    """Where the copy of a tensor lies in a chunk, from byte `start` on, and its layout."""

    key: _Key
    tensor: Tensor
    stride: tuple[int, ...]
    start: int


class Snapshot:
    """A copy of containers of tensors, as they are at the moment when it is made.

    Tensors on the CPU are copied at once. Those of a GPU are gathered on it into chunks, which a
    stream of their own brings into page-locked memory: nothing waits for that but result(), which
    another thread may call, and whatever the caller computes next may overwrite the tensors.
    """

    def __init__(self, value: Any, chunk_bytes: int = CHUNK_BYTES) -> None:  # noqa: ANN401
        self._copies: dict[_Key, Tensor] = {}
        self._chunks: list[tuple[Tensor, list[_Place]]] = []
        self._arrived: torch.cuda.Event | None = None
        tensors: dict[_Key, Tensor] = {}
        # Containers too change as training goes on.
        self._value = _without_tensors(value, tensors)
        on_gpu = {}
        for key, tensor in tensors.items():
            if tensor.is_cuda:
                on_gpu[key] = tensor
            else:
                self._copies[key] = tensor.to("cpu", copy=True)
        if on_gpu:
            self._fetch(on_gpu, chunk_bytes)

    @property
    def page_locked_bytes(self) -> int:
        """What it holds of the page-locked memory, until result() has been called."""
        return sum(buffer.nbytes for buffer, _ in self._chunks if buffer.is_pinned())

    def result(self) -> Any:  # noqa: ANN401
        """The same containers with tensors of their own on the CPU, one for those that are the same
        memory."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        for buffer, places in self._chunks:
            for place in places:
                tensor = place.tensor
                flat = buffer[place.start : place.start + tensor.nbytes].view(tensor.dtype)
                copy = flat.as_strided(tensor.shape, place.stride, flat.storage_offset())
                self._copies[place.key] = copy.clone(memory_format=torch.preserve_format)
        self._chunks = []
        return _with_tensors(self._value, self._copies)

    def _fetch(self, tensors: dict[_Key, Tensor], chunk_bytes: int) -> None:
        device = next(iter(tensors.values())).device
        current, beside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        chunks = _chunks(tensors, chunk_bytes)
        most = max(num_bytes for _, num_bytes in chunks)
        # Memory of the GPU that is being copied from, and the end of that.
        pieces: list[tuple[Tensor, torch.cuda.Event]] = []
        for places, num_bytes in chunks:
            buffer = _page_locked(num_bytes)
            self._chunks.append((buffer, places))
            if len(pieces) == 2:
                piece, is_copied = pieces.pop(0)
                # On the GPU; this process goes on.
                current.wait_event(is_copied)
            else:
                piece = _room(most, device)
            if piece is None:
                # One by one, in the stream of the training itself.
                for place in places:
                    end = place.start + place.tensor.nbytes
                    buffer[place.start : end].copy_(_flat(place).view(torch.uint8), True)
                continue
            _gather(places, piece)
            beside.wait_stream(current)
            with torch.cuda.stream(beside):
                buffer.copy_(piece[:num_bytes], non_blocking=True)
                piece.record_stream(beside)
                pieces.append((piece, beside.record_event()))
        beside.wait_stream(current)
        self._arrived = beside.record_event()


def copied(value: Any) -> Any:  # noqa: ANN401 (containers of tensors and whatever else)
    """The same containers with copies of their tensors on the CPU, one for those that are the same
    memory."""
    return Snapshot(value).result()


def _without_tensors(value: Any, tensors: dict[_Key, Tensor]) -> Any:  # noqa: ANN401
    """The containers with references to the tensors, which are added to `tensors`."""
    if isinstance(value, Tensor):
        key = value.data_ptr(), value.dtype, value.shape, value.stride()
        tensors.setdefault(key, value.detach())
        return _Reference(key)
    if isinstance(value, dict):
        return {key: _without_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_tensors(item, tensors) for item in value)
    return value


def _with_tensors(value: Any, copies: dict[_Key, Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, _Reference):
        return copies[value.key]
    if isinstance(value, dict):
        return {key: _with_tensors(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_tensors(item, copies) for item in value)
    return value


def _chunks(tensors: dict[_Key, Tensor], chunk_bytes: int) -> list[tuple[list[_Place], int]]:
    """The tensors, in chunks that hold several up to so many bytes or one that is larger, and the
    bytes of each. The widest numbers come first, so that each begins where its dtype may."""
    chunks = []
    places: list[_Place] = []
    end = 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, str(item[1].dtype)))
    for key, tensor in ordered:
        if places and end + tensor.nbytes > chunk_bytes:
            chunks.append((places, end))
            places, end = [], 0
        # Of a copy, for a tensor may have gaps.
        stride = torch.empty_like(tensor, device="meta").stride()
        places.append(_Place(key, tensor, stride, end))
        end += tensor.nbytes
    return [*chunks, (places, end)]


def _page_locked(num_bytes: int) -> Tensor:
    """So many bytes, of ordinary memory where the system does not lock as many."""
    try:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return torch.empty(num_bytes, dtype=torch.uint8)


def _room(num_bytes: int, device: torch.device) -> Tensor | None:
    """So many bytes of a GPU, None where they are not free."""
    try:
        return torch.empty(num_bytes, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return None


def _gather(places: list[_Place], piece: Tensor) -> None:
    """Copies tensors to their places, with one launch for each dtype."""
    for dtype in dict.fromkeys(place.tensor.dtype for place in places):
        own = [place for place in places if place.tensor.dtype == dtype]
        end = own[-1].start + own[-1].tensor.nbytes
        out = piece[own[0].start : end].view(dtype)
        torch.cat([_flat(place) for place in own], out=out)


def _flat(place: _Place) -> Tensor:
    """The elements in the order of the copy's memory."""
    tensor = place.tensor
    if tensor.stride() != place.stride:
        tensor = torch.empty_like(tensor).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))
