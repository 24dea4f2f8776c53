"""Columns of an index that were measured: tempo, key, loudness, true peak, silence at both ends."""

import re
from collections.abc import Mapping
from typing import Any

from viml_hf.analysis.key import TONICS

TAGGED = ("tags", "vocals")
MEASURED = ("tempo", "key", "loudness", "true_peak", "silence_start", "silence_end")
COLUMNS = (*MEASURED, *TAGGED)
ALSO_CALLED = {"tempo": "bpm"}  # in manifests
_FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#", "Cb": "B", "Fb": "E", "E#": "F", "B#": "C"}
_KEY = re.compile(r"\s*([A-Ga-g])([#b♯♭]?)\s*[-_]?\s*(major|maj|minor|min|m|M)?\s*")


def with_measured(fields: Mapping[str, Any], measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """A track's fields with what was measured or tagged. What its manifest states wins; then both are kept.

    Example:
        >>> with_measured({"bpm": "90", "mood": "calm"}, {"tempo": 89.9, "key": "C major"})
        {'bpm': '90', 'mood': 'calm', 'tempo': 90.0, 'measured_tempo': 89.9, 'key': 'C major'}
    """
    found = dict(fields)
    for name, value in (measured or {}).items():
        if name not in COLUMNS:
            continue
        stated = fields.get(name, fields.get(ALSO_CALLED.get(name, name)))
        if stated is not None:
            found[name] = key_name(str(stated)) if name == "key" else stated if name in TAGGED else _number(stated)
        if value is not None:
            found[name if stated is None else f"measured_{name}"] = value
    return found


def key_name(text: str) -> str:
    """A key as the columns name it; a text that names no key as it is.

    Example:
        >>> [key_name(text) for text in ("Am", "Bb", "f# min", "E♭ major", "8A")]
        ['A minor', 'A# major', 'F# minor', 'D# major', '8A']
    """
    found = _KEY.fullmatch(text)
    if found is None:
        return text
    tonic = found[1].upper() + found[2].replace("♯", "#").replace("♭", "b")
    tonic = _FLATS.get(tonic, tonic)
    mode = "minor" if (found[3] or "").startswith("m") and not (found[3] or "").startswith("maj") else "major"
    return f"{tonic} {mode}" if tonic in TONICS else text


def _number(value: Any) -> Any:
    """The number that a cell states; what is none as it is."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
