import json

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from viml_hf import MediaEncoder, Store, StoreWriter, TagVocabulary, TrackTags, ViMLError
from viml_hf.features.extraction import store_spec
from viml_hf.features.named_texts import read_texts
from viml_hf.features.record_journal import RecordJournal
from viml_hf.synthesis.description import Method
from viml_hf.synthesis.rules import rules_method
from viml_hf.synthesis.store_descriptions import describe_store
from viml_hf.tagging.store_tags import TAGS_FILE

VOCABULARY = TagVocabulary.load()
TAGS = {
    "a": {"genre": {"pop": 0.9, "rock": 0.1}, "mood": {"sad": 0.5}, "instrument": {"piano": 0.4}},
    "b": {"genre": {"rock": 0.8}, "mood": {"happy": 0.7}, "instrument": {}},
    "c": {"genre": {"rock": 0.2}, "mood": {}, "instrument": {}},
}


@pytest.fixture(scope="module")
def encoder():
    return MediaEncoder.from_names("descriptors", "descriptors", "descriptors")


@pytest.fixture
def store(encoder, tmp_path):
    """Four items; three of them tagged, and of one of these no tag is above the threshold."""
    names = dict.fromkeys(("video", "text", "audio"), "descriptors")
    with StoreWriter(tmp_path / "store", store_spec(names, encoder), encoder.null_text()) as writer:
        for name in "abcd":
            writer.add(name, video=np.ones((2, 160)), audio=np.ones((2, 168)), split="train")
    journal = RecordJournal(tmp_path / "store" / TAGS_FILE)
    for name, confidences in TAGS.items():
        journal.append({"id": name, "tagger": "test", "tags": TrackTags(confidences).to_record()})
    return Store(tmp_path / "store")


def test_descriptions_are_written_checked_encoded_and_trained_on(store, encoder):
    assert describe_store(store, rules_method("tags", VOCABULARY), progress=False) == 0
    described = store.with_texts("tags")
    texts = {item.id: item.texts for item in described.items}
    assert {name: sorted(" ".join(t).split(", ")) for name, t in texts.items()} == {
        "a": ["piano", "pop", "sad"],
        "b": ["happy", "rock"],
        "c": [""],
        "d": [""],
    }
    rows = described.rows("text", described.items[0].text).numpy()
    assert np.array_equal(rows, encoder.encode_text(texts["a"][0]))
    record = RecordJournal(store.folder / "texts" / "tags.jsonl").get("a")
    assert (record["method"], record["seed"], record["omitted"], record["hallucinated"]) == ("tags", 0, [], [])


def test_a_killed_run_goes_on_and_describes_nothing_twice(store):
    method, seen = rules_method("data2text-rules", VOCABULARY), []

    def interrupted(tracks):
        for description in method.describe(tracks):
            seen.append(description.id)
            if seen == ["a", "b"]:
                raise KeyboardInterrupt
            yield description

    watched = Method(method.name, method.model, method.seed, method.threshold, interrupted)
    with pytest.raises(KeyboardInterrupt):
        describe_store(store, watched, progress=False)
    with pytest.raises(ViMLError, match="no texts named 'data2text-rules'"):
        store.with_texts("data2text-rules")
    describe_store(store, watched, progress=False)
    assert seen == ["a", "b", "b", "c"]
    assert read_texts(store.folder, "data2text-rules").ids == ("a", "b")


def test_a_track_is_described_anew_when_other_tags_are_told(store):
    describe_store(store, rules_method("tags", VOCABULARY), progress=False)
    journal = RecordJournal(store.folder / TAGS_FILE)
    for name, genre in (("a", {"pop": 0.9, "rock": 0.2}), ("b", {"jazz": 0.8})):  # of "a" none that is told
        journal.append({"id": name, "tagger": "test", "tags": {**TAGS[name], "genre": genre}})
    describe_store(store, rules_method("tags", VOCABULARY), progress=False)
    lines = (store.folder / "texts" / "tags.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c", "b"]
    texts = {item.id: item.texts for item in store.with_texts("tags").items}
    assert sorted(texts["b"][0].split(", ")) == ["happy", "jazz"]


def test_another_seed_and_another_text_encoder_are_refused(store):
    describe_store(store, rules_method("tags", VOCABULARY), progress=False)
    with pytest.raises(ViMLError, match="made with model '' and seed 0, not '' and 1; take those, or delete the file"):
        describe_store(store, rules_method("tags", VOCABULARY, seed=1), progress=False)
    store.spec.fingerprints["text"] = "of another encoder"
    with pytest.raises(ViMLError, match="its texts were encoded by another descriptors"):
        describe_store(store, rules_method("tags", VOCABULARY), progress=False)


def test_the_command_describes_and_reports(store, viml):
    for method in ("tags", "data2text-rules"):
        status, out, _ = viml("describe", store.folder, "--method", method, "--quiet")
        assert (status, out) == (0, [f"texts '{method}' of {store.folder}: viml train {store.folder} --texts {method}"])
    status, out, _ = viml("describe", store.folder, "--report")
    rows = {line.split("|")[1].strip(): line for line in out if line.startswith("| ")}
    assert "0.0%" in rows["tags"]
    assert "0.0%" in rows["data2text-rules"]
    assert "not run: needs weights" in rows["data2text"]
    assert "not run: needs weights" in rows["prompt2text"]


def test_what_is_missing_is_said(store, viml):
    for arguments, reason in (
        ([], "nothing to do: give --method, --report, or both"),
        (["--method", "data2text"], "data2text: not run: needs weights of ordering, aggregation, compression"),
        (["--method", "prompt2text"], "prompt2text needs --model"),
    ):
        status, _, (error,) = viml("describe", store.folder, *arguments)
        assert (status, reason in error) == (2, True)
    (store.folder / TAGS_FILE).unlink()
    status, _, (error,) = viml("describe", store.folder, "--method", "tags")
    assert (status, "no tags yet; run `viml tag" in error) == (2, True)


def test_prompt2text_with_a_local_model(store, viml, tmp_path):
    """A random model writes nonsense: every track falls back, and says so."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=259, eos_token_id=1)).save_pretrained(tmp_path / "lm")
    ByT5Tokenizer().save_pretrained(tmp_path / "lm")
    examples = tmp_path / "captions.csv"
    examples.write_text(
        "ytid,aspect_list,caption\n"
        "x,\"['pop', 'sad', 'piano']\",A sad pop song with piano.\n"
        "y,\"['rock', 'happy']\",Happy rock music.\n"
    )
    options = ["--method", "prompt2text", "--model", tmp_path / "lm", "--examples", examples, "-k", 2, "--quiet"]
    status, _, errors = viml("describe", store.folder, *options)
    assert status == 0, errors
    assert "2 tracks got the text of data2text-rules" in errors[-1]
    record = RecordJournal(store.folder / "texts" / "prompt2text.jsonl").get("a")
    assert record["fallback"] is True
    assert record["method"] == "data2text-rules"
    assert record["model"] == str(tmp_path / "lm")
    assert json.loads((store.folder / "texts" / "prompt2text.json").read_text())["texts"] == 2
    _, out, _ = viml("describe", store.folder, "--report")
    # The texts of rules are counted, not measured as the model's: left is the empty one of a track without tags.
    (row,) = [line for line in out if line.startswith("| prompt2text")]
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["1", "1", "2"]
