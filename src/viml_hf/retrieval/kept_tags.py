"""Columns of an index that a tagger gives: `tags`, and whether there are `vocals`; kept by the files' content."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.measurements import content_name
from viml_hf.features.media_item import MediaItem
from viml_hf.features.record_journal import RecordJournal
from viml_hf.tagging.tagger import MusicTagger
from viml_hf.tagging.track_tags import TrackTags

KEPT_TAGS_FILE = "tags.jsonl"
DIGITS = 4  # of a confidence
_SUNG = ("vocals", "choir")  # how the names of tags end that are heard as a voice


class KeptTags:
    """A file with the confidences of every tagged file or excerpt.

    Args:
        path: The file; made where there is none.
        tagger: What tags tracks that the file does not know; without it they have no tags.
        name: The tagger's name: what another one has tagged is tagged again.

    Raises:
        ViMLError: The file cannot be written, or a line of it is no record.
    """

    def __init__(self, path: str | Path, tagger: MusicTagger | None = None, name: str | None = None):
        self.tagger, self.name = tagger, name
        self._journal = RecordJournal(path)
        self._known = {r["id"] for r in self._journal.read() if tagger is None or r.get("tagger") == name}

    def tag(self, items: Sequence[tuple[MediaItem, str]], *, progress: bool = True) -> None:
        """Tag items, each with the checksum of its file, that are not known; one that fails is told and left out."""
        missing = [one for one in items if content_name(one[1], one[0].start, one[0].end) not in self._known]
        if self.tagger is None:
            return
        for item, sha256 in tqdm(missing, desc="tag", unit="track", disable=not (progress and missing)):
            known = content_name(sha256, item.start, item.end)
            if known in self._known:  # a copy of one before
                continue
            try:
                tags = self.tagger.tag(str(item.audio), start=item.start, end=item.end)
            except (ViMLError, OSError) as error:
                tqdm.write(f"not tagged: {in_one_line(error)}", file=sys.stderr)
                continue
            rounded = {
                category: {tag: round(value, DIGITS) for tag, value in found.items()}
                for category, found in tags.to_record().items()
            }
            record = {"id": known, "tagger": self.name, "threshold": self.tagger.threshold, "tags": rounded}
            self._journal.append(record)
            self._known.add(known)

    def of(self, sha256: str, start: float | None = None, end: float | None = None) -> dict[str, Any] | None:
        """The columns of a track: `tags` above the tagger's threshold, surest first, and whether one of them is sung.

        `None` where it was not tagged.
        """
        known = content_name(sha256, start, end)
        if known not in self._known:
            return None
        record = self._journal.get(known)
        tags = TrackTags.from_record(record["tags"])
        confidences = {tag: value for found in tags.confidences.values() for tag, value in found.items()}
        kept = sorted(tags.names(record["threshold"]), key=lambda tag: -confidences[tag])
        can_tell = any(tag.endswith(_SUNG) for tag in confidences)
        return {"tags": kept, "vocals": any(tag.endswith(_SUNG) for tag in kept) if can_tell else None}
