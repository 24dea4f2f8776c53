"""Checksums of files and records."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(content: Any) -> str:
    """SHA-256, in hex, of what JSON can hold; a tuple counts as a list."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its own checksum."""
    return {**record, "sha256": digest(record)}


def unsealed(text: bytes) -> dict[str, Any] | None:
    """A record that was written `sealed`; `None` if it is another one now.

    Example:
        >>> text = json.dumps(sealed({"rows": 3})).encode()
        >>> unsealed(text), unsealed(text.replace(b"3", b"2"))
        ({'rows': 3}, None)
    """
    try:
        record = json.loads(text)
        checksum = record.pop("sha256")
        return record if checksum == digest(record) else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def damaged_file(folder: Path, checksums: dict[str, str]) -> str | None:
    """The first file that is missing or has another checksum."""
    for name, expected in checksums.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            return name
    return None


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
