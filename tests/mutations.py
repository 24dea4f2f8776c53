"""Damages files on purpose: pure functions from bytes and a random generator to bytes."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

HEADER = 512  # bytes; in most formats what is read before the first packet
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]
MP4_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"}
# Offsets in a box, after its size and name, of lengths, counts, rates and sizes (ISO 14496-12).
MP4_FIELDS = {
    b"mvhd": [12, 16],
    b"mdhd": [12, 16],
    b"tkhd": [20, 76, 80],
    b"elst": [4, 8, 12],
    b"stts": [4, 8, 12, 16, 20],
    b"ctts": [4, 8, 12],
    b"stss": [4, 8],
    b"stsc": [4, 8, 12],
    b"stsz": [4, 8, 12],
    b"stco": [4, 8],
    b"stsd": [4, 8, 40, 48],  # 40: width and height of a picture, or the rate of a sound
}
EBML_PARENTS = {0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0x1C53BB6B, 0xBB, 0xB7, 0xA0}
EBML_NUMBERS = {
    0x2AD7B1: "timestamp scale",
    0x4489: "duration",
    0x23E383: "default duration",
    0xB0: "pixel width",
    0xBA: "pixel height",
    0x54B0: "display width",
    0x54BA: "display height",
    0xB5: "sampling frequency",
    0x9F: "channels",
    0x6264: "bit depth",
    0x56AA: "codec delay",
    0x56BB: "seek pre-roll",
    0xE7: "cluster time",
    0x9B: "block duration",
    0xB3: "cue time",
    0xF1: "cue position",
}


class Field(NamedTuple):
    """A number in a file's headers: a length, count, rate or size.

    Args:
        name: What it is.
        offset: Of its first byte.
        width: Bytes.
        byteorder: `"big"` or `"little"`.
    """

    name: str
    offset: int
    width: int
    byteorder: str = "big"


def truncated(content: bytes, random: np.random.Generator) -> bytes:
    return content[: random.integers(1, len(content))]


def flipped_bits(content: bytes, random: np.random.Generator) -> bytes:
    return _flipped(content, random, within=len(content))


def flipped_bits_in_the_header(content: bytes, random: np.random.Generator) -> bytes:
    return _flipped(content, random, within=min(HEADER, len(content)))


def zeroed_block(content: bytes, random: np.random.Generator) -> bytes:
    start, end = _block(content, random)
    return content[:start] + bytes(end - start) + content[end:]


def duplicated_block(content: bytes, random: np.random.Generator) -> bytes:
    start, end = _block(content, random)
    return content[:end] + content[start:]


def removed_block(content: bytes, random: np.random.Generator) -> bytes:
    start, end = _block(content, random)
    return content[:start] + content[end:]


def random_block(content: bytes, random: np.random.Generator) -> bytes:
    start, end = _block(content, random)
    return content[:start] + random.bytes(end - start) + content[end:]


def forged_lengths(content: bytes, random: np.random.Generator) -> bytes:
    """One to three fields with numbers that they never have in an honest file."""
    fields: dict[str, list[Field]] = {}
    for field in length_fields(content):
        fields.setdefault(field.name, []).append(field)
    names = list(fields)
    for _ in range(random.integers(1, 4)):
        # By name: the one duration counts as much as the thousands of blocks.
        alike = fields[names[random.integers(len(names))]]
        field = alike[random.integers(len(alike))]
        old = number_in(content, field)
        numbers = [*EXTREMES, 2 * old, old // 2, 1000 * old]
        content = with_number(content, field, numbers[random.integers(len(numbers))])
    return content


MUTATIONS: list[Mutation] = [
    truncated,
    flipped_bits,
    flipped_bits_in_the_header,
    zeroed_block,
    duplicated_block,
    removed_block,
    random_block,
    forged_lengths,
    forged_lengths,  # one mutant in three: these are the most dangerous
    forged_lengths,
    forged_lengths,
]


def mutant(files: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """The mutant of a number: always the same one of the same files.

    Returns:
        What it is, for messages, and its bytes.
    """
    random = np.random.default_rng(number)
    name = sorted(files)[number % len(files)]
    mutation = MUTATIONS[random.integers(len(MUTATIONS))]
    return f"mutant {number}, {name} with {mutation.__name__}", mutation(files[name], random)


DEEP = "[" * 5000 + "]" * 5000
ODD_VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x\x1b[31m\n",
    [],
    {},
    [[]],
    {"a": 1},
    "DEEP",
]


def other_json_value(content: bytes, random: np.random.Generator, seal: Callable[[dict], dict] = dict) -> bytes:
    """JSON with one value in the place of another, one left out, or one under another key; sealed anew if so asked."""
    content = json.loads(content)
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(content)
    inside, key = places[random.integers(len(places))]
    number = random.integers(len(ODD_VALUES) + 2)
    if number < len(ODD_VALUES):
        inside[key] = ODD_VALUES[number]
    else:
        value = inside.pop(key)
        if number > len(ODD_VALUES) and isinstance(inside, dict):
            inside["other"] = value
    return json.dumps(seal(content)).replace('"DEEP"', DEEP).encode()


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """With a flipped bit, its end or a block lost, zeros or noise."""
    return MUTATIONS[random.integers(7)](content, random)


def number_in(content: bytes, field: Field) -> int:
    return int.from_bytes(content[field.offset : field.offset + field.width], field.byteorder)  # type: ignore[arg-type]


def with_number(content: bytes, field: Field, number: int) -> bytes:
    """The file with another number in a field; one too large for it becomes the largest."""
    number = min(number, 256**field.width - 1)
    value = number.to_bytes(field.width, field.byteorder)  # type: ignore[arg-type]
    return content[: field.offset] + value + content[field.offset + field.width :]


def length_fields(content: bytes) -> Iterator[Field]:
    """The lengths, counts, rates and sizes in the headers of a file of any format."""
    found = False
    for magic, position, fields in FORMATS:
        if content[position : position + len(magic)] == magic:
            found = True
            yield from fields(content)
    if not found:
        yield from (Field(f"byte {offset}", offset, 4) for offset in range(0, min(HEADER, len(content) - 4), 2))


def mp4_fields(content: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    end = len(content) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", content, start)
        label = name.decode("latin-1")
        yield Field(f"{label} size", start, 4)
        for offset in MP4_FIELDS.get(name, []):
            yield Field(f"{label} + {offset}", start + 8 + offset, 4)
        if size < 8:
            return
        if name in MP4_PARENTS:
            yield from mp4_fields(content, start + 8, min(start + size, end))
        start += size


def riff_fields(content: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Those of WAV and AVI."""
    end = len(content) if end is None else end
    while start + 12 <= end:
        name, size = struct.unpack_from("<4sI", content, start)
        label = name.decode("latin-1")
        yield Field(f"{label} size", start + 4, 4, "little")
        if name in (b"RIFF", b"LIST"):
            yield from riff_fields(content, start + 12, min(start + 8 + size, end))
        elif name == b"fmt ":
            widths = {"format": 2, "channels": 2, "rate": 4, "byte rate": 4, "block align": 2, "bits": 2}
            yield from _packed(widths, start + 8)
        elif name in (b"avih", b"strh", b"strf"):
            yield from (Field(f"{label} + {offset}", start + 8 + offset, 4, "little") for offset in range(0, size, 4))
        start += 8 + size + size % 2


def ebml_fields(content: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Those of WebM and Matroska."""
    end = len(content) if end is None else end
    while start + 2 <= end and content[start]:
        id_width = 9 - content[start].bit_length()
        identity = int.from_bytes(content[start : start + id_width], "big")
        position = start + id_width
        if position >= end or not content[position]:
            return
        width = 9 - content[position].bit_length()
        size = int.from_bytes(content[position : position + width], "big") & (1 << 7 * width) - 1
        yield Field(f"size of {identity:X}", position, width)
        if identity in EBML_PARENTS:
            yield from ebml_fields(content, position + width, min(position + width + size, end))
        elif identity in EBML_NUMBERS:
            yield Field(EBML_NUMBERS[identity], position + width, size)
        start = position + width + size


def flac_fields(content: bytes) -> Iterator[Field]:
    widths = {"size": 3, "block": 2, "longest block": 2, "frame": 3, "longest frame": 3, "rate": 4, "samples": 4}
    yield from _packed(widths, 5, "big")


def gif_fields(content: bytes) -> Iterator[Field]:
    yield from _packed({"width": 2, "height": 2, "flags": 1}, 6)
    for start in _occurrences(content, b"\x21\xf9\x04"):
        yield Field("delay", start + 4, 2, "little")
    for start in _occurrences(content, b"\x2c\0\0\0\0"):
        yield from _packed({"left": 2, "top": 2, "picture width": 2, "picture height": 2}, start + 1)


def ogg_fields(content: bytes) -> Iterator[Field]:
    for start in _occurrences(content, b"OggS"):
        yield from _packed(
            {"granule": 8, "serial": 4, "page": 4, "checksum": 4, "segments": 1, "segment": 1}, start + 6
        )
    for start in _occurrences(content, b"OpusHead"):
        yield from _packed({"channels": 1, "pre-skip": 2, "rate": 4, "gain": 2, "mapping": 1}, start + 9)
    for start in _occurrences(content, b"\x01vorbis"):
        yield from _packed({"channels": 1, "rate": 4, "maximum": 4, "nominal": 4, "minimum": 4}, start + 11)


def mp3_fields(content: bytes) -> Iterator[Field]:
    yield Field("tag size", 6, 4)
    for name in (b"Xing", b"Info"):
        for start in _occurrences(content, name):
            yield from _packed({"flags": 4, "frames": 4, "bytes": 4}, start + 4, "big")
            yield from _packed({"delay": 3}, start + 141, "big")


FORMATS: list[tuple[bytes, int, Callable[[bytes], Iterator[Field]]]] = [
    (b"ftyp", 4, mp4_fields),
    (b"RIFF", 0, riff_fields),
    (b"\x1a\x45\xdf\xa3", 0, ebml_fields),
    (b"fLaC", 0, flac_fields),
    (b"GIF8", 0, gif_fields),
    (b"OggS", 0, ogg_fields),
    (b"ID3", 0, mp3_fields),
]


def _packed(widths: dict[str, int], offset: int, byteorder: str = "little") -> Iterator[Field]:
    """Fields that follow one another without gaps."""
    for name, width in widths.items():
        yield Field(name, offset, width, byteorder)
        offset += width


def _occurrences(content: bytes, pattern: bytes) -> Iterator[int]:
    start = content.find(pattern)
    while start >= 0:
        yield start
        start = content.find(pattern, start + 1)


def _flipped(content: bytes, random: np.random.Generator, within: int) -> bytes:
    """With 1 to 200 bits flipped, few more often than many."""
    damaged = np.frombuffer(content, np.uint8).copy()
    count = int(200 ** random.random())
    bits = np.left_shift(1, random.integers(8, size=count)).astype(np.uint8)
    np.bitwise_xor.at(damaged, random.integers(within, size=count), bits)
    return damaged.tobytes()


def _block(content: bytes, random: np.random.Generator) -> tuple[int, int]:
    """Where a block of 1 to 5000 bytes begins and ends."""
    start = int(random.integers(len(content)))
    return start, min(len(content), start + int(5000 ** random.random()))
