import random

import pytest

from viml_hf import ViMLError
from viml_hf.synthesis.prompts import (
    Example,
    PromptWriter,
    build_prefix,
    build_prompt,
    format_tags,
    parse_completion,
)
from viml_hf.tagging.track_tags import TrackTags

FIGURE_2 = """\
[Input]: GENRES: electronic (82.6%), dance (63.9%); MOODS: dynamic (46.8%), dramatic (33.3%); \
INSTRUMENTS: synthesizer keyboard (81.9%), electronic drumset (77.6%), synth bass (68.4%)
[Output]: Electronic party track with high energy synth lines and autotuned female vocals.
[Input]: GENRES: country (47.2%), rock (30.8%); MOODS: happy (40.2%), relaxing (31.7%), nostalgic (30.9%); \
INSTRUMENTS: drumset (63.9%), electric guitar (50.5%), male vocals (49.7%), electric bass (49.1%), \
acoustic guitar (33.7%)
[Output]:"""

ELECTRONIC = TrackTags(
    {
        "instrument": {"synth bass": 0.684, "synthesizer keyboard": 0.819, "electronic drumset": 0.776, "piano": 0.3},
        "mood": {"dramatic": 0.333, "dynamic": 0.468, "sad": 0.01},
        "genre": {"dance": 0.639, "electronic": 0.826, "rock": 0.29},
    }
)
COUNTRY = TrackTags(
    {
        "genre": {"country": 0.472, "rock": 0.308},
        "mood": {"happy": 0.402, "relaxing": 0.317, "nostalgic": 0.309},
        "instrument": {
            "drumset": 0.639,
            "electric guitar": 0.505,
            "male vocals": 0.497,
            "electric bass": 0.491,
            "acoustic guitar": 0.337,
        },
    }
)
PARTY = Example(
    ELECTRONIC, "Electronic party track with high energy synth lines and autotuned female vocals.", id="party"
)


def genre(name, confidence=0.5):
    return TrackTags({"genre": {name: confidence}})


def test_the_prompt_of_figure_2_character_for_character():
    assert build_prompt(build_prefix([PARTY]), COUNTRY) == FIGURE_2
    assert PromptWriter([PARTY], k=1).prompt(COUNTRY) == FIGURE_2
    assert PromptWriter([PARTY], k=1, nearest=True).prompt(COUNTRY) == FIGURE_2


def test_a_category_without_a_kept_tag_is_left_out():
    tags = TrackTags({"genre": {"pop": 0.1}, "mood": {"sad": 0.5}, "instrument": {"piano": 0.4}})
    assert format_tags(tags) == "MOODS: sad (50.0%); INSTRUMENTS: piano (40.0%)"
    assert format_tags(tags, threshold=0.05).startswith("GENRES: pop (10.0%); MOODS")
    assert format_tags(genre("pop", 0.3)) == ""


def test_a_description_of_several_lines_takes_one_line_of_the_prompt():
    prefix = build_prefix([Example(genre("pop"), " A song.\n\n[It] is  calm. ")])
    assert prefix == "[Input]: GENRES: pop (50.0%)\n[Output]: A song. [It] is calm.\n"


def test_an_example_with_nothing_to_show_is_refused():
    with pytest.raises(ViMLError, match="example song 7 has no description"):
        build_prefix([Example(genre("pop"), " \n", id="song 7")])
    with pytest.raises(ViMLError, match=r"example 1 has no tag above 0\.3"):
        build_prefix([Example(genre("pop", 0.2), "A song.")])


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        (" Country rock track.\n[Input]: GENRES: pop (40.0%)", "Country rock track."),
        (" Country rock track. [Input]: GENRES: pop", "Country rock track."),
        (" “Country rock track.”\n", "Country rock track."),
        (' Rock with a "country" feel.', 'Rock with a "country" feel.'),
        (" It's 5 o'clock\tmusic. \r\nMore", "It's 5 o'clock music."),
        (" 静かなピアノ。\n", "静かなピアノ。"),
        ("\nA text after an empty line.", None),
        (" ... \n", None),
        ('"', None),
        ("la " * 101, None),
        ("la " * 100, ("la " * 100).strip()),
    ],
)
def test_a_completion_is_cut_to_the_description_alone(completion, text):
    assert parse_completion(completion) == text


NAMES = ("pop", "rock", "jazz", "country", "blues", "dance", "electronic", "hip-hop")
MANY = [Example(genre(name), f"A {name} song.", id=name) for name in NAMES]


def test_random_examples_are_the_same_for_all_tracks_and_depend_on_the_seed_alone():
    writer = PromptWriter(MANY, k=4, seed=3)
    assert writer.prefix.count("[Input]") == 4
    assert writer.prompt(ELECTRONIC) == build_prompt(writer.prefix, ELECTRONIC)
    assert writer.prompt(COUNTRY).startswith(writer.prefix)
    random.seed(1)
    assert PromptWriter(MANY, k=4, seed=3).prefix == writer.prefix
    assert len({PromptWriter(MANY, k=4, seed=seed).prefix for seed in range(5)}) == 5


def test_the_nearest_examples_come_last_and_have_no_common_prefix():
    both = TrackTags({"genre": {"jazz": 0.9, "blues": 0.5}})
    writer = PromptWriter(MANY, k=3, nearest=True)
    assert writer.prefix == ""
    shown = [line for line in writer.prompt(both).splitlines() if line.startswith("[Output]")]
    assert shown == ["[Output]: A pop song.", "[Output]: A blues song.", "[Output]: A jazz song.", "[Output]:"]


def test_a_track_is_no_example_of_itself():
    writer = PromptWriter(MANY, k=8, nearest=True)
    assert "A jazz song." in writer.prompt(genre("jazz"))
    assert "A jazz song." not in writer.prompt(genre("jazz"), track_id="jazz")


def test_examples_without_a_kept_tag_are_not_used():
    writer = PromptWriter([*MANY, Example(genre("funk", 0.2), "A funk song.")], k=8)
    assert "funk" not in writer.prefix
    with pytest.raises(ViMLError, match="at most the 8 with"):
        PromptWriter([*MANY, Example(genre("funk", 0.2), "A funk song.")], k=9)
    with pytest.raises(ViMLError, match="k=0"):
        PromptWriter(MANY, k=0)


def test_the_threshold_holds_for_examples_and_tracks():
    prompt = PromptWriter([PARTY], k=1, threshold=0.6).prompt(COUNTRY)
    assert "dynamic" not in prompt
    assert prompt.endswith("[Input]: INSTRUMENTS: drumset (63.9%)\n[Output]:")
