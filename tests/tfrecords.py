"""Writes small TFRecord files for the tests, by rules of its own: nothing of the reader is used."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

TABLE = [0] * 256
for _index in range(256):
    _value = _index
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    TABLE[_index] = _value

Value = bytes | list[int] | np.ndarray


def slow_crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ TABLE[value & 255 ^ byte]
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    value = slow_crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes) -> bytes:
    """A record with its length and checksums."""
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def write_tfrecord(path: Path, records: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(map(framed, records)))
    return path


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def message(number: int, content: bytes) -> bytes:
    """A field of bytes, or of a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(value: Value, *, packed: bool = True) -> bytes:
    if isinstance(value, bytes):
        return message(1, message(1, value))
    if isinstance(value, np.ndarray):
        floats = [struct.pack("<f", one) for one in value]
        return message(2, message(1, b"".join(floats)) if packed else b"".join(b"\x0d" + one for one in floats))
    numbers = [varint(one) for one in value]
    return message(3, message(1, b"".join(numbers)) if packed else b"".join(b"\x08" + one for one in numbers))


def features(values: Mapping[str, Value], *, packed: bool = True) -> bytes:
    entries = (message(1, name.encode()) + message(2, feature(v, packed=packed)) for name, v in values.items())
    return b"".join(message(1, entry) for entry in entries)


def example(values: Mapping[str, Value], *, packed: bool = True) -> bytes:
    return message(1, features(values, packed=packed))


def sequence_example(context: Mapping[str, Value], sequences: Mapping[str, Iterable[Value]]) -> bytes:
    lists = (
        message(1, message(1, name.encode()) + message(2, b"".join(message(1, feature(v)) for v in values)))
        for name, values in sequences.items()
    )
    return message(1, features(context)) + message(2, b"".join(lists))


def video_record(video_id: str, labels: list[int], seed: int = 0, *, audio: np.ndarray | None = None) -> bytes:
    """A video level record of random features."""
    rng = np.random.default_rng([seed, *video_id.encode()])
    rgb, sound = rng.normal(size=1024).astype(np.float32), rng.normal(size=128).astype(np.float32)
    mean_audio = sound if audio is None else audio
    return example({"id": video_id.encode(), "labels": labels, "mean_rgb": rgb, "mean_audio": mean_audio})


def frame_record(video_id: str, labels: list[int], rgb: np.ndarray, audio: np.ndarray) -> bytes:
    """A frame level record of frames `(seconds, width)` uint8."""
    sequences = {"rgb": [row.tobytes() for row in rgb], "audio": [row.tobytes() for row in audio]}
    return sequence_example({"id": video_id.encode(), "labels": labels}, sequences)
