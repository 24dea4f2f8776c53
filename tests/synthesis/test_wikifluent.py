import json

import pytest

from tests.synthesis.tiny_data2text import make_entry, make_tokenizer, write_corpus
from viml_hf.errors import ViMLError
from viml_hf.synthesis.wikifluent import (
    Paragraph,
    WikiFluentDataset,
    aggregation_tokens,
    compression_tokens,
    ordering_tokens,
    read_wikifluent,
)

ENTRY = make_entry("rock", "sad", "piano")
ROCK = Paragraph(tuple(ENTRY["sents"]), (0, 1), ENTRY["text"])
ONE = Paragraph(("this is rock music .",), (), "this is rock music .")


def make_dataset(task, paragraphs=(ROCK,), **options):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>"]})
    return WikiFluentDataset(paragraphs, task, tokenizer, **options)


def words(dataset, ids):
    return " ".join(dataset.tokenizer.convert_ids_to_tokens(ids))


def test_json_and_jsonl_give_the_same_paragraphs(tmp_path):
    write_corpus(tmp_path / "train.json")
    entries = json.loads((tmp_path / "train.json").read_text())["data"]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    paragraphs = list(read_wikifluent(tmp_path / "train.json"))
    assert len(paragraphs) == 36
    assert ROCK in paragraphs
    assert list(read_wikifluent(tmp_path / "train.jsonl")) == paragraphs


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sents": ["a ."], "sep": []}, "entry 2: .* is no entry"),
        ({**ENTRY, "sents": []}, "entry 2: sents"),
        ({**ENTRY, "sents": ["a .", " ", "b ."]}, "entry 2: sents"),
        ({**ENTRY, "sep": [0]}, r"entry 2: sep \[0\]: 2 numbers"),
        ({**ENTRY, "sep": [0, 2]}, r"entry 2: sep \[0, 2\]"),
        ({**ENTRY, "text": ""}, "entry 2: text"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, message):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [ENTRY, entry]}))
    with pytest.raises(ViMLError, match=message):
        list(read_wikifluent(path))


@pytest.mark.parametrize("content", [b"[]", b'{"data": 1}', b'{"data": [', b"\xff\xfe", None])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    path = tmp_path / "train.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ViMLError, match=r"train\.json: "):
        list(read_wikifluent(path))


def test_ordering_learns_where_each_sentence_of_the_text_stands():
    dataset = make_dataset("ordering", [ROCK] * 20)
    inputs = set()
    for example in dataset:
        told = words(dataset, example["input_ids"])
        sentences = [part.strip().removesuffix(" </s>") for part in told.split("<s>")[1:]]
        assert [sentences[number] for number in example["labels"]] == list(ROCK.sentences)
        inputs.add(told)
    assert len(inputs) == 6  # every order of three
    assert list(make_dataset("ordering", [ROCK] * 20)) == list(dataset)
    assert list(make_dataset("ordering", [ROCK] * 20, seed=1)) != list(dataset)


def test_aggregation_has_a_label_at_each_separator_between_two_sentences():
    dataset = make_dataset("aggregation")
    example = dataset[0]
    assert words(dataset, example["input_ids"]) == (
        "<s> this is rock music . </s> the mood is sad . </s> you can hear piano . </s>"
    )
    assert example["labels"] == [-100] * 6 + [0] + [-100] * 5 + [1] + [-100] * 6


def test_compression_writes_the_text_from_sentences_with_a_token_between_separate_ones():
    dataset = make_dataset("compression")
    example = dataset[0]
    assert words(dataset, example["input_ids"]) == (
        "<s> this is rock music . the mood is sad . <sep> you can hear piano . </s>"
    )
    assert words(dataset, example["labels"]) == "<s> this is sad rock music . you can hear piano . </s>"


@pytest.mark.parametrize(("task", "left_out"), [("ordering", 2), ("aggregation", 2), ("compression", 1)])
def test_paragraphs_that_are_too_long_or_teach_nothing_are_left_out(task, left_out):
    long = Paragraph(ROCK.sentences * 9, (0,) * 26, ROCK.text)
    dataset = make_dataset(task, [ONE, ROCK, long], max_length=40)
    assert (len(dataset), dataset.left_out) == (3 - left_out, left_out)
    long_text = Paragraph(ROCK.sentences, ROCK.separate, "rock " * 50)
    assert make_dataset(task, [ROCK, long_text], max_length=40).left_out == (task == "compression")
    with pytest.raises(ViMLError, match=f"{task}: none of 1 paragraphs"):
        make_dataset(task, [long], max_length=40)


def test_special_tokens_written_in_a_sentence_are_text():
    tokenizer = make_dataset("compression").tokenizer
    sentences = ["this </s> is <s> music .", "the <sep> mood ."]
    ends, separators = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<sep>")
    assert ordering_tokens(tokenizer, sentences).count(ends) == 2
    assert aggregation_tokens(tokenizer, sentences)[0].count(ends) == 2
    assert compression_tokens(tokenizer, sentences, [0]).count(separators) == 0


def test_an_unknown_task_and_a_tokenizer_without_the_separator_are_refused():
    with pytest.raises(ViMLError, match="'sorting': one of ordering, aggregation, compression"):
        make_dataset("sorting")
    with pytest.raises(ViMLError, match="no token '<sep>'"):
        WikiFluentDataset([ROCK], "compression", make_tokenizer())
