import runpy
import shutil
import sys
from itertools import permutations
from pathlib import Path

import pytest
from transformers import AutoModelForTokenClassification, Trainer

from tests.synthesis.tiny_data2text import make_entries, save_bases, write_corpus
from viml_hf.errors import ViMLError
from viml_hf.modeling.modeling_ordering import SentenceOrderingModel
from viml_hf.synthesis import neural_data2text
from viml_hf.synthesis.description import check_text
from viml_hf.synthesis.neural_data2text import METHOD, NeuralData2Text, track_facts
from viml_hf.synthesis.wikifluent import TASKS
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

SCRIPT = Path(__file__).resolve().parents[2] / "examples/train_data2text.py"
VOCABULARY = TagVocabulary.load()
# The templates that the tiny modules know the words of.
TEMPLATES = {
    "genre": ("this is {tags} music .",),
    "mood": ("the mood is {tags} .",),
    "instrument": ("you can hear {tags} .",),
}
EPOCHS = {"ordering": 3, "aggregation": 2, "compression": 6}
BASES = {"ordering": "bart", "aggregation": "roberta", "compression": "bart"}


def run_script(monkeypatch, folder, task, *more):
    words = ["--task", task, "--model", folder / BASES[task], "--train", folder / "train.json", "-o", folder / task]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, [*words, *more])])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The three modules, trained by the example from the random `bart` and `roberta` beside them."""
    folder = tmp_path_factory.mktemp("data2text")
    save_bases(folder)
    write_corpus(folder / "train.json", repeats=20)
    write_corpus(folder / "dev.json")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for task, epochs in EPOCHS.items():
            sizes = ["--epochs", epochs, "--learning-rate", 3e-3, "--batch-size", 36, "--accumulation", 1]
            run_script(monkeypatch, folder, task, "--dev", folder / "dev.json", *sizes)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    return NeuralData2Text(*(folder / task for task in TASKS), max_length=60)


def make_tags(genre, mood, instrument):
    kept = {"genre": {genre: 0.8}, "mood": {mood: 0.5}, "instrument": {instrument: 0.9, "strings": 0.1}}
    return TrackTags(kept)


def test_trained_modules_order_fuse_and_compress(pipeline):
    entries = make_entries()
    shuffled = [(list(sentences), entry) for entry in entries for sentences in permutations(entry["sents"])]
    facts = [sentences for sentences, _ in shuffled]
    assert pipeline.order(facts) == [entry["sents"] for _, entry in shuffled]
    assert pipeline.aggregate([entry["sents"] for entry in entries]) == [entry["sep"] for entry in entries]
    assert pipeline.describe(facts) == [entry["text"] for _, entry in shuffled]


def test_a_track_alone_gets_the_text_that_it_gets_in_a_batch(pipeline):
    facts = [entry["sents"][::-1] for entry in make_entries()[::5]]
    facts[1:1] = [[], ["the mood is sad ."]]
    together = pipeline.describe(facts)
    assert together[1] == ""
    assert [pipeline.describe([sentences])[0] for sentences in facts] == together


def test_tracks_are_described_in_a_stream_with_what_is_wrong_with_each_text(pipeline, monkeypatch):
    monkeypatch.setattr(neural_data2text, "TEMPLATES", TEMPLATES)
    many = TrackTags({"mood": dict.fromkeys(VOCABULARY.tags["mood"], 0.9)})
    tracks = [
        ("a", make_tags("rock", "sad", "piano")),
        ("none", TrackTags({"genre": {"pop": 0.3}})),
        ("many", many),
        ("b", make_tags("jazz", "happy", "flute")),
        ("unknown", make_tags("country", "sad", "piano")),
    ]
    asked = []
    stream = pipeline.describe_tracks(
        (asked.append(id) or (id, tags) for id, tags in tracks), VOCABULARY, 7, batch_size=2
    )
    first = next(stream)
    assert asked == ["a", "none"]  # no more than a batch ahead
    described = {description.id: description for description in [first, *stream]}
    assert list(described) == [id for id, _ in tracks]
    assert {(one.method, one.model, one.seed, one.fallback) for one in described.values()} == {
        ("data2text", pipeline.name, 7, False)
    }
    assert described["a"].text == "this is sad rock music . you can hear piano ."
    assert described["b"].text == "this is happy jazz music . you can hear flute ."
    assert (described["b"].omitted, described["b"].hallucinated, described["b"].attempts) == ((), (), 1)
    assert (described["none"].text, described["none"].note, described["none"].attempts) == ("", "no tag above 0.3", 0)
    assert described["many"].text == ""
    assert described["many"].note.endswith("tokens: at most 60 are read")
    assert set(described["many"].omitted) == set(VOCABULARY.tags["mood"])
    assert described["unknown"].omitted == ("country",)  # not a word of the tiny models


def test_facts_tell_each_kept_tag_once_and_depend_on_seed_and_id_alone():
    tags = TrackTags(
        {"genre": {"rock": 0.8, "pop": 0.2}, "mood": {"sad": 0.5}, "instrument": {"piano": 0.9, "flute": 0.4}}
    )
    facts = track_facts("a", tags)
    assert len(facts) == 4
    assert check_text(" ".join(facts), tags.kept(), VOCABULARY).is_faithful
    assert track_facts("a", tags) == facts
    assert facts[:2] == ["This is rock music.", "It sounds sad."]  # of every version
    assert len({tuple(track_facts(id, tags, seed=seed)) for id in "ab" for seed in range(5)}) == 10
    first = {check_text(track_facts("a", tags, seed=seed)[0], tags.kept(), VOCABULARY).mentioned for seed in range(50)}
    assert first == {("rock",), ("sad",), ("piano",), ("flute",)}  # in any order


def test_facts_that_are_too_long_and_a_batch_size_of_nothing_are_refused(pipeline):
    with pytest.raises(ViMLError, match=r"91 tokens in 13 facts \('the mood is sad \.' …\): at most 60 are accepted"):
        pipeline.describe([["the mood is sad ."] * 13])
    with pytest.raises(ViMLError, match="batch_size=0"):
        next(pipeline.describe_tracks([], VOCABULARY, batch_size=0))


def test_without_weights_it_does_not_run_and_names_what_is_missing(folder):
    assert METHOD == "data2text"
    with pytest.raises(ViMLError, match="data2text: not run: needs weights of ordering, compression; name"):
        NeuralData2Text(None, folder / "aggregation", "")
    with pytest.raises(ViMLError, match=r"not run: needs weights of aggregation: .*nowhere cannot be loaded"):
        NeuralData2Text(folder / "ordering", folder / "nowhere", folder / "compression")


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("ordering", "bart", r"needs weights of ordering: .*bart has no pointer\."),
        ("aggregation", "roberta", r"needs weights of aggregation: .*roberta has no classifier\."),
        ("aggregation", "three labels", "needs weights of aggregation: .*three labels has 3 labels, not 2"),
        ("compression", "bart", "needs weights of compression: .*bart has no token <sep>"),
    ],
)
def test_weights_that_are_not_trained_for_the_task_are_refused(folder, task, name, message):
    if name == "three labels":
        three = AutoModelForTokenClassification.from_pretrained(
            folder / "aggregation", num_labels=3, ignore_mismatched_sizes=True
        )
        shutil.copytree(folder / "aggregation", folder / name)
        three.save_pretrained(folder / name)
    names = {**{task: folder / task for task in TASKS}, task: folder / name}
    with pytest.raises(ViMLError, match=message):
        NeuralData2Text(**names)


def test_the_example_trains_as_published_unless_told_otherwise(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "train", lambda trainer: seen.append(trainer))
    monkeypatch.setattr(Trainer, "save_model", lambda trainer, path: None)
    run_script(monkeypatch, folder, "ordering")
    trainer = seen[0]
    settings = trainer.args
    assert (settings.learning_rate, settings.adam_beta1, settings.adam_beta2) == (2e-5, 0.9, 0.997)
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (8, 4)
    assert settings.num_train_epochs == 1
    assert "adamw" in settings.optim
    trainer.create_optimizer_and_scheduler(100)
    # It starts from the weights that it was given.
    base = SentenceOrderingModel.from_bart(folder / "bart")
    weight = trainer.model.cpu().model.encoder.layers[0].fc1.weight
    assert weight.equal(base.model.encoder.layers[0].fc1.weight)
    rates = []
    for _ in range(100):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates.index(max(rates)) == 10
    assert rates[55] == pytest.approx(1e-5, rel=0.01)  # a polynomial of degree one
