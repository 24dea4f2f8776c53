"""Reads TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is the length of its data (8 bytes), that length's masked CRC-32C (4), the data, and their masked CRC-32C (4),
all little-endian. The messages are those of `tensorflow/core/example/example.proto` and `feature.proto`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.protocol_buffers import fields_of, varints
from viml_hf.processing.media import printable

Feature = list[bytes] | np.ndarray  # a bytes_list, or the numbers of a float_list (float32) or int64_list
Record = tuple[str, bytes | ViMLError]  # file and number, and what is there

_HEAD_BYTES, _CHECKSUM_BYTES = 12, 4
_BLOCK = 256  # bytes of a checksum that numpy takes at once


@dataclass(frozen=True, eq=False)
class Example:
    """The features of a `tf.train.Example`, or the context and feature lists of a `SequenceExample`, by name."""

    features: dict[str, Feature]
    sequences: dict[str, list[Feature]]


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """File and number (from 1) of each record of an uncompressed TFRecord file, with its data or its error.

    After a damaged length the start of the next record is unknown, so the rest of the file is left out.
    """
    shown, number = printable(os.fspath(path)), 0
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while head := file.read(_HEAD_BYTES):
                number += 1
                place, length = f"{shown} record {number}", int.from_bytes(head[:8], "little")
                if len(head) == _HEAD_BYTES and masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
                    cause = "the checksum of its length is wrong: the rest of the file cannot be read"
                    yield place, ViMLError(f"{cause}; fetch the file again")
                    return
                if len(head) < _HEAD_BYTES or length + _CHECKSUM_BYTES > size - file.tell():
                    yield place, ViMLError("the file ends in the middle of it; fetch the file again")
                    return
                data, checksum = file.read(length), file.read(_CHECKSUM_BYTES)
                if masked_crc32c(data) == int.from_bytes(checksum, "little"):
                    yield place, data
                else:
                    yield place, ViMLError("the checksum of its data is wrong; fetch the file again")
    except OSError as error:
        yield shown, ViMLError(f"cannot be read ({error.strerror or in_one_line(error)}); give a readable file")
    else:
        if not number:
            yield shown, ViMLError("the file is empty; fetch it again")


def masked_crc32c(data: bytes) -> int:
    """The checksum of a TFRecord: a CRC-32C, rotated and shifted, as it is stored among the data it is taken of."""
    value = crc32c(data)
    return (value >> 15 | value << 17) + 0xA282EAD8 & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of some bytes.

    A CRC is linear: that of a block is the exclusive or of each byte's contribution at its place. numpy looks these up
    for all blocks together: 100 MB a second.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    head = len(data) % _BLOCK
    value = 0xFFFFFFFF
    for byte in data[:head]:
        value = value >> 8 ^ _AT_END[(value ^ byte) & 255]
    blocks = np.frombuffer(data, np.uint8, offset=head).reshape(-1, _BLOCK)
    one, two, three, four = _PAST_A_BLOCK
    for block in np.bitwise_xor.reduce(_IN_BLOCK.take(blocks + _ROWS), axis=1).tolist():
        value = block ^ one[value & 255] ^ two[value >> 8 & 255] ^ three[value >> 16 & 255] ^ four[value >> 24]
    return value ^ 0xFFFFFFFF


def parse_example(data: bytes) -> Example:
    """Parse a serialised `tf.train.Example` or `SequenceExample`; anything else raises a `ViMLError`."""
    features: dict[str, Feature] = {}
    sequences: dict[str, list[Feature]] = {}
    try:
        for content in _messages(data, 1):
            features |= {name: _parse_feature(value) for name, value in _map_entries(content)}
        for content in _messages(data, 2):
            for name, value in _map_entries(content):
                sequences[name] = [_parse_feature(one) for one in _messages(value, 1)]
    except ValueError as error:
        raise ViMLError(f"not a tf.train.Example ({in_one_line(error)}); give records of that kind") from error
    return Example(features, sequences)


def _parse_feature(data: bytes) -> Feature:
    """The one list that a `Feature` contains; an empty list of bytes if there is none."""
    found: Feature = []
    for values in _messages(data, 1):
        found = list(_messages(values, 1))
    for values in _messages(data, 2):
        # Packed, or four bytes each: the same once joined.
        found = np.frombuffer(b"".join(_messages(values, 1)), "<f4")
    for values in _messages(data, 3):
        found = np.array(list(_integers(values)), np.int64)
    return found


def _integers(data: bytes) -> Iterator[int]:
    """The numbers of an `Int64List`, packed or one by one."""
    for number, value in fields_of(data):
        if number == 1:
            values = [value] if isinstance(value, int) else list(varints(value))
            yield from (one - 2**64 if one >= 2**63 else one for one in values)


def _map_entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a map in field 1 of a message."""
    for entry in _messages(data, 1):
        key = b"".join(_messages(entry, 1))
        yield key.decode(), b"".join(_messages(entry, 2))


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    """The values of one length-delimited field: messages, texts, bytes, or packed floats."""
    for found, value in fields_of(data):
        if found == number:
            if isinstance(value, int):
                raise ValueError(f"a number in field {number}")
            yield value


def _crc_tables() -> tuple[list[int], np.ndarray, list[list[int]]]:
    """The tables of `crc32c`: a byte at the end, a byte at each place of a block, and four bytes before a block."""
    last: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = last >> 1 ^ (last & 1) * np.uint32(0x82F63B78)
    by_place = [last]
    for _ in range(_BLOCK - 1):
        by_place.append(by_place[-1] >> 8 ^ last[by_place[-1] & 255])
    past: list[np.ndarray] = [np.arange(256, dtype=np.uint32) << np.uint32(8 * byte) for byte in range(4)]
    for _ in range(_BLOCK):
        past = [values >> 8 ^ last[values & 255] for values in past]
    return last.tolist(), np.concatenate(by_place[::-1]), [values.tolist() for values in past]


_AT_END, _IN_BLOCK, _PAST_A_BLOCK = _crc_tables()
_ROWS = np.arange(_BLOCK) * 256
