"""An index inside Milvus, for libraries beyond one machine: the engine searches, filters and groups by track."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.retrieval.index import MusicIndex
from viml_hf.retrieval.index_tracks import StoredTracks, Track, track_key, window_counts
from viml_hf.retrieval.licence_ids import licence_family, licence_id
from viml_hf.retrieval.search import Hit
from viml_hf.retrieval.where import Combination, Comparison, Condition, parse_where

SCHEME = "milvus:"
SCHEMA = 1
ROWS_AT_A_TIME = 500
_SERVER = re.compile(r"milvus://(?P<host>[^/\s]+)/(?P<collection>\w+)")
_ACCEPTED = "give milvus://HOST:PORT/COLLECTION for a server, or milvus:FILE.db for Milvus Lite"


class MilvusIndex:
    """An index in a collection of Milvus, filled by `fill_milvus`. It is searched like a [`MusicIndex`].

    A row's vector is its embedding and behind it its two corrections for hubs. A query's vector has -1 in the place of
    the correction that counts, so that their inner product is the corrected similarity. Which index the engine uses for
    it is the server's affair: with `FLAT`, as `fill_milvus` makes it, the ranking is exact.

    Args:
        address: `milvus://HOST:PORT/COLLECTION`, or `milvus:FILE.db` for Milvus Lite. A server's token is taken from
            the environment variable `MILVUS_TOKEN`.

    Raises:
        ViMLError: It cannot be reached, or is no such index.
    """

    def __init__(self, address: str):
        self.address = address
        self._client, self._collection = _connect(address)
        facts = _read_facts(self._client, self._collection)
        if facts is None or not facts["complete"]:
            state = "no index" if facts is None else "an index that is not filled yet"
            raise ViMLError(f"{address}: {state} there; fill it with `viml index MUSIC -o INDEX --engine {address}`")
        self._facts = facts
        self.model, self.fingerprint = facts["model"], facts["fingerprint"]
        self.encoders, self.width = facts["encoders"], facts["width"]
        self.tracks = _StoredInMilvus(self)

    @property
    def num_tracks(self) -> int:
        """How many tracks can be recommended."""
        return self._facts["tracks"]

    def find(self, key: int) -> Track | None:
        """The track of a [`track_key`]; `None` where there is none."""
        rows = _asked(self._client.query, self._collection, filter=f"key == {key}", output_fields=["*"], limit=1)
        if not rows:
            return None
        names = self._facts["columns"]
        known = {name: [rows[0].get(column)] for column, name in _columns(names).items()}
        return StoredTracks(pa.table(known))[0]

    @property
    def columns(self) -> list[str]:
        """What is known of tracks, but lists, which cannot be searched here."""
        return [name for name, kind in self._facts["columns"].items() if kind != "other"]

    def position(self, key: int) -> int | None:
        """The key itself where there is such a track: it is what `tracks` are looked up by."""
        return None if self.find(key) is None else key

    def rows_of(self, position: int) -> np.ndarray:
        """The embeddings `(windows, dim)` float32 of the track of a key."""
        fields, which = ["window", "vector"], f"key == {position}"
        rows = _asked(self._client.query, self._collection, filter=which, output_fields=fields)
        vectors = [row["vector"][: self.width] for row in sorted(rows, key=lambda row: row["window"])]
        return np.array(vectors, np.float32)

    def condition(self, where: str) -> Condition:
        """As [`MusicIndex.condition`]."""
        condition = parse_where(where)
        _expression(condition, self._facts["columns"])
        return condition

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: str | Condition | None = None,
        *,
        with_text: bool | Sequence[bool] = False,
        hubness_correction: bool = True,
        approximate: bool = False,
    ) -> list[list[Hit]]:
        """As [`MusicIndex.search`]; equal scores in the order of the tracks' names, and `Hit.track` is a `track_key`.

        Raises:
            ViMLError: As there, or the engine does not answer.
        """
        if approximate:
            raise ViMLError("approximate=True: an engine decides itself how it searches; leave it out")
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.width or not np.isfinite(queries).all():
            raise ViMLError(
                f"queries of shape {queries.shape}: give rows of {self.width} finite numbers, one per query"
            )
        if k < 1:
            raise ViMLError(f"k={k}: give the number of tracks to recommend, 1 or more")
        columns = np.broadcast_to(np.asarray(with_text, bool), len(queries)).astype(int)
        vectors = np.concatenate([queries, np.zeros((len(queries), 2), np.float32)], axis=1)
        if hubness_correction:
            vectors[np.arange(len(queries)), self.width + columns] = -1
        condition = self.condition(where) if isinstance(where, str) else where
        answers = _asked(
            self._client.search,
            self._collection,
            data=vectors.tolist(),
            limit=k,
            filter="" if condition is None else _expression(condition, self._facts["columns"]),
            group_by_field="key",
            group_size=1,
            strict_group_size=True,
            output_fields=["key", "window", "name", "corrections"],
        )
        found = []
        for answer, column in zip(answers, columns, strict=True):
            rows = sorted(answer, key=lambda row: (-row["distance"], row["entity"]["name"]))
            hits = []
            for row in rows:
                entity, score = row["entity"], float(row["distance"])
                taken = entity["corrections"][column] if hubness_correction else 0.0
                hits.append(Hit(entity["key"], entity["window"], score, score + taken))
            found.append(hits)
        return found


class _StoredInMilvus(Mapping[int, Track]):
    """The tracks by their key, each asked for when it is looked up."""

    def __init__(self, index: MilvusIndex):
        self.index = index

    def __getitem__(self, key: int) -> Track:
        track = self.index.find(key)
        if track is None:
            raise KeyError(key)
        return track

    def __len__(self) -> int:
        return self.index.num_tracks

    def __iter__(self) -> Iterator[int]:
        for rows in _pages(self.index._client, self.index._collection, "window == 0", ["key"]):
            yield from (row["key"] for row in rows)


def fill_milvus(address: str, index: MusicIndex, *, progress: bool = True) -> int:
    """Make a collection hold an index: rows that it has are left, others are written, those of no track are deleted.

    After an interruption, call it again. A collection that was complete before can be searched meanwhile.

    Args:
        address: See [`MilvusIndex`].
        index: What it is to hold.
        progress: Show a progress bar.

    Returns:
        How many rows were written.

    Raises:
        ViMLError: It cannot be reached, or holds the index of another model.
    """
    client, collection = _connect(address)
    facts = _read_facts(client, collection)
    if facts is not None and (facts["fingerprint"], facts["width"]) != (index.fingerprint, index.width):
        raise ViMLError(f"{address}: holds the index of another model ({facts['model']}); give another collection")
    table = index.table
    types = {name: _kind(table.schema.field(name).type) for name in table.column_names}
    new: dict[str, Any] = {
        "schema": SCHEMA,
        "model": index.model,
        "fingerprint": index.fingerprint,
        "encoders": index.encoders,
        "width": index.width,
        "tracks": index.num_tracks,
        "columns": {**(facts or {}).get("columns", {}), **types},
        "complete": facts is not None and facts["complete"],
    }
    if facts is None:
        _create(client, collection, index.width)
    _write_facts(client, collection, new)
    written, expected = 0, []
    rows = _rows(index, table, new["columns"])
    with tqdm(total=index.windows, desc="fill", unit="row", disable=not progress) as bar:
        for batch in _batches(rows, ROWS_AT_A_TIME):
            identities = [row["id"] for row in batch]
            expected += identities
            there = _asked(client.get, collection, ids=identities, output_fields=["id", "stamp"])
            stamps = {row["id"]: row["stamp"] for row in there}
            missing = [row for row in batch if stamps.get(row["id"]) != row["stamp"]]
            if missing:
                _asked(client.upsert, collection, missing)
            written += len(missing)
            bar.update(len(batch))
    _delete_others(client, collection, np.array(expected, np.int64))
    _write_facts(client, collection, {**new, "complete": True})
    return written


def _rows(index: MusicIndex, table: "pa.Table", columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a collection: one per window, with all that is known of its track."""
    counts, first = window_counts(StoredTracks(table)), 0
    short = {name: column for column, name in _columns(columns).items()}
    embeddings, corrections = index.embeddings, index.corrections
    for number, count in enumerate(counts.tolist()):
        known = table.slice(number, 1).to_pylist()[0]
        facts = {short[name]: value for name, value in known.items() if value is not None}
        if known["licence"] is not None:
            short_name = licence_id(known["licence"])
            facts |= {"licence_id": short_name, "licence_family": licence_family(short_name)}
        key, described = track_key(known["track"]), json.dumps(facts, sort_keys=True, default=str).encode()
        for window in range(count):
            embedding = embeddings[first + window].astype(np.float32)
            taken = np.zeros(2, np.float32) if corrections is None else corrections[first + window]
            vector = np.concatenate([embedding, taken])
            yield {
                "id": track_key(f"{known['track']}\0{window}"),
                "key": key,
                "window": window,
                "name": known["track"],
                "corrections": taken.tolist(),
                "stamp": _integer(vector.tobytes() + described),
                "vector": vector.tolist(),
                **facts,
            }
        first += count


def _columns(names: Mapping[str, str]) -> dict[str, str]:
    """The field that holds each column; a manifest may call its columns anything."""
    return {f"c{number}": name for number, name in enumerate(names)}


def _expression(condition: Condition, columns: Mapping[str, str], wanted: bool = True) -> str:
    """A condition as Milvus writes it: true for the tracks of which the condition is `wanted`, and not unknown."""
    if isinstance(condition, Combination):
        if condition.operator == "not":
            return _expression(condition.parts[0], columns, not wanted)
        joined = " and " if (condition.operator == "and") == wanted else " or "
        return f"({joined.join(_expression(part, columns, wanted) for part in condition.parts)})"
    field = {name: column for column, name in _columns(columns).items()}.get(condition.column)
    if field is None:
        raise ViMLError(f"where: no column {condition.column!r}; there are {', '.join(columns)}")
    if condition.operator == "is null":
        return f"not exists {field}" if wanted else f"exists {field}"
    test = _licence_test(condition) if _is_licence(condition) else _test(condition, field, columns[condition.column])
    if (condition.operator != "!=") != wanted:
        test = f"not ({test})"
    return f"(exists {field} and {test})"


def _is_licence(condition: Comparison) -> bool:
    return condition.column == "licence" and condition.operator in ("=", "!=", "in")


def _licence_test(condition: Comparison) -> str:
    names = json.dumps(sorted({licence_id(str(value)) for value in condition.values}), ensure_ascii=False)
    return f"(licence_id in {names} or licence_family in {names})"


def _test(condition: Comparison, field: str, kind: str) -> str:
    """A column compared with each value."""
    for value in condition.values:
        given = "truth" if isinstance(value, bool) else "number" if isinstance(value, float) else "text"
        if given != kind:
            raise ViMLError(
                f"where: the column {condition.column!r} is of kind {kind} in {SCHEME}…; {value!r} cannot be compared "
                "with it"
            )
    operator = condition.operator if condition.operator in ("<", "<=", ">", ">=") else "=="
    tests = (f"{field} {operator} {json.dumps(value, ensure_ascii=False)}" for value in condition.values)
    return f"({' or '.join(tests)})"


def _kind(column: "pa.DataType") -> str:
    if pa.types.is_string(column):
        return "text"
    if pa.types.is_boolean(column):
        return "truth"
    return "number" if pa.types.is_integer(column) or pa.types.is_floating(column) else "other"


def _connect(address: str) -> tuple[Any, str]:
    """A client, and the name of the collection."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise ViMLError(f"{address}: needs pymilvus: pip install 'viml-hf[milvus]'") from error
    # It prints a traceback of every error that it also raises.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    server = _SERVER.fullmatch(address)
    if server is None and (address.startswith(f"{SCHEME}//") or not address.endswith(".db")):
        raise ViMLError(f"{address}: not an address of Milvus; {_ACCEPTED}")
    if server is None:
        path = address.removeprefix(SCHEME)
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise ViMLError(f"{address}: no such folder; {_ACCEPTED}")
        return _asked(MilvusClient, path), "viml"
    uri, token = f"http://{server['host']}", os.environ.get("MILVUS_TOKEN", "")
    return _asked(MilvusClient, uri, token=token, timeout=10), server["collection"]


def _asked(call: Any, *arguments: Any, **options: Any) -> Any:
    """The engine's answer; its errors in one line."""
    from pymilvus.exceptions import MilvusException

    try:
        return call(*arguments, **options)
    except MilvusException as error:
        raise ViMLError(f"Milvus: {in_one_line(error)[:300]}") from error


def _create(client: Any, collection: str, width: int) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ("key", "window", "stamp"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width + 2)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    _asked(client.create_collection, collection, schema=schema, index_params=index)


def _facts_collection(collection: str) -> str:
    return f"{collection}_facts"  # of one row; a collection needs a vector


def _write_facts(client: Any, collection: str, facts: dict[str, Any]) -> None:
    name = _facts_collection(collection)
    if not _asked(client.has_collection, name):
        _asked(client.create_collection, name, dimension=2, auto_id=False)
    _asked(client.upsert, name, [{"id": 0, "vector": [0.0, 1.0], "facts": json.dumps(facts)}])


def _read_facts(client: Any, collection: str) -> dict[str, Any] | None:
    name = _facts_collection(collection)
    if not _asked(client.has_collection, name):
        return None
    for one in (name, collection):
        if _asked(client.has_collection, one):
            _asked(client.load_collection, one)
    rows = _asked(client.get, name, ids=[0], output_fields=["facts"])
    facts = json.loads(rows[0]["facts"]) if rows else None
    if facts is not None and facts["schema"] != SCHEMA:
        raise ViMLError(f"{collection}: of schema {facts['schema']}, and {SCHEMA} is read here; fill another")
    return facts


def _delete_others(client: Any, collection: str, expected: np.ndarray) -> None:
    expected.sort()
    for rows in list(_pages(client, collection, "window >= 0", ["id"])):
        found = np.array([row["id"] for row in rows], np.int64)
        others = found[~np.isin(found, expected)]
        if len(others):
            _asked(client.delete, collection, ids=others.tolist())


def _pages(client: Any, collection: str, which: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
    pages = _asked(client.query_iterator, collection, filter=which, output_fields=fields, batch_size=ROWS_AT_A_TIME)
    while rows := _asked(pages.next):
        yield rows
    pages.close()


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _integer(content: bytes) -> int:
    """A checksum as a signed number of 64 bits."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big", signed=True)
