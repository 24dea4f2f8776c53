"""Publishing a saved model: what goes to the Hub, on which terms, and in one commit."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo
from transformers import AutoModel, AutoProcessor

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.hub.card_facts import CardFacts, OwnerFacts, check_repo_id, gather_facts
from viml_hf.hub.card_licence import card_licence
from viml_hf.hub.code import CODE_FOLDER, add_code
from viml_hf.hub.evaluation_results import benchmark_files
from viml_hf.hub.model_card import render_card
from viml_hf.hub.pushing import non_commercial_encoders, published_files, refuse_unaccepted
from viml_hf.hub.repo_files import CARD_FILE, FACTS, is_of_other_publication, is_own_card
from viml_hf.hub.sentence_transformers_files import save_for_sentence_transformers
from viml_hf.hub.uploading import commit_files, has_own_card

logger = logging.getLogger(__name__)

POINTERS = ("auto_map", "custom_pipelines")


@dataclass(frozen=True, eq=False)
class Publication:
    """What `publish` uploads.

    Args:
        repo_id: `OWNER/NAME`.
        files: By path in the repo: a file of the model's folder, or the content of one that was made here.
        left_out: Names of what else lies in the model's folder.
        facts: What the card is written from.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    left_out: list[str]
    facts: CardFacts

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    @property
    def card(self) -> str:
        """The model card."""
        content = self.files[CARD_FILE]
        return content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")

    @property
    def non_commercial(self) -> list[str]:
        """The encoders inside that may not be used commercially, with their licences."""
        return non_commercial_encoders(self.facts)

    @property
    def licence(self) -> str | None:
        """Of the model, as its card's head states it."""
        stated = card_licence(self.facts)
        return stated.get("license_name") or stated.get("license")

    @property
    def has_own_card(self) -> bool:
        """Whether the card is one that somebody wrote into the model's folder."""
        return is_own_card(self.card)


def plan_publication(
    folder: str | Path,
    repo_id: str,
    *,
    with_code: bool = False,
    owner: OwnerFacts | None = None,
    local_files_only: bool = False,
) -> Publication:
    """Decide what would be uploaded, without uploading it.

    The model is loaded, so that a damaged one is not published. A `README.md` of the user's own in the model's folder
    is taken as the card. Paths of this machine are left out of what training and evaluation noted.

    Args:
        folder: A saved model, with its processor where it has one.
        repo_id: `OWNER/NAME`.
        with_code: Bring the code, so that the model loads where this package is not installed.
        owner: What only the owner of the model can say: licence, datasets, languages.
        local_files_only: Do not look for the licences of encoders on the Hub.

    Raises:
        ViMLError: The folder holds no whole model, its results are of other weights, or the name is none.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    facts = gather_facts(folder, repo_id, owner=owner, with_code=with_code, local_files_only=local_files_only)
    found = published_files(folder, _loaded_tokenizer_files(folder, facts))
    files = {name: path for name, path in found.items() if name.endswith(".safetensors")}
    with TemporaryDirectory() as staging:
        for name in set(found) - set(files):
            shutil.copy(folder / name, staging)
        _clean(Path(staging))
        if with_code:
            add_code(staging)
        if facts.whole:
            save_for_sentence_transformers(staging)
        made = sorted(path for path in Path(staging).rglob("*") if path.is_file())
        files |= {path.relative_to(staging).as_posix(): path.read_bytes() for path in made}
    files |= {path: text.encode() for path, text in benchmark_files(facts.results).items()}
    own_card = folder / CARD_FILE
    has_own = own_card.is_file() and is_own_card(own_card)
    files[CARD_FILE] = own_card if has_own else render_card(facts).encode()
    left_out = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in folder.iterdir()
        if path.name not in files and path.name not in (CODE_FOLDER, CARD_FILE)
    )
    return Publication(repo_id, dict(sorted(files.items())), left_out, facts)


def publish(
    publication: Publication, *, private: bool | None = None, accept_licences: bool = False, message: str | None = None
) -> CommitInfo:
    """Upload in one commit. If anything fails, the repo is as it was; one made for this is removed again.

    Files of an earlier publication that are no longer part of it, such as code or a second shard, are removed in the
    same commit. A card that somebody wrote on the Hub stays, unless there is one of the user's own in the model's
    folder. The token is that of HF_TOKEN or of `hf auth login`.

    Args:
        publication: From `plan_publication`.
        private: Make the repo private, if it is made.
        accept_licences: The licences of encoders that forbid commercial use are known and kept to.
        message: Of the commit.

    Returns:
        The commit: `.commit_url`, `.oid`.

    Raises:
        ViMLError: Such a licence is not accepted, the repo is public and should not be, or the upload failed.
    """
    refuse_unaccepted(publication.facts, accept_licences)
    files, repo_id = dict(publication.files), publication.repo_id
    if not publication.has_own_card and has_own_card(repo_id):
        del files[CARD_FILE]
        logger.warning("README.md on the Hub has words of somebody's own and is kept: look whether it is still true")
    message = message or f"Publish {publication.facts.name}"
    return commit_files(repo_id, files, message=message, is_stale=is_of_other_publication, private=private)


def _loaded_tokenizer_files(folder: Path, facts: CardFacts) -> list[str]:
    """Load the model and its processor, as everybody will, and tell how the tokenizer's files are called.

    Heads alone have no processor.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if facts.whole and not (folder / "processor_config.json").is_file():
        raise ViMLError(
            f"{folder}: a model without its processor; save that beside it with ViMLProcessor.save_pretrained"
        )
    try:
        AutoModel.from_pretrained(folder, **options)
        processor = AutoProcessor.from_pretrained(folder, **options) if facts.whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ViMLError(
            f"{folder}: not published, since it does not load ({in_one_line(error)}); save model and processor again"
        ) from error
    return list(processor.tokenizer.vocab_files_names.values()) if processor else []


def _clean(folder: Path) -> None:
    """Take out of a folder's JSON files what is of this machine, and older pointers to code."""
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        # Where an encoder was loaded from, the model says itself: a path is nobody else's business.
        _rewrite(folder / name, lambda settings: _without(settings, (*POINTERS, "_name_or_path", "name_or_path")))
    for name in FACTS:
        _rewrite(folder / name, _without_paths)


def _rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content of a JSON file, where there is one."""
    if path.is_file():
        content = change(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """A JSON value without fields of these names, at any depth."""
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items() if key not in names}
    return [_without(one, names) for one in value] if isinstance(value, list) else value


def _without_paths(value: Any) -> Any:
    """A JSON value in which what is a path on this machine is only the name of its end."""
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if not isinstance(value, str):
        return value
    name, colon, place = value.rpartition(":")  # an encoder in a folder may have its family's name before
    is_path = os.path.isabs(place) or (os.sep in place and os.path.exists(place))
    return f"{name}{colon}{Path(place).name}" if is_path else value
