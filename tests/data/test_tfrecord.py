import numpy as np
import pytest

from tests.tfrecords import example, framed, masked, message, sequence_example, slow_crc32c, write_tfrecord
from viml_hf import ViMLError
from viml_hf.data.tfrecord import crc32c, parse_example, read_records


def test_checksums_are_those_of_rfc_3720():
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [0, 3, 255, 256, 257, 5000])
def test_checksums_of_any_length_are_those_of_the_plain_rule(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == slow_crc32c(data)


def test_records_come_back(tmp_path):
    records = [b"", b"a", bytes(1000)]
    path = write_tfrecord(tmp_path / "a.tfrecord", records)
    assert list(read_records(path)) == [(f"{path} record {n}", data) for n, data in enumerate(records, start=1)]


def errors(path):
    return [
        (place.rpartition(" ")[2], str(found)) for place, found in read_records(path) if not isinstance(found, bytes)
    ]


@pytest.mark.parametrize(
    ("byte", "read", "error"),
    [
        (12, [b"first", b"third"], "the checksum of its data is wrong"),
        (
            2,
            [b"first"],
            "the checksum of its length is wrong: the rest of the file cannot be read",
        ),
    ],
)
def test_damaged_data_cost_that_record_and_a_damaged_length_the_rest_of_the_file(tmp_path, byte, read, error):
    content = bytearray(framed(b"first") + framed(b"second") + framed(b"third"))
    content[len(framed(b"first")) + byte] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content)
    assert [found for _, found in read_records(path) if isinstance(found, bytes)] == read
    assert errors(path) == [("2", f"{error}; fetch the file again")]


def test_a_file_that_ends_early_says_so_wherever_it_ends(tmp_path):
    whole = framed(b"first") + framed(b"second")
    path = tmp_path / "a.tfrecord"
    for length in range(len(framed(b"first")) + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert [found for _, found in read_records(path) if isinstance(found, bytes)] == [b"first"]
        assert errors(path) == [("2", "the file ends in the middle of it; fetch the file again")]


def test_a_length_beyond_the_file_takes_no_memory(tmp_path):
    length = (2**62).to_bytes(8, "little")
    path = tmp_path / "a.tfrecord"
    path.write_bytes(length + masked(length) + b"short")
    assert errors(path) == [("1", "the file ends in the middle of it; fetch the file again")]


def test_an_empty_and_a_missing_file_are_problems_too(tmp_path):
    (tmp_path / "empty.tfrecord").touch()
    assert [str(found) for _, found in read_records(tmp_path / "empty.tfrecord")] == [
        "the file is empty; fetch it again"
    ]
    ((place, found),) = read_records(tmp_path / "none.tfrecord")
    assert place == str(tmp_path / "none.tfrecord")
    assert "No such file" in str(found)


@pytest.mark.parametrize("packed", [True, False])
def test_features_come_back_packed_or_not(packed):
    floats = np.array([0.5, -1.5, 3e38], np.float32)
    found = parse_example(example({"id": b"ab", "labels": [0, 300, -1, 2**62], "mean": floats}, packed=packed))
    assert found.features["id"] == [b"ab"]
    assert found.features["labels"].tolist() == [0, 300, -1, 2**62]
    assert np.array_equal(found.features["mean"], floats)
    assert found.sequences == {}


def test_sequences_come_back():
    found = parse_example(sequence_example({"id": b"ab"}, {"rgb": [b"\x00\x01", b"\x02\x03"], "audio": [[7], [8]]}))
    assert found.features == {"id": [b"ab"]}
    assert found.sequences["rgb"] == [[b"\x00\x01"], [b"\x02\x03"]]
    assert [int(number) for (number,) in found.sequences["audio"]] == [7, 8]


def test_unknown_fields_and_empty_features_are_passed_over():
    data = (
        message(9, b"later") + b"\x50\x01" + b"\x59" + bytes(8) + example({"id": b"ab"}) + message(1, message(1, b""))
    )
    assert parse_example(data).features == {"id": [b"ab"], "": []}


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x0a\x05ab", "a field that is cut short"),
        (b"\x0a", "a number that is cut short"),
        (b"\xff" * 11, "an integer of more than 64 bits"),
        (b"\x0b", "a field of the unknown kind 3"),
        (b"\x08\x01", "a number in field 1"),
        (message(1, message(1, message(1, b"\xff") + message(2, b""))), "codec can't decode"),
        (message(1, message(1, message(2, message(2, message(1, b"abc"))))), "buffer size"),
    ],
)
def test_what_is_no_example_is_refused_in_one_line(data, cause):
    with pytest.raises(ViMLError, match=cause) as error:
        parse_example(data)
    assert "\n" not in str(error.value)
