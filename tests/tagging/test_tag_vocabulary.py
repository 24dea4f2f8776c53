import json

import pytest

from viml_hf import ViMLError
from viml_hf.tagging.tag_vocabulary import CATEGORIES, TagVocabulary

VOCABULARY = TagVocabulary.load()
PAPER = {
    "genre": ["electronic", "dance", "country", "rock", "pop", "hip-hop", "blues", "acoustic", "novelty"],
    "mood": [
        *["dynamic", "dramatic", "happy", "relaxing", "nostalgic", "frantic"],
        *["powerful", "angry", "slow", "sad", "dreamy", "quirky"],
    ],
    "instrument": [
        *["vocals", "lead vocals", "male vocals", "female vocals", "synthesizer keyboard", "electronic drumset"],
        *["acoustic drumset", "drumset", "synth bass", "electric bass", "electric guitar", "acoustic guitar", "piano"],
    ],
}
GOOD = {"genre": {"pop": ["chart music"]}, "mood": {"sad": []}, "instrument": {"oud": []}}


def load(tmp_path, content):
    path = tmp_path / "tags.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return TagVocabulary.load(path)


def test_the_package_has_the_papers_counts_and_names():
    assert [len(VOCABULARY.tags[category]) for category in CATEGORIES] == [20, 28, 41]
    for category, names in PAPER.items():
        assert set(names) <= set(VOCABULARY.tags[category])


def test_every_tag_and_every_synonym_is_found_as_that_tag():
    for tags in VOCABULARY.tags.values():
        for tag in tags:
            assert VOCABULARY.find(f"Here is {tag.upper()}.") == [tag]
    for spelling, tag in VOCABULARY.synonyms.items():
        assert VOCABULARY.find(f"<{spelling}>") == [tag]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        # The longest spelling wins and uses its words up.
        ("Vocals, then male vocals, then vocals again", ["vocals", "male vocals"]),
        ("drum and bass", ["electronic"]),
        ("drums and bass", ["drumset", "bass"]),
        # Case, hyphens, spaces, apostrophes.
        ("HIP\nhop", ["hip-hop"]),
        ("hip, hop", []),
        ("R & B", ["r&b"]),
        ("rock'n'roll", ["rock"]),
        ("pop-rock", ["pop", "rock"]),
        # Word boundaries.
        ("popular rocket blueshift", []),
        # Plurals of instruments, and of nothing else.
        ("pianos, electric guitars and a flute", ["piano", "electric guitar", "flute"]),
        ("pops", []),
        # Words shared by two spellings.
        ("acoustic and electric guitars", ["acoustic guitar", "electric guitar"]),
        ("male and female singers", ["male vocals", "female vocals"]),
        ("acoustic, electric guitar", ["acoustic", "electric guitar"]),
        ("bass and electric guitar", ["bass", "electric guitar"]),
        # Odd texts.
        ("", []),
        ("ſad PİANO İ & ", []),
        ("sad🎹piano", ["sad", "piano"]),
    ],
)
def test_a_text_mentions(text, tags):
    assert VOCABULARY.find(text) == tags


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("Without drums, with piano.", ["piano"]),
        ("non-vocal", []),
        ("there aren’t any drums", []),
        ("without any audible drums", []),
        ("no bass or drums, nor any flute", []),
        ("vocal-free piano", ["piano"]),
        ("vocals free of charge", ["vocals"]),
        # What ends a denial.
        ("not slow but energetic", ["energetic"]),
        ("No, piano", ["piano"]),
        ("no vocals, piano", ["piano"]),
        ("no words in this piano piece", ["piano"]),
        ("A faint piano", ["piano"]),
        ("t piano", ["piano"]),
        # Denied once, told elsewhere.
        ("no drums at first, drums later", ["drumset"]),
    ],
)
def test_what_is_denied_is_not_mentioned(text, tags):
    assert VOCABULARY.find(text) == tags


def test_spans_are_the_places_in_the_text():
    text = "İn a Hip-Hop beat: pianos, male & female vocals"
    spans = VOCABULARY.find_spans(text)
    assert [(text[start:end], tag) for start, end, tag in spans] == [
        ("Hip-Hop", "hip-hop"),
        ("pianos", "piano"),
        ("male", "male vocals"),
        ("female vocals", "female vocals"),
    ]


def test_a_users_file_replaces_the_tags(tmp_path):
    vocabulary = load(
        tmp_path, {"instrument": {"oud": ["al ʿūd"]}, "mood": {"sad": []}, "genre": {"pop": ["Schlager"]}}
    )
    assert list(vocabulary.tags) == list(CATEGORIES)
    assert vocabulary.find("SCHLAGER with two ouds and an Al-ʿŪd, sad, rock") == ["pop", "oud", "sad"]
    assert vocabulary.category_of("oud") == "instrument"
    with pytest.raises(ViMLError, match=r"'rock'.*not in the vocabulary"):
        vocabulary.category_of("rock")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ([], "not an object"),
        (GOOD | {"genre": ["pop"]}, "category 'genre': not an object"),
        (GOOD | {"genre": {}}, "category 'genre': no tag"),
        (GOOD | {"tempo": {"fast": []}}, "category 'tempo'.*genre, mood, instrument"),
        ({"genre": {"pop": []}, "mood": {"sad": []}}, "category 'instrument'"),
        (GOOD | {"mood": {"pop": []}}, "tag 'pop': in 'genre' and again in 'mood'"),
        ('{"genre": {"pop": [], "pop": []}, "mood": {"sad": []}, "instrument": {"oud": []}}', "'pop' is there twice"),
        (GOOD | {"mood": {"sad": ["chart music"]}}, "'chart music': means 'pop' and 'sad'"),
        (GOOD | {"mood": {"sad": ["Chart-Music"]}}, "'Chart-Music': means 'pop' and 'sad'"),
        (GOOD | {"mood": {"sad": "blue"}}, "mood 'sad': 'blue' is not a list"),
        (GOOD | {"mood": {"sad": [3]}}, "mood 'sad'"),
        (GOOD | {"mood": {"sad": ["!"]}}, "'!' has no word"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(ViMLError, match=message) as error:
        load(tmp_path, content)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ViMLError, match=r"none\.json: cannot be read"):
        TagVocabulary.load(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"genre": "\xe9"}')
    with pytest.raises(ViMLError, match=r"latin\.json: not JSON"):
        TagVocabulary.load(tmp_path / "latin.json")


def test_a_repeated_tag_and_a_spelling_of_an_unknown_tag_are_refused():
    with pytest.raises(ViMLError, match="tag 'sad': in 'mood' and again in 'mood'"):
        TagVocabulary({"genre": ("pop",), "mood": ("sad", "sad"), "instrument": ("oud",)}, {})
    with pytest.raises(ViMLError, match=r"'chill'.*'calm' is not in the vocabulary"):
        TagVocabulary({"genre": ("pop",), "mood": ("sad",), "instrument": ("oud",)}, {"chill": "calm"})


def test_a_long_text_is_read_in_good_time():
    text = "no acoustic and electric guitars without male " * 3000
    assert set(VOCABULARY.find(text)) <= {"electric guitar", "acoustic guitar", "male vocals"}
