import os
from pathlib import Path

import pytest

from viml_hf import ViMLError
from viml_hf.data.musiccaps import MusicCapsTrack, aspects_to_tags, read_musiccaps
from viml_hf.tagging.tag_vocabulary import TagVocabulary

VOCABULARY = TagVocabulary.load()
BESIDE = Path(__file__).parents[3] / "shared/data/musiccaps/musiccaps-public.csv"  # beside the checkout
REAL = os.environ.get("VIML_MUSICCAPS", str(BESIDE))
HEADER = "ytid,start_s,aspect_list,caption\n"


def write(tmp_path, content):
    path = tmp_path / "musiccaps.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_rows_become_tracks(tmp_path):
    rows = """-a,30,"['sad', ""children's song""]","Two\nlines, ""quoted""."\nb,0,[],\n"""
    assert list(read_musiccaps(write(tmp_path, HEADER + rows))) == [
        MusicCapsTrack("-a", ("sad", "children's song"), 'Two\nlines, "quoted".'),
        MusicCapsTrack("b", (), ""),
    ]


def test_tags_are_those_that_the_aspects_mention_with_confidence_one():
    aspects = ["mellow piano melody", "no voices", "noisy", "Piano", "ambient room noises", "electric guitar solo"]
    assert aspects_to_tags(aspects, VOCABULARY).to_record() == {
        "genre": {},
        "mood": {"relaxing": 1.0},
        "instrument": {"piano": 1.0, "electric guitar": 1.0},
    }
    assert aspects_to_tags(["ambient music"], VOCABULARY).names() == ["ambient"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ytid,caption\n", "no column 'aspect_list'"),
        ("", "no column 'ytid'"),
        (HEADER + "a,0,sad,x\n", "line 2: aspect_list 'sad' is not a list of texts"),
        (HEADER + "a,0,\"['sad', 3]\",x\n", "line 2: aspect_list"),
        (HEADER + "a\n", "line 2: no cell of column 'aspect_list'"),
        (HEADER + f"a,0,{'[' * 5000},x\n", "line 2: aspect_list"),
        (HEADER.encode() + b"a,0,[],\xe9\n", "line 2: not UTF-8"),
        (HEADER + 'a,0,[],"x\n', "line 2: unexpected end of data"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(ViMLError, match=message) as error:
        list(read_musiccaps(write(tmp_path, content)))
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ViMLError, match=r"none\.csv: cannot be read"):
        list(read_musiccaps(str(tmp_path / "none.csv")))


@pytest.mark.skipif(not os.path.exists(REAL), reason="needs musiccaps-public.csv; name it in VIML_MUSICCAPS")
def test_the_vocabulary_covers_the_real_file():
    tracks = list(read_musiccaps(REAL))
    mapped = [[bool(aspects_to_tags([aspect], VOCABULARY).names()) for aspect in track.aspects] for track in tracks]
    assert (len(tracks), sum(map(len, mapped))) == (5521, 58901)
    assert sum(map(sum, mapped)) > 0.64 * 58901
    assert sum(map(any, mapped)) > 0.98 * 5521
