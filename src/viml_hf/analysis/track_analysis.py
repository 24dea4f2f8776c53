"""Everything that is measured of a music file."""

from dataclasses import dataclass

import numpy as np

from viml_hf.analysis.beats import Beats, find_beats
from viml_hf.analysis.key import Key, find_key
from viml_hf.analysis.loudness import SoundLevels, measure_levels
from viml_hf.analysis.spectra import SAMPLING_RATE
from viml_hf.processing.audio_decoding import iter_audio, iter_channels, sound_format
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
    rate, layout = sound_format(source)
    levels = measure_levels(iter_channels(source, rate, start=start, end=end), rate, layout)
    heard = min(start + HEARD_SECONDS, float("inf") if end is None else end)
    waveform = np.concatenate(list(iter_audio(source, SAMPLING_RATE, start=start, end=heard)))
    return TrackAnalysis(levels, find_beats(waveform), find_key(waveform))
