"""Values with large arrays in anonymous memory, which several processes map without a copy."""

import io
import mmap
import os
import pickle
from typing import Any

# Where an array may start in shared memory: at a cache line.
_ALIGNMENT = 64


def store(
    value: Any,  # noqa: ANN401 (whatever pickle can hold)
    name: str,
    pickler: type[pickle.Pickler] = pickle.Pickler,
) -> tuple[int, list[int]]:
    """The value pickled into anonymous memory (memfd), its arrays apart (pickle protocol 5), so
    that a reader need not copy them; a descriptor and the lengths of the parts. Raises OSError
    where the memory does not suffice."""
    arrays: list[pickle.PickleBuffer] = []
    content = io.BytesIO()
    pickler(content, protocol=5, buffer_callback=arrays.append).dump(value)
    parts = [content.getbuffer(), *(array.raw() for array in arrays)]
    descriptor = os.memfd_create(name)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            for part in parts:
                file.write(part)
                file.write(bytes(-len(part) % _ALIGNMENT))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, [len(part) for part in parts]


def load(descriptor: int, lengths: list[int], is_writable: bool = False) -> Any:  # noqa: ANN401
    """What store() put there; the descriptor may be closed afterwards. is_writable: what this
    process writes into an array it alone sees."""
    access = mmap.ACCESS_COPY if is_writable else mmap.ACCESS_READ
    content = memoryview(mmap.mmap(descriptor, 0, access=access))
    parts, place = [], 0
    for length in lengths:
        parts.append(content[place : place + length])
        place += length + -length % _ALIGNMENT
    return pickle.loads(parts[0], buffers=parts[1:])
