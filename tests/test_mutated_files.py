"""Damaged and forged stores, manifests and models: one line that names the file or folder, or the right answer.

`tests/retrieval/test_saved_index.py` does the same with an index, `tests/processing/test_mutated_media.py` with media.
"""

import json
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.encoders import checkpoints
from tests.hub.cards import result
from tests.modeling.tiny import HEADS
from tests.mutations import damaged, other_json_value
from tests.stores import WIDTHS, write_store
from viml_hf import (
    MusicIndex,
    Recommender,
    Store,
    StoreDataset,
    StoreSpec,
    StoreWriter,
    ViMLDataCollator,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLProcessor,
)
from viml_hf.data.sources import read_sources
from viml_hf.features.checksums import sealed
from viml_hf.features.named_texts import write_texts
from viml_hf.hub.card_facts import gather_facts
from viml_hf.hub.evaluation_results import save_evaluation
from viml_hf.hub.model_card import render_card
from viml_hf.retrieval.index import Track, Window
from viml_hf.retrieval.model_loading import fingerprint, load_encoder_and_model
from viml_hf.tagging.store_tags import open_tags, read_tags

FEW = [pytest.param(40, id="few"), pytest.param(500, id="many", marks=pytest.mark.slow)]
TRACK = Track("a.wav", "/a.wav", "0", 30.0, (Window(0, 30),))
ROW = {"file_name": "a.mp4", "id": "a", "start": 1, "end": 10.5, "text": 'calm, "piano"', "texts": ["b"], "year": 1999}


def seal_again(record):
    record.pop("sha256", None)
    return sealed(record)


def mutate(path, random, *, alone=False):
    """Damage a file, or replace it by another of its folder, or a JSON value in it by another."""
    content = path.read_bytes()
    if random.random() < 0.1 and not alone:
        others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
        shutil.copy(others[random.integers(len(others))], path)
    elif path.suffix in (".json", ".jsonl") and random.random() < 0.8:
        seal = seal_again if b'"sha256": "' in content and random.random() < 0.6 else dict
        change = partial(other_json_value, random=random, seal=seal if content.lstrip()[:1] == b"{" else list)
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        number = random.integers(len(lines))
        lines[number] = change(lines[number])
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(damaged(content, random))


def hold(folder, tmp_path, read, names, count, right=None):
    """Read `count` mutated copies of a folder; of no kind but these two is an answer."""
    refused = 0
    for number in range(count):
        random = np.random.default_rng(number)
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(folder, copy)
        mutate(copy / names[number % len(names)], random)
        try:
            answer = read(copy)
            assert right is None or answer == right, number
        except (ValueError, OSError) as error:
            (line,) = str(error).splitlines()
            assert str(copy) in line, (number, line)
            assert line.isprintable(), (number, line)
            refused += 1
        shutil.rmtree(copy)
    assert refused > count / 5


def read_store(folder):
    store = Store(folder)
    found = [(item.id, item.texts, sorted(item.fields.items())) for item in store.items]
    found += [store.rows(name, getattr(item, name)).tolist() for item in store.items for name in WIDTHS]
    dataset = StoreDataset(store)
    dataset.set_epoch(0)
    batch = ViMLDataCollator(store)([dataset[0], dataset[1]])
    found += [batch["video_features"].tolist()]
    return found, [item.texts for item in store.with_texts("mine").items]


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, 6, shard_items=3)
    write_texts(folder, "mine", [(f"item-{n:03d}", f"text {n}", np.full(4, n / 10)) for n in range(6)], 4)
    tags = [{"id": f"item-{n:03d}", "tagger": "t", "tags": {"genre": {"pop": 0.5}}} for n in range(6)]
    (folder / "tags.jsonl").write_text("".join(json.dumps(one) + "\n" for one in tags))
    return folder


@pytest.mark.parametrize("count", FEW)
def test_a_mutated_store(store_folder, tmp_path, count):
    names = sorted(path.relative_to(store_folder).as_posix() for path in store_folder.rglob("*.*"))
    others = ("spec.json", "tags.jsonl")
    hold(store_folder, tmp_path, read_store, [n for n in names if n not in others], count, read_store(store_folder))
    hold(store_folder, tmp_path, lambda copy: list(read_tags(open_tags(copy))), ["tags.jsonl"], count)


@pytest.mark.parametrize("count", FEW)
def test_a_mutated_store_is_gone_on_with(store_folder, tmp_path, count):
    def go_on(folder):
        spec = StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS)
        with StoreWriter(folder, spec, np.full(4, 0.5)) as writer:
            done = writer.done
        return len(Store(folder)) == len(done)

    hold(store_folder, tmp_path, go_on, ["spec.json", "journal.jsonl"], count, right=True)


@pytest.mark.parametrize("count", FEW)
def test_a_mutated_manifest(tmp_path, count):
    folder = tmp_path / "manifests"
    folder.mkdir()
    rows = [{**ROW, "file_name": f"{n}.mp4", "id": str(n)} for n in range(5)]
    flat = "".join(",".join(f'"{row[name]}"' for name in ("file_name", "id", "start", "end")) + "\n" for row in rows)
    (folder / "m.csv").write_text(f"file_name,id,start,end\n{flat}")
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")

    for name in ("m.csv", "m.jsonl", "m.parquet"):
        for number in range(count):
            copy = tmp_path / f"{number}-{name}"
            shutil.copy(folder / name, copy)
            mutate(copy, np.random.default_rng(number), alone=True)
            try:
                problems = read_sources(copy).problems
            except ValueError as error:
                problems = [str(error)]
            for line in problems:
                assert str(copy) in line, line
                assert len(line.splitlines()) == 1, line


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """A model in one file and one in several, with what its card is made of."""
    source = tmp_path_factory.mktemp("clip")
    checkpoints.make("clip", source)
    folders = []
    for size in ("1GB", "60KB"):
        folder = tmp_path_factory.mktemp("model")
        model = ViMLForMusicRetrieval.from_encoders(text=f"clip:{source}", **HEADS)
        model.save_pretrained(folder, max_shard_size=size)
        ViMLProcessor.from_encoders(text=f"clip:{source}").save_pretrained(folder)
        training = {"settings": {"epochs": 2, "clip_segments": 3}, "store": {"text": "clip:a/b"}, "training_items": 9}
        metrics = {"metrics": {"R@1": 1.0, "MR": 3.0}, "evaluation_items": 5}
        (folder / "training.json").write_text(json.dumps({**training, **metrics}))
        save_evaluation(folder, model.config.viml_config, result())
        folders.append(folder)
    return folders


@pytest.mark.parametrize("count", FEW)
def test_a_mutated_model(model_folders, tmp_path, count):
    """An index that was made with the model tells what the model's own files do not, such as another weight."""
    for folder in model_folders:
        row, known = np.eye(1, HEADS["projection_dim"], dtype=np.float32), fingerprint(load_encoder_and_model(folder))

        def embed(copy, row=row, known=known):
            index = MusicIndex(row, (TRACK,), str(copy), known)
            return Recommender.from_pretrained(copy, index=index).embed_query(text="slow piano").tolist()

        names = sorted(path.name for path in folder.iterdir() if path.name not in ("training.json", "evaluation.json"))
        hold(folder, tmp_path, embed, names, count // 2, embed(folder))


def test_a_tokenizer_that_panics_is_one_line(model_folders, tmp_path):
    """A panic of Rust is no `Exception`."""
    folder = shutil.copytree(model_folders[0], tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["special_tokens"].pop("<s>")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ViMLError, match="not a saved ViML model with its processor"):
        load_encoder_and_model(folder)


@pytest.mark.parametrize("count", FEW)
def test_the_card_of_a_mutated_model(model_folders, tmp_path, count):
    names = ["training.json", "evaluation.json", "config.json", "evaluation.json"]
    hold(model_folders[0], tmp_path, lambda folder: render_card(gather_facts(folder, "me/model")), names, count)
