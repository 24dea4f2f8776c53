"""A store as a `datasets.Dataset` and back; `Store.to_dataset` and `Store.from_dataset` are the way in."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.features.checksums import digest, sha256_of
from viml_hf.features.named_texts import path_of_texts
from viml_hf.features.store_format import (
    FIELD_TYPES,
    ITEMS_FILE,
    JOURNAL_FILE,
    MODALITIES,
    STORE_FILE,
    StoreItem,
    StoreSpec,
    split_fields,
)
from viml_hf.features.store_writer import StoreWriter

if TYPE_CHECKING:
    from datasets import Dataset


def dataset_of_items(store: Any, with_errors: bool, cache_dir: str | Path | None) -> "Dataset":
    """The dataset of a store; see [`Store.to_dataset`]."""
    try:
        from datasets import Dataset, Features, List, Value
    except ImportError as error:
        raise ViMLError("to_dataset() needs the package datasets: pip install viml-hf[datasets]") from error
    kinds = {str: "string", float: "float64"}
    columns: dict[str, Any] = {"id": Value("string")}
    columns |= {modality: List(List(Value("float16"))) for modality in MODALITIES}
    columns |= {"texts": List(Value("string")), "error": Value("string"), "fields": Value("string")}
    columns |= {name: Value(kinds[kind]) for name, kind in FIELD_TYPES.items()}
    # The cache goes by this: by itself, `datasets` would pickle the store's items one by one.
    files = [store.folder / name for name in (STORE_FILE, ITEMS_FILE, JOURNAL_FILE)]
    if store.texts is not None:
        files.append(path_of_texts(store.folder, store.texts))
    known = [with_errors, str(store.folder.resolve()), *map(sha256_of, files)]
    return Dataset.from_generator(
        examples,
        features=Features(columns),
        cache_dir=cache_dir and str(cache_dir),
        gen_kwargs={"store": store, "with_errors": with_errors},
        fingerprint=digest(known)[:32],
    )


def examples(store: Any, with_errors: bool) -> Iterator[dict[str, Any]]:
    """The rows of the dataset, one item at a time."""
    for item in store.items:
        if item.error is None or with_errors:
            features = {modality: store.rows(modality, getattr(item, modality)).numpy() for modality in MODALITIES}
            known, others = split_fields(item.fields)
            columns = {name: known.get(name) for name in FIELD_TYPES}
            texts = list(item.texts)
            yield {"id": item.id, **features, "texts": texts, "error": item.error, "fields": others, **columns}


def write_dataset_as_store(
    dataset: "Dataset",
    folder: str | Path,
    encoders: Mapping[str, str] | None,
    null_text: Any,
    spec_fields: dict[str, Any],
) -> None:
    """Write a store from a dataset; see [`Store.from_dataset`]."""
    from datasets import Array2D, LargeList, List

    dataset = _with_our_names(dataset)
    if (Path(folder) / JOURNAL_FILE).exists():
        raise ViMLError(f"{folder}: holds a store already; give a new folder, or remove this one")
    present = [modality for modality in MODALITIES if modality in dataset.column_names]
    for modality in present:
        if not isinstance(dataset.features[modality], (Array2D, LargeList, List)):
            raise ViMLError(
                f"column {modality!r} is {dataset.features[modality]}: it is to hold base features, lists of rows; "
                "rename or remove it"
            )
    # float64 holds every other float exactly: the store rounds once.
    dataset = dataset.with_format("numpy", columns=present, output_all_columns=True, dtype=np.float64)
    widths = spec_fields.pop("widths", None) or infer_widths(dataset, null_text)
    spec = StoreSpec(dict(encoders or dict.fromkeys(MODALITIES, "unknown")), widths, **spec_fields)
    with StoreWriter(folder, spec, np.zeros(widths["text"]) if null_text is None else null_text) as writer:
        for row in dataset:
            writer.add_item(*item_of(row))


def _with_our_names(dataset: "Dataset") -> "Dataset":
    """The dataset with the columns of `to_dataset` in the place of those that mean the same."""
    from datasets import Value

    if "text" in dataset.column_names and isinstance(dataset.features["text"], Value):
        dataset = dataset.map(lambda row: {"texts": [row["text"]] if row["text"] else []}, remove_columns="text")
    names = {f"{modality}_features": modality for modality in MODALITIES}
    dataset = dataset.rename_columns({old: new for old, new in names.items() if old in dataset.column_names})
    if "id" not in dataset.column_names:
        dataset = dataset.add_column("id", [str(index) for index in range(len(dataset))])
    return dataset


def infer_widths(dataset: "Dataset", null_text: Any) -> dict[str, int]:
    """Width per modality, of the first row that has features of it; of text also that of the null text."""
    widths = {} if null_text is None else {"text": len(null_text)}
    for row in dataset:
        if len(widths) == len(MODALITIES):
            break
        for modality, features in features_of(row).items():
            widths.setdefault(modality, features.shape[-1])
    for modality in MODALITIES:
        if modality not in widths:
            raise ViMLError(f"no row has {modality} features to tell their width: give widths, {modality} among them")
    return widths


def features_of(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The features of a row, of the modalities that it has."""
    given = {modality: row.get(modality) for modality in MODALITIES}
    arrays = {modality: np.asarray(rows) for modality, rows in given.items() if rows is not None and np.size(rows)}
    return {name: rows[None] if rows.ndim == 1 and rows.dtype != object else rows for name, rows in arrays.items()}


def item_of(row: Mapping[str, Any]) -> tuple[StoreItem, dict[str, np.ndarray]]:
    """The item of a row and its features. A column without a value is no field."""
    try:
        fields = dict(json.loads(row.get("fields") or "{}"))
    except (TypeError, ValueError) as error:
        raise ViMLError(f"item {row['id']!r}: its 'fields' are no JSON object; give the column another name") from error
    others = row.keys() - {"id", "texts", "error", "fields", *MODALITIES}
    fields |= {name: row[name] for name in others if row[name] is not None}
    features = features_of(row)
    # Without a column of texts, the words that the rows were made of are unknown.
    texts = row["texts"] or () if "texts" in row else [""] * len(features.get("text", ()))
    return StoreItem(row["id"], texts=tuple(texts), fields=fields, error=row.get("error")), features
