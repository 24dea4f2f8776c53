"""`push_to_hub` of a model, of a processor, and of a Trainer's output folder."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo

from viml_hf.errors import ViMLError
from viml_hf.hub.card_facts import CardFacts, check_repo_id, facts_of_model
from viml_hf.hub.model_card import render_card
from viml_hf.hub.repo_files import CARD_FILE, is_of_other_weights, is_published
from viml_hf.hub.sentence_transformers_files import sentence_transformers_files
from viml_hf.hub.uploading import commit_files, has_own_card, saved_model_type
from viml_hf.modeling.configuration_viml import ViMLForMusicRetrievalConfig


def push_part(
    part: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    tags: list[str] | None = None,
    max_shard_size: int | str = "50GB",
    token: str | bool | None = None,
    accept_licences: bool = False,
    **options: Any,
) -> CommitInfo:
    """`push_to_hub` of a model or a processor: see `viml_hf.modeling.hub_upload.HubUploadMixin`.

    Args:
        part: The model, with a card of its own facts, or the processor, without one.
        repo_id: `OWNER/NAME`.
        commit_message: By default it names the part's class.
        tags: More tags for the card.
        max_shard_size: Of the weights.
        token: As for `commit_files`.
        accept_licences: As for `viml_hf.hub.publishing.publish`.
        options: As for `commit_files`.

    Raises:
        ViMLError: A licence is not accepted, or the upload failed.
    """
    check_repo_id(repo_id)
    message = commit_message or f"Upload {type(part).__name__}"
    with TemporaryDirectory() as folder:
        if not hasattr(part, "config"):
            part.save_pretrained(folder)
            return commit_files(repo_id, _files(folder), message=message, token=token, **options)
        facts = facts_of_model(part, repo_id, local_files_only=False)
        refuse_unaccepted(facts, accept_licences)
        part.save_pretrained(folder, max_shard_size=max_shard_size)
        card = render_card(facts, tags=tags or ())
        return push_model_files(part, repo_id, _files(folder), card, message=message, token=token, **options)


def push_model_files(
    model: Any,
    repo_id: str,
    files: dict[str, Path | bytes],
    card: str,
    *,
    token: str | bool | None = None,
    **options: Any,
) -> CommitInfo:
    """Commit a model's files in the place of those of other weights, with a card unless somebody wrote one.

    Args:
        model: The model.
        repo_id: `OWNER/NAME`.
        files: What it was saved as.
        card: The card's text.
        token: As for `commit_files`.
        options: As for `commit_files`.

    Raises:
        ViMLError: The repo holds a model of another kind, or the upload failed.
    """
    held = saved_model_type(repo_id, token)
    if held not in (None, model.config.model_type):
        raise ViMLError(
            f"{repo_id}: it holds a {held}, and to push a {model.config.model_type} would leave half of each; push to "
            "another repo, or replace all of it with `viml publish`"
        )
    if model.config.model_type == ViMLForMusicRetrievalConfig.model_type:
        files = {**files, **{name: text.encode() for name, text in sentence_transformers_files(model.config).items()}}
    if not has_own_card(repo_id, token):
        files = {**files, CARD_FILE: card.encode()}
    return commit_files(repo_id, files, is_stale=is_of_other_weights, token=token, **options)


def published_files(folder: str | Path, tokenizer_files: Iterable[str] = ()) -> dict[str, Path | bytes]:
    """The files of a model's folder that are for others, by name."""
    names = set(tokenizer_files)
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return {path.name: path for path in paths if is_published(path.name, names)}


def non_commercial_encoders(facts: CardFacts) -> list[str]:
    """The encoders inside a model that may not be used commercially, with their licences."""
    found = facts.encoders.items() if facts.whole else ()
    return [f"{modality} ({e.name or e.model_type}: {e.licence})" for modality, e in found if e.non_commercial]


def refuse_unaccepted(facts: CardFacts, accepted: bool) -> None:
    """Refuse to publish encoders that are not for commercial use, unless that is known.

    Raises:
        ViMLError: It is not.
    """
    if (found := non_commercial_encoders(facts)) and not accepted:
        raise ViMLError(
            f"encoders inside are not for commercial use: {', '.join(found)}; if you may publish them, say so with "
            "--accept-licences (accept_licences=True)"
        )


def _files(folder: str | Path) -> dict[str, Path | bytes]:
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}
