"""What was measured of music files, kept by their content in a file of its own: so none is measured twice."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from viml_hf.analysis.track_analysis import TrackAnalysis
from viml_hf.features.media_item import Extracted, MeasuredItem, MediaItem, content_hash, size_of
from viml_hf.features.record_journal import RecordJournal

VERSION = 1  # of what is measured and how: what another version has measured is measured again
MEASUREMENTS_FILE = "measurements.jsonl"


class Measurements:
    """A file with a line per measured file or excerpt, in the order in which they were measured.

    Raises:
        ViMLError: The file cannot be written, or a line of it is no record.
    """

    def __init__(self, path: str | Path):
        self._journal = RecordJournal(path)
        self._sizes = {
            record["id"]: record.get("bytes") for record in self._journal.read() if record.get("version") == VERSION
        }

    def of(self, sha256: str, start: float | None = None, end: float | None = None) -> dict[str, Any] | None:
        """What was measured of an excerpt of a file of this content; `None` where it was not yet.

        `tempo` (BPM), `beats` (s) and `first_downbeat` (which of them begins a bar of four), `key`, `loudness` (LUFS),
        `true_peak` (dBTP), `silence_start` and `silence_end` (s); `None` where there is none.
        """
        known = content_name(sha256, start, end)
        return self._journal.get(known) if known in self._sizes else None

    def to_measure(self, items: Sequence[MediaItem]) -> Iterator[MediaItem]:
        """The items, those of which nothing is known by content as [`MeasuredItem`]s."""
        sizes = set(self._sizes.values())
        for item in items:
            try:
                # A file is read only where its size is a known one.
                known = size_of(item) in sizes and content_name(content_hash(item), item.start, item.end) in self._sizes
            except OSError:  # whoever extracts it says so
                known = True
            yield item if known else MeasuredItem(*(getattr(item, field.name) for field in fields(MediaItem)))

    def keep(self, extracted: Extracted) -> None:
        """Write down what was measured of an item, if anything was."""
        if extracted.analysis is None or self.of(extracted.facts["sha256"], extracted.item.start, extracted.item.end):
            return
        name = content_name(extracted.facts["sha256"], extracted.item.start, extracted.item.end)
        known = {"id": name, "version": VERSION, "bytes": extracted.facts["bytes"]}
        self._journal.append(known | to_record(extracted.analysis))
        self._sizes[name] = known["bytes"]


def to_record(analysis: TrackAnalysis) -> dict[str, Any]:
    """An analysis as plain numbers, for JSON; see [`Measurements.of`].

    Example:
        >>> from viml_hf.analysis.beats import Beats
        >>> from viml_hf.analysis.loudness import SoundLevels
        >>> beats = Beats(120.0, (0.5, 1.0, 1.5, 2.0), (1.0,))
        >>> to_record(TrackAnalysis(SoundLevels(-14.0, float("-inf"), 3.0, 0.0, 0.25), beats, None))
        {'tempo': 120.0, 'key': None, 'loudness': -14.0, 'true_peak': None, 'silence_start': 0.0, 'silence_end': 0.25, \
'beats': [0.5, 1.0, 1.5, 2.0], 'first_downbeat': 1}
    """
    levels, beats = analysis.levels, analysis.beats
    times = beats.times if beats else ()
    return {
        "tempo": round(beats.tempo, 2) if beats else None,
        "key": str(analysis.key) if analysis.key else None,
        "loudness": round(levels.loudness, 2) if math.isfinite(levels.loudness) else None,
        "true_peak": round(levels.true_peak, 2) if math.isfinite(levels.true_peak) else None,
        "silence_start": round(levels.silence_at_start, 3),
        "silence_end": round(levels.silence_at_end, 3),
        "beats": [round(time, 3) for time in times],
        "first_downbeat": times.index(beats.downbeats[0]) if beats and beats.downbeats else None,
    }


def content_name(sha256: str, start: float | None, end: float | None) -> str:
    """The name of a file's excerpt by the file's checksum."""
    excerpt = "" if start is None and end is None else f"#{start or 0.0:g}-{'' if end is None else f'{end:g}'}"
    return sha256 + excerpt
