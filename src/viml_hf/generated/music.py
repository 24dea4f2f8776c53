"""Music for a `Style`: a score written from tables, then played by additive synthesis.

Each attribute of the style owns a part of the sound, so that each can be heard, and measured, on its own:

* genre: `GROOVES`, one bar of rhythm for drums, bass and chords, and the chord progression;
* mood: `EXPRESSIONS`, the mode, the register, the loudness, how long notes are held, the melody's rhythm;
* tempo and key: when the notes sound, and how high;
* instruments and vocals: `TIMBRES`, one row of harmonics, envelope and noise per player, and the player's part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from viml_hf.errors import ViMLError
from viml_hf.generated.styles import DRUMS, HARMONY, KEYS, Style

Samples = NDArray[np.float32]

STEPS = 16  # per bar of four beats
PHRASE = 4  # bars after which the melody's contour starts again
NOTE_SECONDS = 2.5  # longest note: half a bar at the slowest tempo, and its release
RELEASE = 0.03  # seconds of fade at a note's end
VIBRATO_RATE = 5.5  # Hz
PAD = "x-------x-------"  # the rhythm of held chords, in any genre
LOUDNESS = 0.22  # root mean square of the loudest mood, before the soft limiter
FILTER_TAPS = 127
ROOM_NOISE = np.float32(5e-4)  # peak


@dataclass(frozen=True)
class Groove:
    """One bar of a genre. A pattern has a symbol per sixteenth: `.` rest, `-` hold, `x` hit or whole chord, a digit for
    that degree above the chord's root (1 root, 3 third, 5 fifth, 8 octave).

    `swing` is where an off-beat eighth falls within its beat: 0.5 is even, 0.67 a shuffle.
    """

    progression: tuple[int, ...]  # scale degrees of the chords' roots, from 1; one chord per bar
    equaliser: tuple[float, ...]  # dB at `BANDS`: how such records are mixed
    kick: str
    snare: str
    hat: str
    bass: str
    chords: str
    swing: float = 0.5
    tones: tuple[int, ...] = (1, 3, 5)  # of a whole chord


@dataclass(frozen=True)
class Expression:
    """How a mood plays what the genre prescribes."""

    scale: tuple[int, ...]  # semitones above the tonic
    melody: str  # rhythm, in the language of `Groove`
    register: int  # semitones added to chords and melody
    level: float  # loudness, of 1
    hold: float  # part of its written length that a note sounds
    accent: float  # how much quieter notes off the beat are, of 1
    darkness: float = 0.0  # loss of treble: a low-pass filter at 10 kHz over this; 0 is none
    echo: float = 0.0  # level of the echo
    swell: float = 0.0  # how much quieter a phrase begins than it ends, of 1


@dataclass(frozen=True)
class Timbre:
    """How a player sounds, and what the player plays."""

    part: str  # "bass", "chords", "pad" or "lead"
    centre: int  # MIDI note around which the player's notes lie
    gain: float
    slope: float = 1.0  # the k-th harmonic has amplitude k ** -slope
    even: float = 1.0  # gain of the even harmonics
    pluck: float = 0.0  # where on its length a string is plucked; 0: not plucked
    decay: float = 0.0  # of the whole note, 1/s
    damping: float = 0.0  # further decay per harmonic, 1/s
    attack: float = 0.003  # seconds
    vibrato: float = 0.0  # cents
    detune: float = 0.0  # cents between two voices of a chorus
    noise: float = 0.0  # breath, or the hammer's or the pick's knock
    noise_decay: float = 0.0  # 1/s
    drive: float = 0.0  # distortion
    formant_scale: float = 0.0  # length of a male vocal tract over this one's; 0: not a voice


@dataclass(frozen=True)
class Note:
    """One note of the score."""

    start: float  # seconds from the beginning
    duration: float  # seconds that it is held
    player: str  # a key of `TIMBRES`, or one of `DRUMS`
    pitch: int  # MIDI note; of a drum: 0 kick, 1 snare, 2 hat
    velocity: float  # loudness, in (0, 1]


# fmt: off
BANDS = (60.0, 250.0, 1000.0, 4000.0, 10000.0)  # Hz

GROOVES = {
    "electronic": Groove((1, 6, 3, 7), (6, -2, -5, 0, 6),
                         kick="x...x...x...x...", snare="....x.......x..x", hat="..x...x...x...x.",
                         bass="1.1.8.1.1.1.8.5.", chords="1358531835813585"),
    "dance":      Groove((6, 4, 1, 5), (9, 1, -6, 3, 2),
                         kick="x...x...x...x...", snare="....x.......x...", hat="x.xxx.xxx.xxx.xx",
                         bass="..1-..1-..1-..8-", chords="x..x..x...x..x.."),
    "country":    Groove((1, 4, 5, 1), (-9, -3, 3, 5, 0),
                         kick="x.......x.......", snare="..x.x.x...x.x.xx", hat="................",
                         bass="1---....5---....", chords="....x-......x-x-"),
    "rock":       Groove((1, 7, 4, 1), (0, -4, 7, 2, -5), tones=(1, 5, 8),
                         kick="x.....x.x.x.....", snare="....x.......x...", hat="x.x.x.x.x.x.x.x.",
                         bass="1-1-1-1-1-1-1-5-", chords="x-x-x-x-x-x-x-x-"),
    "pop":        Groove((1, 5, 6, 4), (-3, -5, 0, 6, 6),
                         kick="x.....x...x.....", snare="....x.......x...", hat="x.x.x.x.x.x.x.xx",
                         bass="1-----1-1---5---", chords="x---x---x---x---"),
    "hip-hop":    Groove((1, 1, 4, 1), (10, 5, -3, -7, -2), tones=(1, 3, 5, 7), swing=0.58,
                         kick="x......x..x.....", snare="....x.......x...", hat="x.xxx.x.x.x.xxxx",
                         bass="1------1--3-----", chords="x---------x-----"),
    "blues":      Groove((1, 4, 1, 1, 4, 4, 1, 1, 5, 4, 1, 5), (-4, 5, 5, -5, -10), tones=(1, 3, 7), swing=0.67,
                         kick="x.......x.......", snare="....x.......x.x.", hat="x...x.x.x...x.x.",
                         bass="1---3---5---6---", chords="..x-..x-..x-..x-"),
    "acoustic":   Groove((1, 3, 4, 5), (-10, 6, -1, -4, 5),
                         kick="x...............", snare="................", hat="x...x...x...x...",
                         bass="1-------5-------", chords="1-5-8-5-3-5-8-5-"),
}

EXPRESSIONS = {
    "happy":     Expression((0, 2, 4, 5, 7, 9, 11), "x.x.xx..x.x.x-..", register=4, level=0.80, hold=0.60, accent=0.3),
    "relaxing":  Expression((0, 2, 4, 5, 7, 9, 11), "x-------x-----..", register=-5, level=0.30, hold=1.00, accent=0.1,
                            darkness=8.0, echo=0.15),
    "nostalgic": Expression((0, 2, 4, 5, 7, 9, 10), "x---x-x---x-----", register=0, level=0.55, hold=0.95, accent=0.2,
                            darkness=3.0, echo=0.25),
    "dramatic":  Expression((0, 2, 3, 5, 7, 8, 11), "x-----x-x-----x-", register=-7, level=0.85, hold=0.90, accent=0.4,
                            echo=0.20, swell=0.8),
    "powerful":  Expression((0, 1, 3, 5, 7, 8, 10), "x-x-x---x-x-x---", register=-3, level=1.00, hold=0.90, accent=0.6),
    "sad":       Expression((0, 2, 3, 5, 7, 8, 10), "....x-------x---", register=-4, level=0.22, hold=1.00, accent=0.1,
                            darkness=5.0, echo=0.20, swell=0.3),
    "dreamy":    Expression((0, 2, 4, 6, 7, 9, 11), "x-----x-----x---", register=9, level=0.40, hold=1.00, accent=0.0,
                            darkness=1.5, echo=0.60),
    "quirky":    Expression((0, 2, 4, 6, 7, 9, 10), "x..x..x.x..x.x..", register=7, level=0.65, hold=0.35, accent=0.7),
}

TIMBRES = {
    "electric bass":   Timbre("bass", 36, 0.9, slope=1.2, pluck=0.22, decay=1.0, damping=0.9,
                              noise=0.05, noise_decay=90),
    "synth bass":      Timbre("bass", 34, 0.8, even=0.15, damping=0.25, attack=0.008, drive=1.5),
    "piano":           Timbre("chords", 65, 0.9, slope=1.5, decay=1.2, damping=0.3, noise=0.3, noise_decay=50),
    "acoustic guitar": Timbre("chords", 57, 1.1, slope=0.4, pluck=0.1, decay=1.5, damping=0.4,
                              noise=1.0, noise_decay=100),
    "electric guitar": Timbre("chords", 50, 0.4, slope=0.8, pluck=0.3, decay=0.4, damping=0.1, drive=6.0),
    "synthesizer keyboard": Timbre("chords", 72, 0.6, slope=0.5, even=0.2, attack=0.015, detune=24.0),
    "strings":         Timbre("pad", 64, 0.5, slope=1.15, attack=0.12, vibrato=18.0, detune=9.0, noise=0.02),
    "flute":           Timbre("lead", 82, 0.6, slope=2.4, even=0.5, attack=0.05, vibrato=12.0, noise=0.2),
    "male":            Timbre("lead", 50, 1.0, slope=0.7, attack=0.05, vibrato=30.0, noise=0.02, formant_scale=1.0),
    "female":          Timbre("lead", 66, 0.9, slope=0.8, attack=0.05, vibrato=40.0, noise=0.03, formant_scale=1.18),
}
DRUM_GAIN = 0.8
# First three formants in Hz of a male voice singing a, o, e.
VOWELS = ((700.0, 1150.0, 2600.0), (430.0, 800.0, 2500.0), (500.0, 1750.0, 2500.0))
# fmt: on


def synthesise(style: Style, duration: float, sampling_rate: int = 22050) -> Samples:
    """The music of a style: a mono waveform `(samples,)` in [-1, 1], single precision, of the mood's loudness."""
    if not duration > 0 or sampling_rate < 8000:
        raise ViMLError(
            f"duration {duration} s at {sampling_rate} Hz: a duration above 0 s and a rate of 8000 Hz or more "
            f"are accepted; use for example 20.0 and 22050"
        )
    waveform = np.zeros(round(duration * sampling_rate), np.float32)
    for note in compose(style, duration):
        _play(waveform, note, sampling_rate)
    return _master(waveform, style, sampling_rate)


def compose(style: Style, duration: float) -> list[Note]:
    """The score of a style: all notes that begin before `duration` seconds, bar by bar."""
    groove, expression = GROOVES[style.genre], EXPRESSIONS[style.mood]
    beat = 60 / style.tempo
    contours = np.random.default_rng([style.seed, 3]).integers(-2, 3, (PHRASE, 2, STEPS))
    notes = []
    for bar in range(int(np.ceil(duration / (4 * beat)))):
        phrase_bar = bar % PHRASE
        loudness = 1 - expression.swell * (1 - (phrase_bar + 1) / PHRASE)
        root = groove.progression[bar % len(groove.progression)] - 1
        for step, length, player, pitch in _bar(style, root, contours[phrase_bar]):
            start = (4 * bar + _beats(step, groove.swing)) * beat
            velocity = loudness * (1 - expression.accent * (step % 4 != 0))
            if start < duration:
                notes.append(Note(start, expression.hold * length * beat / 4, player, pitch, velocity))
    return notes


def _bar(style: Style, root: int, contours: NDArray[np.int64]) -> Iterator[tuple[int, int, str, int]]:
    """Yields (step, length in steps, player, pitch) of one bar over the chord on scale degree `root`, from 0."""
    groove = GROOVES[style.genre]
    for player in style.instruments:
        if player in DRUMS:
            for drum, pattern in enumerate((groove.kick, groove.snare, groove.hat)):
                yield from ((step, length, player, drum) for step, length, _ in _events(pattern))
        elif TIMBRES[player].part != "lead":
            yield from _accompaniment(style, player, root)
    for player, contour in zip(_leads(style), contours, strict=False):
        yield from _melody(style, player, root, contour)


def _accompaniment(style: Style, player: str, root: int) -> Iterator[tuple[int, int, str, int]]:
    groove, expression, timbre = GROOVES[style.genre], EXPRESSIONS[style.mood], TIMBRES[player]
    pattern = {"bass": groove.bass, "chords": groove.chords, "pad": PAD}[timbre.part]
    centre = timbre.centre if timbre.part == "bass" else timbre.centre + expression.register
    for step, length, symbol in _events(pattern):
        for tone in groove.tones if symbol == "x" else (int(symbol),):
            pitch = KEYS.index(style.key) + _semitones(expression.scale, root + tone - 1)
            yield step, length, player, _nearest(pitch, centre) + 12 * (tone == 8)


def _melody(style: Style, player: str, root: int, contour: NDArray[np.int64]) -> Iterator[tuple[int, int, str, int]]:
    """A walk along the scale that begins each bar on a tone of the chord, and stays within a singer's range."""
    expression, timbre = EXPRESSIONS[style.mood], TIMBRES[player]
    centre = timbre.centre + {"lead": 0, "chords": 12, "pad": 12}[timbre.part]
    if timbre.formant_scale == 0:
        centre += expression.register
    tonic = _nearest(KEYS.index(style.key), centre)
    degree = (root if root <= 3 else root - 7) + 2 * (contour[0] % 3)
    for (step, length, _), move in zip(_events(expression.melody), contour[1:], strict=False):
        yield step, length, player, tonic + _semitones(expression.scale, int(degree))
        degree = np.clip(degree + move, -3, 7)


def _leads(style: Style) -> list[str]:
    """Who plays a melody: singer and flute, each its own; without them the first player of chords."""
    singer = [] if style.vocals == "none" else [style.vocals]
    tuneful = [player for player in style.instruments if player in HARMONY]
    return singer + [player for player in tuneful if TIMBRES[player].part == "lead"] or tuneful[:1]


def _events(pattern: str) -> Iterator[tuple[int, int, str]]:
    """Yields (step, length in steps, symbol) of a pattern's notes."""
    for step, symbol in enumerate(pattern):
        if symbol not in ".-":
            held = pattern[step + 1 :]
            yield step, 1 + len(held) - len(held.lstrip("-")), symbol


def _beats(step: int, swing: float) -> float:
    """When a step sounds, in beats: the two halves of each beat are stretched to `swing` and 1 - `swing`."""
    return step // 4 + float(np.interp(step % 4, (0, 2, 4), (0, swing, 1)))


def _semitones(scale: tuple[int, ...], degree: int) -> int:
    return scale[degree % 7] + 12 * (degree // 7)


def _nearest(pitch: int, centre: int) -> int:
    """The note of the same name that lies nearest to `centre`."""
    return pitch - 12 * round((pitch - centre) / 12)


def _play(waveform: Samples, note: Note, rate: int) -> None:
    begin = round(note.start * rate)
    if note.player in DRUMS:
        sample = note.velocity * _drum_sample(note.player, note.pitch, rate)
    else:
        sample = _note_sample(note.player, note.pitch, rate)
        sample = note.velocity * sample[: round((note.duration + RELEASE) * rate)]
        fade = min(len(sample), round(RELEASE * rate))
        sample[len(sample) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    waveform[begin : begin + len(sample)] += sample[: len(waveform) - begin]


def _master(waveform: Samples, style: Style, rate: int) -> Samples:
    """The genre's equaliser, the mood's darkness, echo and loudness; tanh keeps the rare peaks below 1."""
    expression, beat = EXPRESSIONS[style.mood], 60 / style.tempo
    waveform = np.convolve(waveform, _filter(style.genre, style.mood, rate), "same")[: len(waveform)]
    delay = round(0.75 * beat * rate)
    if expression.echo and delay < len(waveform):
        dry = waveform.copy()
        waveform[delay:] += expression.echo * dry[:-delay]
        waveform[2 * delay :] += expression.echo**2 * dry[: max(0, len(dry) - 2 * delay)]
    power = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    # An AAC encoder spends twice its bit rate on pauses of digital silence; a room is never that silent.
    room = ROOM_NOISE * (2 * np.random.default_rng(0).random(len(waveform), np.float32) - 1)
    return np.tanh(waveform * np.float32(LOUDNESS * expression.level / max(power, 1e-6)) + room)


@lru_cache(maxsize=64)
def _filter(genre: str, mood: str, rate: int) -> Samples:
    """`(taps,)` impulse response of the equaliser and of the darkness: a low-pass of 6 dB per octave."""
    frequency = np.fft.rfftfreq(FILTER_TAPS, 1 / rate)
    decibels = np.interp(np.log(np.maximum(frequency, BANDS[0])), np.log(BANDS), GROOVES[genre].equaliser)
    gain = 10 ** (decibels / 20) / np.hypot(1, frequency * EXPRESSIONS[mood].darkness / 10000)
    return (np.fft.fftshift(np.fft.irfft(gain, FILTER_TAPS)) * np.hanning(FILTER_TAPS)).astype(np.float32)


@lru_cache(maxsize=512)
def _note_sample(player: str, pitch: int, rate: int) -> Samples:
    """`(samples,)` one long note of a player, peak `gain`; `_play` cuts it to length."""
    timbre = TIMBRES[player]
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    time = np.arange(round(NOTE_SECONDS * rate)) / rate
    voices = (-0.5, 0.5) if timbre.detune else (0.0,)
    sample = sum(_harmonics(timbre, pitch, frequency * 2 ** (timbre.detune * v / 1200), time, rate) for v in voices)
    sample /= np.abs(sample).max()
    if timbre.drive:
        sample = np.tanh(timbre.drive * sample)
    noise = np.random.default_rng(pitch).uniform(-1, 1, len(time))
    sample += timbre.noise * noise * np.exp(-timbre.noise_decay * time)
    sample *= (1 - np.exp(-time / timbre.attack)) * np.exp(-timbre.decay * time)
    return (timbre.gain / np.abs(sample).max() * sample).astype(np.float32)


def _harmonics(timbre: Timbre, pitch: int, frequency: float, time: NDArray, rate: int) -> NDArray:
    """Sum over k of amplitude_k * exp(-damping * k * t) * sin(k * phase(t)), by Horner's rule in exp(i * phase)."""
    k = np.arange(1, max(2, min(41, int(0.45 * rate / frequency) + 1)))
    amplitude = k**-timbre.slope * np.where(k % 2 == 0, timbre.even, 1.0)
    if timbre.pluck:
        amplitude *= np.abs(np.sin(np.pi * k * timbre.pluck))
    if timbre.formant_scale:
        formants = timbre.formant_scale * np.array(VOWELS[pitch % len(VOWELS)])[:, None]
        resonances = np.array([[1.0], [0.6], [0.3]]) / (1 + ((k * frequency - formants) / (0.12 * formants + 30)) ** 2)
        amplitude *= 0.03 + resonances.sum(0)
    vibrato = timbre.vibrato / 1200 * np.log(2) * frequency / VIBRATO_RATE
    phase = 2 * np.pi * frequency * time + vibrato * np.sin(2 * np.pi * VIBRATO_RATE * time)
    z = np.exp(1j * phase - timbre.damping * time)
    total = np.zeros_like(z)
    for a in amplitude[::-1]:
        total += a
        total *= z
    return total.imag


@lru_cache(maxsize=16)
def _drum_sample(player: str, drum: int, rate: int) -> Samples:
    """`(samples,)` one hit of the kick (0), the snare (1) or the hat (2), peak at most `DRUM_GAIN`."""
    acoustic = player == "acoustic drumset"
    time = np.arange(round(0.5 * rate)) / rate
    noise = np.random.default_rng(drum).uniform(-1, 1, len(time))
    bright = np.diff(noise, prepend=0.0)
    if drum == 0:  # a membrane whose pitch falls
        low, high, fall, decay = (75, 190, 40, 16) if acoustic else (48, 160, 18, 5)
        turns = low * time + (high - low) * (1 - np.exp(-fall * time)) / fall
        sample = np.sin(2 * np.pi * turns) * np.exp(-decay * time)
        sample += (0.3 * noise if acoustic else 0.05 * bright) * np.exp(-300 * time)
    elif drum == 1:  # wires on a membrane, or the four claps of a machine
        if acoustic:
            tone = np.sin(2 * np.pi * 185 * time) + 0.6 * np.sin(2 * np.pi * 330 * time)
            sample = 0.5 * tone * np.exp(-22 * time) + 0.6 * noise * np.exp(-14 * time)
        else:
            claps = sum(np.exp(-220 * np.maximum(time - d, 0)) * (time >= d) for d in (0, 0.011, 0.022))
            sample = bright * (claps + (time >= 0.03) * np.exp(-18 * np.maximum(time - 0.03, 0)))
    elif acoustic:  # long and noisy, or short and metallic
        sample = 0.35 * bright * np.exp(-22 * time)
    else:
        metal = sum(np.sign(np.sin(2 * np.pi * f * time)) for f in (2050, 3040, 3690, 4150, 5400, 6230))
        sample = 0.1 * np.diff(metal, prepend=0.0) * np.exp(-70 * time)
    return (DRUM_GAIN / max(1.0, np.abs(sample).max()) * sample).astype(np.float32)
