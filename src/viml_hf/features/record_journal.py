"""A file of records that grows line by line, so that a run that was killed goes on where it was."""

import json
from collections.abc import Iterator, KeysView
from pathlib import Path
from typing import Any

from viml_hf.errors import ViMLError
from viml_hf.features.atomic_files import append_line


class RecordJournal:
    """A JSONL file of records with an id, to which one process appends.

    A line is on the disk when `append` returns. An incomplete last line, left by a run that was killed, is cut off when
    the file is opened. Only ids and byte positions are held in memory.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with self.path.open("ab+") as file:
                file.seek(0)
                file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))
            self._places = {record["id"]: place for record, place in self._records()}
        except OSError as error:
            raise ViMLError(f"{path} cannot be written ({error.strerror}): give another file") from error

    @property
    def done(self) -> KeysView[str]:
        """The ids of the records."""
        return self._places.keys()

    def append(self, record: dict[str, Any]) -> None:
        """Write a record with an `id`, and wait until it is on the disk."""
        size = self.path.stat().st_size
        append_line(self.path, json.dumps(record) + "\n")
        self._places[record["id"]] = size

    def read(self) -> Iterator[dict[str, Any]]:
        """The records in file order; of several with one id, the last."""
        return (record for record, place in self._records() if self._places[record["id"]] == place)

    def get(self, record_id: str) -> dict[str, Any]:
        """The record of an id; the last, if there are several."""
        with self.path.open("rb") as file:
            file.seek(self._places[record_id])
            return json.loads(file.readline())

    def _records(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The record of every line, with its position in bytes."""
        place = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
                        raise ValueError("it has no id")
                except (ValueError, RecursionError) as error:
                    raise ViMLError(
                        f"{self.path} line {number} is no record ({error}): delete it, and it is made again"
                    ) from error
                yield record, place
                place += len(line)
