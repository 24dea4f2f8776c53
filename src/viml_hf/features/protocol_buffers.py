"""Reads protocol buffers field by field, without their schema and without the library."""

from collections.abc import Iterator
from typing import Any


def fields_of(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a protobuf message; an integer is unsigned, anything else is its bytes."""
    position = 0
    while position < len(data):
        tag, position = varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(data, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if position + length > len(data):
            raise ValueError("a field that is cut short")
        yield tag >> 3, data[position : position + length]
        position += length


def varints(data: bytes) -> Iterator[int]:
    """Integers one after the other."""
    position = 0
    while position < len(data):
        value, position = varint(data, position)
        yield value


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer, seven bits a byte, that begins at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(data):
            raise ValueError("a number that is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 2**64 - 1, position
    raise ValueError("an integer of more than 64 bits")
