"""Recommendations for many videos: a line of JSON each, in a file that a rerun goes on with."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from viml_hf.errors import ViMLError, in_one_line, shown
from viml_hf.features.atomic_files import replacing
from viml_hf.features.checksums import digest, sha256_of
from viml_hf.features.media_item import MediaItem
from viml_hf.features.record_journal import RecordJournal

Ask = Callable[[MediaItem, str | None], list[dict[str, Any]]]


def recommend_many(
    items: Sequence[MediaItem],
    ask: Ask,
    output: str | Path,
    *,
    asked: dict[str, Any],
    text: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Write the recommendations for each video as a line; a video of which there are none is a line with its error.

    A video is done, and not read again, if there is a line of its path and content that was asked for in the same way.
    A line that is cut off, or of a video that has changed, gives way.

    Args:
        items: The videos. The texts of an item are part of its query.
        ask: Gives the results for an item and its text.
        output: The file, JSON lines: `id`, `video`, `sha256`, `asked`, `text`, and `results` or `error`.
        asked: All else that decides on the results.
        text: A text for all of them, behind their own.
        progress: Show a progress bar.

    Returns:
        The line of each item.

    Raises:
        ViMLError: The file cannot be written, or holds other things.
    """
    queries = {item.id: " ".join([*item.texts, *([text] if text else [])]) or None for item in items}
    names = {item.id: _name_of(item, queries[item.id], asked) for item in items}
    _drop_changed(Path(output), names)
    journal, failed = RecordJournal(output), 0
    missing = [item for item in items if item.id not in journal.done]
    with tqdm(total=len(missing), desc="recommend", unit="video", disable=not (progress and missing)) as bar:
        for item in missing:
            record: dict[str, Any] = {"id": item.id, "video": item.video, "text": queries[item.id], **names[item.id]}
            try:
                record["results"] = _checked(item) and ask(item, queries[item.id])
            except (ViMLError, OSError) as error:
                failed += 1
                record["error"] = in_one_line(error)
                tqdm.write(f"skipped: {shown(record['error'])}", file=sys.stderr)
            journal.append(record)
            bar.set_postfix_str(f"{failed} with errors", refresh=False)
            bar.update()
    return [journal.get(item.id) for item in items]


def _name_of(item: MediaItem, text: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    """What a line is known by: the content of its video, and what was asked."""
    try:
        content = sha256_of(Path(item.video)) if item.video is not None else None
    except OSError:
        content = None
    return {"sha256": content, "asked": digest([item.video, item.start, item.end, text, asked])[:16]}


def _checked(item: MediaItem) -> bool:
    """Refuse an item that is not a whole video."""
    if item.video is None:
        raise ViMLError(f"{item.id}: has no pictures; give videos, or ask by `--text` alone")
    if item.start is not None or item.end is not None:
        raise ViMLError(f"{item.id}: an excerpt of {item.video}; give a file of it, or leave start and end out")
    return True


def _drop_changed(output: Path, names: dict[str, dict[str, Any]]) -> None:
    """Remove the lines of videos that are to be asked for anew, where there are any."""
    if not output.exists():
        return
    records = list(RecordJournal(output).read())
    kept = [r for r in records if r["id"] not in names or all(r.get(k) == v for k, v in names[r["id"]].items())]
    if len(kept) < len(records):
        with replacing(output) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
