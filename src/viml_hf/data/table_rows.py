"""The rows of CSV, TSV, JSONL and Parquet files."""

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.processing.media import printable
from viml_hf.processing.media_files import suffix_of

BATCH_ROWS = 10_000  # of a Parquet file, made into Python's objects at once
COPIES = 100_000  # values in a column that a Parquet file may have, also where there is less than a byte for each
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

logger = logging.getLogger(__name__)

Found = TypeVar("Found")
Row = dict[str, Any] | ViMLError  # the cells by column, or what is wrong with the line
Rows = Iterable[tuple[str, Row]]  # each with its line


def read_rows(path: str) -> tuple[list[str], Iterator[tuple[str, Row]]]:
    """The columns and rows of a table, each with its file and line; those of a Parquet file are read as they are taken.

    A file of none of `TABLE_SUFFIXES` is read as CSV.
    """
    suffix, shown = suffix_of(path), printable(path)
    if suffix == ".parquet":
        columns, rows = _parquet_rows(path)
    elif suffix in (".jsonl", ".ndjson"):
        columns, rows = _json_rows(_read_text(path))
    else:
        columns, rows = _csv_rows(shown, _read_text(path), "\t" if suffix == ".tsv" else ",")
    name, count = Counter(filter(None, columns)).most_common(1)[0] if any(columns) else ("", 0)
    if count > 1:
        raise ViMLError(f"{shown}: column {quoted(name)} is there {count} times; rename or remove the others")
    return columns, ((f"{shown} {place}", row) for place, row in rows)


def read_table(path: str, columns: Sequence[str], fix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table that must have these columns, each with its file and line; `fix` names the file to give."""
    found, rows = read_rows(path)
    if missing := [name for name in columns if name not in found]:
        raise ViMLError(f"{printable(path)}: no column {missing[0]!r}; give {fix}")
    for place, row in rows:
        if isinstance(row, ViMLError):
            raise ViMLError(f"{place}: {row}")
        if missing := [name for name in columns if name not in row]:
            raise ViMLError(f"{place}: no cell of column {missing[0]!r}; give {fix}")
        yield place, row


def parsed(rows: Iterable[tuple[str, Any]], parse: Callable[[Any], Found]) -> Iterator[tuple[str, Found | ViMLError]]:
    """The place of each row with what is made of it, or with its error."""
    for place, row in rows:
        try:
            if isinstance(row, ViMLError):
                raise row
            found: Found | ViMLError = parse(row)
        except ViMLError as error:
            found = error
        yield place, found


def quoted(value: Any, length: int = 80) -> str:
    """A value for an error message, on one line and shortened."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ViMLError(f"{printable(path)}: cannot be read ({error.strerror}); give a readable file") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ViMLError(f"{printable(path)} line {line}: not UTF-8; save the file as UTF-8") from error


def _csv_rows(shown: str, text: str, delimiter: str) -> tuple[list[str], Rows]:
    # Strict: a quote that is never closed would silently swallow the rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[tuple[str, Row]] = []
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return columns, rows
        except csv.Error as error:
            if not columns:
                raise ViMLError(f"{shown}: the line of column names cannot be read ({error})") from error
            lines = f"line {first}" if reader.line_num <= first else f"lines {first}-{reader.line_num}"
            fix = "put a cell with commas or quotes in quotes, and write its quotes twice"
            rows.append((lines, ViMLError(f"{error}; {fix}")))
            continue
        if not any(cell.strip() for cell in cells):
            continue
        row: Row = dict(zip(columns, cells, strict=False))
        if not columns:
            columns = [cell.strip() for cell in cells]
            continue
        if any(cells[len(columns) :]):
            row = ViMLError(f"{len(cells)} cells for {len(columns)} columns; put commas in quotes")
        rows.append((f"line {first}", row))


def _json_rows(text: str) -> tuple[list[str], Rows]:
    rows: list[tuple[str, Row]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = ViMLError(f"{quoted(line.strip())}: not JSON ({error}); give one object a line")
        if not isinstance(row, (dict, ViMLError)):
            row = ViMLError(f"{quoted(row)}: not an object; give one object a line")
        rows.append((f"line {number}", row))
    return list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row)), rows


def _parquet_rows(path: str) -> tuple[list[str], Rows]:
    with _open_parquet(path) as parquet:
        schema = parquet.schema_arrow
    columns = [column.name for column in schema if not _holds_bytes(column.type)]
    if len(columns) < len(schema):
        logger.warning("%s: columns of bytes left out: %s", printable(path), set(schema.names) - set(columns))
    return columns, _iter_parquet(path, columns)


def _iter_parquet(path: str, columns: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows, of which a batch at a time is in memory."""
    with _open_parquet(path) as parquet:
        batches = parquet.iter_batches(BATCH_ROWS, columns=columns)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
            yield f"row {number}", row


@contextmanager
def _open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    try:
        # From an open file: by its name a folder like `split=test` would be taken for a column.
        with open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            _refuse_copies(parquet.metadata, os.path.getsize(path), printable(path))
            yield parquet
    except ViMLError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        cause = printable(in_one_line(error))
        raise ViMLError(f"{printable(path)}: cannot be read as Parquet ({cause}); write it again") from error


def _refuse_copies(metadata: pq.FileMetaData, size: int, shown: str) -> None:
    """Refuse a file of a few kB that unpacks into millions of equal rows, or of equal values in a row."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    values = [sum(group.column(index).num_values for group in groups) for index in range(metadata.num_columns)]
    if (most := max([metadata.num_rows, *values])) > max(size, COPIES):
        raise ViMLError(
            f"{shown}: {metadata.num_rows:,} rows with {most:,} values in a column, in {size:,} bytes: nearly all are "
            "copies of one another; remove those, or write the table as CSV"
        )


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, or records with bytes, such as embedded media."""
    kinds = [kind, *(kind.field(index).type for index in range(kind.num_fields))]
    bytes_kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(one) for one in kinds for is_kind in bytes_kinds)
