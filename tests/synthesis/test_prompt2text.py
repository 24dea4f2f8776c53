import pytest

from tests.synthesis.test_prompts import COUNTRY, PARTY
from viml_hf import ViMLError
from viml_hf.synthesis.description import Description
from viml_hf.synthesis.prompt2text import GenerationError, attempt_seed, describe_tracks
from viml_hf.synthesis.prompts import PromptWriter
from viml_hf.synthesis.rules import describe_by_rules
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

VOCABULARY = TagVocabulary.load()
WRITER = PromptWriter([PARTY], k=1)
BLOOM = (
    " Country rock track with a nostalgic feel. The song features acoustic guitar, electric guitar, electric bass, "
    "drums, and male vocals.\n[Input]: GENRES: pop (40.0%)"
)


class Scripted:
    """Answers each prompt with the next reply of its script; the last one stays."""

    name = "scripted"

    def __init__(self, *replies):
        self.replies = replies
        self.asked = []  # batches of (prompt, seed)

    def generate(self, prompts, seeds, max_new_tokens):
        self.asked.append(list(zip(prompts, seeds, strict=True)))
        earlier = [[prompt for prompt, _ in batch] for batch in self.asked[:-1]]
        counts = [sum(batch.count(prompt) for batch in earlier) for prompt in prompts]
        return [self.replies[min(count, len(self.replies) - 1)] for count in counts]


def describe(tracks, generator, **options):
    return list(describe_tracks(tracks, generator, WRITER, VOCABULARY, **options))


def test_the_answer_of_figure_2_is_taken_with_what_it_omits_on_record():
    generator = Scripted(BLOOM)
    (description,) = describe([("a", COUNTRY)], generator, seed=5)
    assert description == Description(
        "a",
        "Country rock track with a nostalgic feel. The song features acoustic guitar, electric guitar, electric bass, "
        "drums, and male vocals.",
        "prompt2text",
        "scripted",
        seed=5,
        attempts=1,
        omitted=("happy", "relaxing"),
    )
    assert generator.asked == [[(WRITER.prompt(COUNTRY), attempt_seed(5, "a", 0))]]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("\n", "attempt 1: empty"),
        (" la" * 101, "attempt 1: too long"),
        (GenerationError("no end within 9 tokens"), "attempt 1: no end within 9 tokens"),
        (BLOOM.replace("drums", "piano"), "attempt 1: tags not kept: piano"),
        (
            " Country rock with drums and male vocals.",
            "attempt 1: omitted: happy, relaxing, nostalgic, electric guitar, electric bass, acoustic guitar",
        ),
    ],
)
def test_a_bad_reply_costs_a_retry_with_another_seed(bad, why):
    generator = Scripted(bad, BLOOM)
    (description,) = describe([("a", COUNTRY)], generator)
    assert (description.method, description.attempts, description.note) == ("prompt2text", 2, why)
    assert not description.fallback
    seeds = [seed for batch in generator.asked for _, seed in batch]
    assert seeds == [attempt_seed(0, "a", 0), attempt_seed(0, "a", 1)]
    assert seeds[0] != seeds[1]


def test_after_the_last_retry_comes_the_text_of_the_rules_recorded_as_such():
    generator = Scripted("", GenerationError("busy"), " A jazz song.")
    (description,) = describe([("a", COUNTRY)], generator, seed=2, retries=2)
    assert len(generator.asked) == description.attempts == 3
    assert (description.method, description.fallback) == ("data2text-rules", True)
    assert description.text == describe_by_rules("a", COUNTRY, seed=2)
    assert (description.omitted, description.hallucinated) == ((), ())
    assert description.note == "attempt 1: empty; attempt 2: busy; attempt 3: tags not kept: jazz"


def test_a_track_without_a_kept_tag_is_not_asked_for():
    generator = Scripted(BLOOM)
    nothing = TrackTags({"genre": {"pop": 0.1}})
    tracks = [("a", nothing), ("b", nothing), ("c", nothing), ("d", COUNTRY)]
    found = describe(tracks, generator, batch_size=2)
    assert [description.id for description in found] == ["a", "b", "c", "d"]
    assert (found[0].text, found[0].attempts, found[0].note) == ("", 0, "no tag above 0.3")
    assert len(generator.asked) == 1


def test_which_tags_are_kept_is_the_writer_s_to_say():
    writer = PromptWriter([PARTY], k=1, threshold=0.6)
    generator = Scripted(" Music with drums.")
    tracks = [("a", COUNTRY), ("b", TrackTags({"genre": {"pop": 0.5}}))]
    found = list(describe_tracks(tracks, generator, writer, VOCABULARY))
    assert {each.id: (each.attempts, each.omitted) for each in found} == {"a": (1, ()), "b": (0, ())}


def test_batches_are_filled_up_with_retries_and_every_track_comes_once():
    tracks = [(str(number), TrackTags({"genre": {"pop": 0.5 + number / 100}})) for number in range(7)]

    class OddFailOnce(Scripted):
        def generate(self, prompts, seeds, max_new_tokens):
            replies = super().generate(prompts, seeds, max_new_tokens)
            odd = [any(f"pop (5{number}.0%)" in prompt for number in (1, 3, 5)) for prompt in prompts]
            return [reply if fails else " A pop song." for reply, fails in zip(replies, odd, strict=True)]

    generator = OddFailOnce(" Jazz.", " A pop song.")
    found = describe(tracks, generator, batch_size=3)
    assert [description.id for description in found] == ["0", "2", "1", "4", "3", "6", "5"]
    assert [description.attempts for description in found] == [1, 1, 2, 1, 2, 1, 2]
    assert [len(batch) for batch in generator.asked] == [3, 3, 3, 1]


def test_tracks_are_read_one_batch_at_a_time():
    read = []

    def tracks():
        for number in range(100):
            read.append(number)
            yield str(number), COUNTRY

    stream = describe_tracks(tracks(), Scripted(BLOOM), WRITER, VOCABULARY, batch_size=4)
    next(stream)
    assert len(read) == 4
    assert sum(1 for _ in stream) == 99


def test_impossible_settings_are_refused():
    with pytest.raises(ViMLError, match="retries=-1"):
        describe([], Scripted(""), retries=-1)
    with pytest.raises(ViMLError, match="batch_size=0"):
        describe([], Scripted(""), batch_size=0)


def test_seeds_are_apart_and_fit_what_servers_take():
    seeds = {attempt_seed(seed, track, attempt) for seed in range(20) for track in "abc" for attempt in range(20)}
    assert len(seeds) == 1200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert attempt_seed(0, "a", 0) == 1704397835  # stays the same from version to version
    assert attempt_seed(0, "caf\udce9", 0) != attempt_seed(0, "cafe", 0)
