import json

import pytest

from viml_hf import ViMLError
from viml_hf.features.record_journal import RecordJournal

A = {"id": "a", "text": "Ein Stück.", "omitted": ["pop", "rock"], "note": ""}
B = {"id": "b\n\udce9", "text": "Jazz “live”\u2028", "fallback": True, "note": ""}


def test_a_journal_gives_back_what_was_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = RecordJournal(path)
    journal.append(A)
    journal.append(B)
    assert journal.done == {A["id"], B["id"]}
    again = RecordJournal(path)
    assert again.done == {A["id"], B["id"]}
    assert list(again.read()) == [A, B]
    assert again.get(B["id"]) == B
    again.append(A | {"note": "once more"})
    assert [record["note"] for record in again.read()] == ["", "once more"]  # of an id the last


def test_a_cut_last_line_is_cut_off_at_any_byte(tmp_path):
    path = tmp_path / "journal.jsonl"
    for record in (A, B):
        RecordJournal(path).append(record)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        journal = RecordJournal(path)
        assert journal.done == {A["id"]}, size
    journal.append(B)
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    RecordJournal(path).append(A)
    for line in ("not JSON", "[]", "5", json.dumps({"name": "a"}), json.dumps({"id": 5})):
        path.write_text(f"{json.dumps(A)}\n{line}\n{json.dumps(B)}\n")
        with pytest.raises(ViMLError, match=r"line 2 is no record .* delete it"):
            RecordJournal(path)


def test_a_journal_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ViMLError, match="cannot be written"):
        RecordJournal(tmp_path / "no folder" / "journal.jsonl")


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    journal = RecordJournal(path)
    journal.append(A)
    whole = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        journal.append(B)
    assert path.read_bytes() == whole
    assert journal.done == {A["id"]}
