"""Why a track was recommended, in words."""

from collections.abc import Mapping
from typing import Any


def reasons(found: Mapping[str, Any]) -> list[str]:
    """What a recommendation's score is made of, the tags that it has and lacks, its tempo, key and licence.

    Args:
        found: The fields of a [`Recommendation`].

    Example:
        >>> found = {"shares": {"video": 0.31, "text": 0.2}, "tags_found": ["piano"], "tags_missing": ["drums"]}
        >>> reasons({**found, "licence": "CC0", "fields": {"tempo": 98.7, "key": "A minor"}})
        ['video +0.31, text +0.20', 'has piano', 'lacks drums', '99 BPM', 'A minor', 'CC0']
    """
    fields = found["fields"]
    told = [", ".join(f"{name} {share:+.2f}" for name, share in found["shares"].items())]
    told += [
        f"{word} {', '.join(found[tags])}"
        for word, tags in (("has", "tags_found"), ("lacks", "tags_missing"))
        if found[tags]
    ]
    told += [f"{fields['tempo']:.0f} BPM"] if isinstance(fields.get("tempo"), int | float) else []
    return [one for one in (*told, fields.get("key"), found["licence"]) if one]
