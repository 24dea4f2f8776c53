"""Everything that is measured of a music file, in one pass over it."""

from dataclasses import dataclass

import numpy as np

from viml_hf.analysis.beats import Beats, find_beats
from viml_hf.analysis.key import Key, find_key
from viml_hf.analysis.loudness import LevelMeter, SoundLevels
from viml_hf.analysis.spectra import SAMPLING_RATE, semitone_frames
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.processing.media import MediaSource

HEARD_SECONDS = 900.0  # of a longer file, in which beats and key are looked for: they bound the memory


@dataclass(frozen=True)
class TrackAnalysis:
    """What was measured of a music file.

    Args:
        levels: Loudness, true peak, silence at both ends; of the whole file.
        beats: Tempo, beats and downbeats; `None` where there are none. Of the first 15 minutes, like the key.
        key: `None` where no tone stands out.
    """

    levels: SoundLevels
    beats: Beats | None
    key: Key | None


class TrackListener:
    """Measures a file that is decoded for something else, see `processing.audio_decoding.Listener`."""

    def __init__(self) -> None:
        self._heard: list[np.ndarray] = []
        self._room = round(HEARD_SECONDS * SAMPLING_RATE)  # samples that may still be kept

    def formats(self, sampling_rate: int, layout: str) -> list[tuple[int, str]]:
        """All channels for the levels, one at a rate of its own for beats and key."""
        self._meter = LevelMeter(sampling_rate, layout)
        return [(sampling_rate, layout), (SAMPLING_RATE, "mono")]

    def hear(self, number: int, chunk: np.ndarray) -> None:
        """Take the next samples of a format."""
        if number == 0:
            self._meter.add(chunk)
        elif self._room > 0:
            self._heard.append(np.clip(chunk[0, : self._room], -1.0, 1.0))
            self._room -= chunk.shape[1]

    def analysis(self) -> TrackAnalysis:
        """What was measured of all that was heard."""
        waveform = np.concatenate(self._heard)
        semitones = semitone_frames(waveform)
        return TrackAnalysis(self._meter.levels(), find_beats(waveform, semitones), find_key(waveform, semitones))


def analyse_track(source: MediaSource, start: float = 0.0, end: float | None = None) -> TrackAnalysis:
    """Measure a music file, or an excerpt of it; times of beats are seconds of the excerpt.

    Args:
        source: A path, or the bytes of a whole file.
        start: Seconds of the file before the excerpt.
        end: Seconds of the file at which it ends; `None` for the whole.

    Raises:
        MediaDecodeError: It cannot be decoded, or has no sound.
        ViMLError: The excerpt has no length.

    Example:
        >>> import io, wave
        >>> file = io.BytesIO()
        >>> with wave.open(file, "wb") as writer:
        ...     writer.setparams((1, 2, 8000, 0, "NONE", ""))
        ...     writer.writeframes(bytes(2 * 8000))
        >>> analyse_track(file.getvalue())
        TrackAnalysis(levels=SoundLevels(loudness=-inf, true_peak=-inf, duration=1.0, silence_at_start=1.0, \
silence_at_end=1.0), beats=None, key=None)
    """
    listener = TrackListener()
    for _ in iter_audio(source, SAMPLING_RATE, start=start, end=end, listener=listener):
        pass
    return listener.analysis()
