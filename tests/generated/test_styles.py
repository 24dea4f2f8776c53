from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.generated.styles import (
    ENSEMBLES,
    GENRES,
    INSTRUMENTS,
    MOODS,
    PICTURE_LIE,
    SENTENCES,
    TEMPO_RANGE,
    TEMPO_WORDS,
    VOCALS,
    PictureStyle,
    Style,
    describe,
    draw_picture_style,
    draw_style,
    tags,
)

STYLES = [draw_style(0, i) for i in range(2000)]
TEMPO_VOCABULARY = {word: band for band, (_, words) in enumerate(TEMPO_WORDS) for word in words}


def test_draw_is_a_function_of_seed_and_index():
    assert [draw_style(0, i) for i in range(50)] == STYLES[:50]
    assert len(set(STYLES)) == len(STYLES)
    assert draw_style(1, 0) not in STYLES


def test_the_first_style_stays_the_same_for_ever():
    # A corpus must not change under a trained model: whoever changes the drawing raises `corpus.VERSION`.
    assert draw_style(0, 0) == Style(
        genre="blues",
        mood="sad",
        tempo=78,
        instruments=("electronic drumset", "synthesizer keyboard", "flute"),
        vocals="none",
        key="C",
        seed=70985654,
    )
    assert draw_picture_style(draw_style(0, 1)) == PictureStyle(genre="pop", mood="sad", tempo=104, seed=104722122)


@pytest.mark.parametrize(("attribute", "values"), [("genre", GENRES), ("mood", MOODS), ("vocals", VOCALS)])
def test_values_are_equally_frequent(attribute, values):
    counts = Counter(getattr(style, attribute) for style in STYLES)
    assert set(counts) == set(values)
    expected = len(STYLES) / len(values)
    assert max(abs(count - expected) for count in counts.values()) < 4 * np.sqrt(expected)


def test_instruments_and_vocals_say_nothing_of_what_a_picture_shows():
    for instrument in INSTRUMENTS:
        plays = np.array([instrument in style.instruments for style in STYLES])
        for attribute, values in (("genre", GENRES), ("mood", MOODS), ("vocals", VOCALS)):
            for value in values:
                chosen = np.array([getattr(style, attribute) == value for style in STYLES])
                gap = plays[chosen].mean() - plays.mean()
                assert abs(gap) < 4 * np.sqrt(0.25 / chosen.sum()), (instrument, value)
        assert abs(np.corrcoef(plays, [style.tempo for style in STYLES])[0, 1]) < 4 / np.sqrt(len(STYLES))


def test_ensembles_have_one_drummer_one_bass_and_a_tune():
    for players in ENSEMBLES:
        assert 2 <= len(players) <= 4
        assert sum("drumset" in player for player in players) <= 1
        assert sum("bass" in player for player in players) <= 1
        assert any("drumset" not in player and "bass" not in player for player in players)
    assert {style.instruments for style in STYLES} <= set(ENSEMBLES)


def test_pictures_lie_at_the_stated_rate():
    pictures = [draw_picture_style(style) for style in STYLES]
    for attribute, values in (("genre", len(GENRES)), ("mood", len(MOODS)), ("tempo", 80)):
        wrong = np.mean([getattr(p, attribute) != getattr(s, attribute) for p, s in zip(pictures, STYLES, strict=True)])
        assert wrong == pytest.approx(PICTURE_LIE * (1 - 1 / values), abs=0.03)


def test_a_picture_knows_nothing_of_instruments_vocals_and_key():
    for style in STYLES[:20]:
        other = replace(style, instruments=ENSEMBLES[0], vocals="male", key="F#")
        assert draw_picture_style(other) == draw_picture_style(style)


def test_every_description_names_the_whole_style():
    for style in STYLES:
        text = describe(style).lower()
        assert style.genre in text
        assert style.mood in text
        named = {instrument for instrument in INSTRUMENTS if instrument in text}
        assert named == set(style.instruments)
        words = [word for word in TEMPO_VOCABULARY if word in text]
        limits = [0, *(limit for limit, _ in TEMPO_WORDS)]
        assert [limits[TEMPO_VOCABULARY[w]] <= style.tempo < limits[TEMPO_VOCABULARY[w] + 1] for w in words] == [True]
        female = "female" in text or "woman" in text
        male = not female and (" male" in text or text.startswith("male") or "a man " in text)
        assert {"female": female, "male": male, "none": not female and not male}[style.vocals], text
        assert "{" not in text
        assert text.endswith(".")


def test_descriptions_are_varied_and_repeatable():
    styles = [replace(STYLES[3], seed=seed) for seed in range(100)]
    texts = [describe(style) for style in styles]
    assert len(set(texts)) > 60
    assert len({text.split()[0] for text in texts}) > len(SENTENCES)
    assert texts == [describe(style) for style in styles]


def test_tags_count_vocals_as_instruments():
    for style in STYLES[:100]:
        names = tags(style)
        assert names["genre"] == [style.genre]
        assert names["mood"] == [style.mood]
        vocals = {"none": [], "male": ["male vocals"], "female": ["female vocals"]}[style.vocals]
        assert names["instrument"] == list(style.instruments) + vocals


def test_unknown_values_are_refused_by_name():
    wrong = {"genre": "polka", "mood": "slow", "tempo": TEMPO_RANGE[1] + 1, "vocals": "choir", "key": "H"}
    for attribute, value in [*wrong.items(), ("instruments", ("flute", "piano"))]:
        with pytest.raises(ViMLError, match="accepted") as error:
            replace(STYLES[0], **{attribute: value})
        assert str(value) in str(error.value)
    with pytest.raises(ViMLError, match="seed -1"):
        draw_style(-1, 0)
