"""The hidden style of one generated pair, and what picture and text tell of it.

A `Style` decides everything that is heard. A `PictureStyle`, drawn from it, decides everything that is seen. All
attributes are drawn independently of each other, so that none can be guessed from another:

| attribute   | values            | heard as                               | shown by a picture   | told by a text  |
|-------------|-------------------|----------------------------------------|----------------------|-----------------|
| genre       | 8                 | rhythm, bass line, chord progression   | palette, shapes      | yes             |
| mood        | 8                 | mode, register, dynamics, articulation | light, texture       | yes             |
| tempo       | 60 to 160 BPM     | the beat                               | cut rate, motion     | roughly: a word |
| instruments | 2 to 4 of 10      | timbre, and who plays which part       | **no**               | **yes**         |
| vocals      | no, male, female  | a sung melody                          | **no**               | **yes**         |
| key         | 12 tonics         | transposition                          | no                   | no              |
| melody      | a seed            | the notes of the lead                  | no                   | no              |

Pictures are wrong now and then: each of the three attributes that a picture shows is replaced by a random one with
probability `PICTURE_LIE`, independently. So a video alone finds music of the right genre, mood and tempo most of the
time. A text adds instruments and vocals. The tempo in BPM is more exact in a picture than in a text.

The names are those of the paper's figures, with strings and flute added.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from viml_hf.errors import ViMLError

GENRES = ("electronic", "dance", "country", "rock", "pop", "hip-hop", "blues", "acoustic")
MOODS = ("happy", "relaxing", "nostalgic", "dramatic", "powerful", "sad", "dreamy", "quirky")
KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
VOCALS = ("none", "male", "female")
DRUMS = ("acoustic drumset", "electronic drumset")
BASSES = ("electric bass", "synth bass")
HARMONY = ("piano", "acoustic guitar", "electric guitar", "synthesizer keyboard", "strings", "flute")
INSTRUMENTS = DRUMS + BASSES + HARMONY

TEMPO_RANGE = (60, 160)  # BPM, both included
PICTURE_LIE = 0.15

# At most one drumset, at most one bass, and at least one instrument of the harmony.
ENSEMBLES = tuple(
    ensemble
    for size in (2, 3, 4)
    for ensemble in combinations(INSTRUMENTS, size)
    if not set(DRUMS) <= set(ensemble) and not set(BASSES) <= set(ensemble) and set(HARMONY) & set(ensemble)
)

TEMPO_WORDS = (  # (slower than this many BPM, words)
    (83, ("slow", "unhurried")),
    (115, ("mid-tempo", "moderately paced")),
    (TEMPO_RANGE[1] + 1, ("fast", "up-tempo")),
)

SENTENCES = (
    "{Tempo}, {mood} {genre} music with {instruments}, {sung}.",
    "{A_tempo} {genre} track with {a_mood} feeling. It features {instruments}, {sung}.",
    "{A_mood} {genre} piece, {tempo}, played on {instruments}. {Singer}.",
    "{Instruments} carry this {tempo} {genre} tune, {sung}. The feeling is {mood}.",
    "{Genre} music, {mood} and {tempo}: {instruments}. {Singer}.",
    "The mood is {mood} and the music is {tempo}. This {genre} track has {instruments}, {sung}.",
    "This {genre} song is {tempo} and gives {a_mood} vibe. {Singer}, over {instruments}.",
    "{Singer} in {a_tempo} {genre} recording that sounds {mood}, with {instruments}.",
)
# As the end of a sentence, and as one of its own.
SINGERS = {
    "none": (("without vocals", "with no singing", "purely instrumental"), ("Nobody sings", "There are no vocals")),
    "male": (("sung by a male voice", "with male vocals"), ("A man sings", "Male vocals lead")),
    "female": (("sung by a female voice", "with female vocals"), ("A woman sings", "Female vocals lead")),
}


@dataclass(frozen=True)
class Style:
    """What is heard in one generated piece of music; other values raise a `ViMLError`."""

    genre: str  # one of `GENRES`
    mood: str  # one of `MOODS`
    tempo: int  # beats per minute, within `TEMPO_RANGE`
    instruments: tuple[str, ...]  # one of `ENSEMBLES`: 2 to 4 of `INSTRUMENTS`, in their order
    vocals: str  # one of `VOCALS`
    key: str  # the tonic, one of `KEYS`; the mood gives the mode
    seed: int  # decides the melody, the wording of `describe`, and what the picture shows

    def __post_init__(self) -> None:
        _check_visible(self)
        if self.instruments not in ENSEMBLES:
            raise ViMLError(
                f"instruments {self.instruments}: 2 to 4 of {', '.join(INSTRUMENTS)} are accepted, in this order, as a "
                f"tuple, with at most one drumset, at most one bass and at least one other; choose from ENSEMBLES"
            )
        if self.vocals not in VOCALS or self.key not in KEYS:
            raise ViMLError(
                f"vocals {self.vocals!r}, key {self.key!r}: one of {', '.join(VOCALS)} and one of {', '.join(KEYS)} "
                f"are accepted; choose from these"
            )


@dataclass(frozen=True)
class PictureStyle:
    """What is seen in one generated video: the part of a `Style` that shows, random replacements included."""

    genre: str  # gives palette and shapes
    mood: str  # gives light and texture
    tempo: int  # gives cut rate and motion
    seed: int  # decides the composition of the scenes

    def __post_init__(self) -> None:
        _check_visible(self)


def draw_style(seed: int, index: int) -> Style:
    """The style of pair `index` of the corpus of a seed: every attribute is drawn independently and uniformly."""
    if seed < 0 or index < 0:
        raise ViMLError(f"seed {seed}, index {index}: both must be 0 or more; choose another seed")
    rng = np.random.default_rng([seed, index])
    genre, mood, tempo = _draw_visible(rng)
    return Style(
        genre=genre,
        mood=mood,
        tempo=tempo,
        instruments=ENSEMBLES[rng.integers(len(ENSEMBLES))],
        vocals=VOCALS[rng.integers(len(VOCALS))],
        key=KEYS[rng.integers(len(KEYS))],
        seed=int(rng.integers(2**32)),
    )


def draw_picture_style(style: Style) -> PictureStyle:
    """What the video of a style shows; it depends on nothing of `style` but genre, mood, tempo and seed."""
    rng = np.random.default_rng([style.seed, 1])
    genre, mood, tempo = _draw_visible(rng)
    lies = rng.random(3) < PICTURE_LIE
    return PictureStyle(
        genre=genre if lies[0] else style.genre,
        mood=mood if lies[1] else style.mood,
        tempo=tempo if lies[2] else style.tempo,
        seed=int(rng.integers(2**32)),
    )


def describe(style: Style) -> str:
    """One to three sentences that name genre, mood, a word for the tempo, every instrument, and who sings.

    Example:
        >>> describe(Style("blues", "dreamy", 64, ("piano", "acoustic guitar"), "female", "A", seed=1))
        'A woman sings in an unhurried blues recording that sounds dreamy, with piano and acoustic guitar.'
    """
    rng = np.random.default_rng([style.seed, 2])
    tempo = _pick(rng, next(words for limit, words in TEMPO_WORDS if style.tempo < limit))
    players = [style.instruments[i] for i in rng.permutation(len(style.instruments))]
    instruments = ", ".join(players[:-1]) + " and " + players[-1]
    endings, sentences = SINGERS[style.vocals]
    told = {"tempo": tempo, "mood": style.mood, "genre": style.genre, "instruments": instruments}
    told |= {f"a_{gap}": f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for gap, words in told.items()}
    told |= {_capital(gap): _capital(words) for gap, words in told.items()}
    return _pick(rng, SENTENCES).format(**told, sung=_pick(rng, endings), Singer=_pick(rng, sentences))


def tags(style: Style) -> dict[str, list[str]]:
    """The tags of a style by category, as a perfect tagger would give them; vocals count as instruments."""
    vocals = [] if style.vocals == "none" else [f"{style.vocals} vocals"]
    return {"genre": [style.genre], "mood": [style.mood], "instrument": [*style.instruments, *vocals]}


def _check_visible(style: Style | PictureStyle) -> None:
    low, high = TEMPO_RANGE
    if style.genre not in GENRES or style.mood not in MOODS or not low <= style.tempo <= high:
        raise ViMLError(
            f"genre {style.genre!r}, mood {style.mood!r}, tempo {style.tempo} BPM: one of {', '.join(GENRES)}, one of "
            f"{', '.join(MOODS)} and a tempo from {low} to {high} are accepted; choose from these"
        )


def _draw_visible(rng: np.random.Generator) -> tuple[str, str, int]:
    """Genre, mood and tempo; the tempo evenly on a logarithmic scale, as it is heard."""
    low, high = np.log(TEMPO_RANGE)
    genre, mood = _pick(rng, GENRES), _pick(rng, MOODS)
    return genre, mood, round(float(np.exp(rng.uniform(low, high))))


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
