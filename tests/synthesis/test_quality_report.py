import tracemalloc

from viml_hf.synthesis.quality_report import NotRun, format_report, measure_quality
from viml_hf.tagging.tag_vocabulary import TagVocabulary

VOCABULARY = TagVocabulary.load()
PIANO = {"instrument": [("piano", 0.9), ("flute", 0.5)]}


def test_the_figures_of_texts_counted_by_hand():
    described = [
        ("A piano, a flute.", PIANO),
        ("a PIANO | and\na harp and a trumpet", PIANO),
        ("", {"genre": []}),
    ]
    row = measure_quality("m", iter(described), VOCABULARY, examples=2)
    assert (row.method, row.texts, row.empty) == ("m", 3, 1)
    assert row.omission_rate == 1 / 4
    assert row.hallucination_rate == 2 / 5
    assert row.faithful == 2 / 3
    assert row.vocabulary_size == 6  # a piano flute and harp trumpet
    assert row.distinct_1 == 6 / 12
    # a piano, piano a, a flute; piano and, and a, a harp, harp and, a trumpet
    assert row.distinct_2 == 8 / 10
    assert row.mean_words == 4
    assert row.examples == ("A piano, a flute.", "a PIANO | and\na harp and a trumpet")


def test_no_text_gives_zeros():
    row = measure_quality("m", [], VOCABULARY)
    assert (row.texts, row.omission_rate, row.distinct_2, row.mean_words, row.examples) == (0, 0, 0, 0, ())


def test_the_table_shows_what_did_not_run():
    rows = [
        measure_quality("a|b", [("A piano |\n flute", PIANO), ("", {})], VOCABULARY, fallbacks=7),
        NotRun("data2text"),
        NotRun("prompt2text", "no server"),
    ]
    lines = format_report(rows).splitlines()
    assert lines[:5] == [
        "| method | texts | empty | by rules instead | omission | hallucination | faithful | distinct-1 | distinct-2 "
        "| words per text | vocabulary |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| a\\|b | 2 | 1 | 7 | 0.0% | 0.0% | 100.0% | 1.0000 | 1.0000 | 1.5 | 3 |",
        "| data2text | not run: needs weights |  |  |  |  |  |  |  |  |  |",
        "| prompt2text | not run: no server |  |  |  |  |  |  |  |  |  |",
    ]
    assert lines[5:] == ["", "a|b:", "", "* A piano | flute", "* (empty)"]


def test_memory_does_not_grow_with_the_number_of_texts():
    described = ((f"A piano and a flute {number % 7} {'x' * 3000}", PIANO) for number in range(500))
    tracemalloc.start()
    measure_quality("m", described, VOCABULARY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000  # bytes; the texts alone would be 1.5 million
