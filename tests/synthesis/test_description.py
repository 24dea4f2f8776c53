import pytest

from viml_hf import ViMLError
from viml_hf.synthesis.description import Description, check_text, is_more_general
from viml_hf.tagging.tag_vocabulary import TagVocabulary

VOCABULARY = TagVocabulary.load()


def check(text, *instruments, genre=(), mood=()):
    kept = {"genre": genre, "mood": mood, "instrument": instruments}
    return check_text(text, {name: [(tag, 0.5) for tag in tags] for name, tags in kept.items()}, VOCABULARY)


def test_the_papers_example_omits_two_moods():
    # Figure 2: the tags, and what BLOOM wrote.
    text = (
        "Country rock track with a nostalgic feel. The song features acoustic guitar, electric guitar, "
        "electric bass, drums, and male vocals."
    )
    instruments = ("drumset", "electric guitar", "male vocals", "electric bass", "acoustic guitar")
    result = check(text, *instruments, genre=("country", "rock"), mood=("happy", "relaxing", "nostalgic"))
    assert result.omitted == ("happy", "relaxing")
    assert result.hallucinated == ()
    assert not result.is_faithful
    assert result.omission_rate == 0.2


@pytest.mark.parametrize(
    ("kept", "text", "omitted", "hallucinated"),
    [
        (["male vocals"], "vocals", ("male vocals",), ()),
        (["vocals"], "male vocals", (), ("male vocals",)),
        (["vocals", "male vocals"], "male vocals", (), ()),
        (["male vocals"], "female vocals", ("male vocals",), ("female vocals",)),
        (["piano"], "no piano", ("piano",), ()),
        (["piano"], "piano and piano", (), ()),
        (["synth bass"], "a synth and a bass", ("synth bass",), ("synthesizer keyboard",)),
    ],
)
def test_what_is_specific_tells_what_is_general(kept, text, omitted, hallucinated):
    result = check(text, *kept)
    assert (result.omitted, result.hallucinated) == (omitted, hallucinated)


def test_the_omission_rate_is_a_share_of_the_kept_tags():
    result = check("piano, flute and harp", "piano", "cello")
    assert result.omission_rate == 1 / 2
    assert result.mentioned == ("piano", "flute", "harp")
    nothing = check("")
    assert (nothing.omission_rate, nothing.is_faithful) == (0.0, True)


def test_general_tags_of_the_package():
    tags = [tag for names in VOCABULARY.tags.values() for tag in names]
    general = {one: sorted(other for other in tags if is_more_general(one, other)) for one in tags}
    assert {one: others for one, others in general.items() if others} == {
        "vocals": ["backing vocals", "female vocals", "lead vocals", "male vocals"],
        "piano": ["electric piano"],
        "guitar": ["acoustic guitar", "electric guitar"],
        "bass": ["electric bass", "synth bass"],
        "drumset": ["acoustic drumset", "electronic drumset"],
    }


def test_a_description_holds_what_its_check_finds():
    description = Description("a", "A sad song with piano.", "tags", "", 0).checked(
        {"mood": [("happy", 0.5)]}, VOCABULARY
    )
    assert (description.omitted, description.hallucinated) == (("happy",), ("sad", "piano"))


def test_a_kept_tag_that_no_text_can_tell_is_refused():
    with pytest.raises(ViMLError, match="'kazoo'"):
        check("a kazoo", "kazoo")
