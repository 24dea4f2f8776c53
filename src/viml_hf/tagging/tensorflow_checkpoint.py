"""Reads the variables of a TensorFlow checkpoint of one data file, without TensorFlow.

Its index is a table of sorted keys in blocks (LevelDB's format, not compressed), with a record per variable: type,
shape, and place in the data file. Records are protocol buffers.
"""

import struct
from collections.abc import Iterator

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.features.protocol_buffers import fields_of, varint

FOOTER, MAGIC = 48, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
FLOAT32 = 1  # TensorFlow's number of the type
# Fields of the records: of a variable, and of its shape.
TYPE, SHAPE, SHARD, OFFSET, SIZE = 1, 2, 3, 4, 5
DIMENSION, LENGTH = 2, 1


def read_tensorflow_checkpoint(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The float32 variables by name, of the bytes of the `.index` file and the one data file; others are left out.

    A checkpoint that is damaged, compressed or of several data files is a `ViMLError`.
    """
    try:
        if index[-len(MAGIC) :] != MAGIC:
            raise ValueError("the index does not end as one")
        footer = index[-FOOTER:]
        _, at = _handle(footer, 0)
        (start, size), _ = _handle(footer, at)
        found = {}
        for _, place in _entries(index, start, size):
            for name, record in _entries(index, *_handle(place, 0)[0]):
                if name:  # the record without a name is of the whole checkpoint
                    found[name.decode()] = _variable(record, data)
    except (ValueError, IndexError, TypeError, KeyError, struct.error) as error:
        raise ViMLError(f"not a TensorFlow checkpoint that can be read ({error}); fetch the file again") from error
    return {name: values for name, values in found.items() if values is not None}


def _variable(record: bytes, data: bytes) -> np.ndarray | None:
    fields = dict(fields_of(record))
    if fields.get(TYPE) != FLOAT32:
        return None
    if fields.get(SHARD, 0):
        raise ValueError("it has several data files")
    dimensions = [part for number, part in fields_of(fields.get(SHAPE, b"")) if number == DIMENSION]
    shape = [dict(fields_of(part)).get(LENGTH, 0) for part in dimensions]
    offset, size = fields.get(OFFSET, 0), fields.get(SIZE, 0)
    if offset + size > len(data) or size != 4 * int(np.prod(shape)):
        raise ValueError("the data file is too short")
    return np.frombuffer(data, "<f4", size // 4, offset).reshape(shape)


def _entries(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block. A key holds only what differs from the one before it."""
    if table[start + size] != 0:
        raise ValueError("its index is compressed")
    block = table[start : start + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    at, end, key = 0, size - 4 * (restarts + 1), b""
    while at < end:
        shared, at = varint(block, at)
        unshared, at = varint(block, at)
        length, at = varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block lies and how long it is, and the position behind that."""
    start, at = varint(data, at)
    size, at = varint(data, at)
    return (start, size), at
