import random

from viml_hf.synthesis.tags_text import describe_by_tags
from viml_hf.synthesis.text_checks import check_text
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

VOCABULARY = TagVocabulary.load()
TAGS = TrackTags({"genre": {"pop": 0.9, "rock": 0.2}, "mood": {"sad": 0.5, "slow": 0.4}, "instrument": {"piano": 0.8}})


def test_the_text_is_the_kept_tags_in_another_order_for_another_track_or_seed():
    texts = [describe_by_tags(f"track {number}", TAGS) for number in range(40)]
    assert {tuple(sorted(text.split(", "))) for text in texts} == {("piano", "pop", "sad", "slow")}
    assert len(set(texts)) > 12  # of 24
    assert len({describe_by_tags("track", TAGS, seed=seed) for seed in range(40)}) > 12


def test_the_text_depends_on_seed_and_id_alone():
    first = describe_by_tags("a", TAGS, seed=3)
    random.seed(1)
    describe_by_tags("b", TAGS)
    assert describe_by_tags("a", TAGS, seed=3) == first == "slow, pop, piano, sad"
    reordered = TrackTags({name: dict(reversed(tags.items())) for name, tags in TAGS.confidences.items()})
    assert describe_by_tags("a", reordered, seed=3) == first


def test_no_kept_tag_gives_the_empty_text():
    assert describe_by_tags("a", TAGS, threshold=0.9) == ""


def test_the_text_tells_every_kept_tag_and_no_other():
    draws = random.Random(0)
    for track in range(300):
        tags = TrackTags({name: {tag: draws.random() for tag in all_} for name, all_ in VOCABULARY.tags.items()})
        assert check_text(describe_by_tags(str(track), tags), tags.kept(), VOCABULARY).is_faithful
