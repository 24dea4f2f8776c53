"""Uploads to the Hub: `publish` in one commit, and the files that `push_to_hub` adds to those of transformers."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo
from transformers import AutoModel, AutoProcessor

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.json_files import read_json
from viml_hf.hub.card_facts import TRAINING_FILE, CardFacts, OwnerFacts, check_repo_id, gather_facts
from viml_hf.hub.evaluation_results import EVAL_RESULTS_FOLDER, EVALUATION_FILE, benchmark_files
from viml_hf.hub.model_card import CARD_FILE, card_licence, is_own_card, render_card
from viml_hf.hub.model_code import CODE_FOLDER, add_code
from viml_hf.hub.saved_weights import SUBFOLDERS, WEIGHTS
from viml_hf.hub.sentence_transformers_files import sentence_transformers_files

logger = logging.getLogger(__name__)

FACTS = {TRAINING_FILE, EVALUATION_FILE}
# Only these files of a model's folder are published, and the weights and the tokenizer's files.
PUBLISHED = FACTS | {
    *("config.json", "processor_config.json", "preprocessor_config.json", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("model.safetensors.index.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
}
# And of subfolders, which hold sentence-transformers models, those of these kinds.
PUBLISHED_KINDS = {".json", ".safetensors", ".txt", ".model", ".jinja"}
_PICKLES = re.compile(r"pytorch_model.*\.bin(\.index\.json)?|training_args\.bin")
# Fields of configs that point to code or to a folder of this machine.
POINTERS = ("auto_map", "custom_pipelines", "_name_or_path", "name_or_path")
NOTHING = "nothing was published"
# The errors of huggingface_hub and of its HTTP library, which depends on its version.
FAILURES: tuple[type[Exception], ...] = (
    *(OSError, RuntimeError),
    *(c for c in HfHubHTTPError.__mro__ if issubclass(c, Exception) and c.__module__.startswith(("httpx", "requests"))),
)


@dataclass(frozen=True, eq=False)
class Publication:
    """What `publish` uploads."""

    repo_id: str  # OWNER/NAME
    files: dict[str, Path | bytes]  # by path in the repo: a file of the model's folder, or the content of one made here
    left_out: list[str]  # names of what else lies in the model's folder
    facts: CardFacts  # what the card is written from

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: one.stat().st_size if isinstance(one, Path) else len(one) for name, one in self.files.items()}

    @property
    def card(self) -> str:
        """The model card."""
        content = self.files[CARD_FILE]
        return content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")

    @property
    def non_commercial(self) -> list[str]:
        """See `CardFacts.non_commercial`."""
        return self.facts.non_commercial

    @property
    def licence(self) -> str | None:
        """The model's licence, as its card states it."""
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

    The model is loaded, so that a damaged one is not published. A `README.md` that somebody wrote into the model's
    folder becomes the card. Paths of this machine are removed from the notes on training and evaluation.

    Args:
        folder: A saved model, with its processor if it has one.
        repo_id: `OWNER/NAME`.
        with_code: Publish the code too, so that the model loads where this package is not installed.
        owner: What only the model's owner can say.
        local_files_only: Do not look for the licences of encoders on the Hub.

    Raises:
        ViMLError: The model does not load, its results are of other weights, or `repo_id` is not a name on the Hub.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    facts = gather_facts(folder, repo_id, owner=owner, with_code=with_code, local_files_only=local_files_only)
    published = PUBLISHED | _loaded_tokenizer_files(folder, facts)
    files: dict[str, Path | bytes] = {}
    with TemporaryDirectory() as staging:
        for path in filter(Path.is_file, folder.iterdir()):
            if WEIGHTS.fullmatch(path.name):
                files[path.name] = path
            elif path.name in published:
                shutil.copy(path, staging)
        for path in Path(staging).glob("*.json"):
            if path.name in FACTS or path.name.endswith("config.json"):
                kind = list if path.name == EVALUATION_FILE else dict
                content = _cleaned(read_json(folder / path.name, kind, "save the model again"), path.name in FACTS)
                path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if with_code:
            add_code(staging)
        inside = (path for sub in SUBFOLDERS for path in (folder / sub).rglob("*") if path.suffix in PUBLISHED_KINDS)
        files |= {path.relative_to(folder).as_posix(): path for path in inside}
        made = filter(Path.is_file, Path(staging).rglob("*"))
        files |= {path.relative_to(staging).as_posix(): path.read_bytes() for path in made}
    texts = benchmark_files(facts.results) | (sentence_transformers_files(facts.heads) if facts.whole else {})
    files |= {path: text.encode() for path, text in texts.items()}
    card = folder / CARD_FILE
    is_own = card.is_file() and is_own_card(card.read_text(encoding="utf-8"))
    files[CARD_FILE] = card if is_own else render_card(facts).encode()
    left_out = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in sorted(folder.iterdir())
        if path.name not in files and path.name not in (CODE_FOLDER, *SUBFOLDERS)
    ]
    return Publication(repo_id, dict(sorted(files.items())), left_out, facts)


def publish(
    publication: Publication, *, private: bool | None = None, accept_licences: bool = False, message: str | None = None
) -> CommitInfo:
    """Upload in one commit, which is returned. If anything fails, the repo is as it was, or not made.

    The commit also removes files of an earlier publication that this one lacks, such as code or a second shard. A card
    that somebody wrote on the Hub stays, unless somebody wrote one into the model's folder. The token is that of
    HF_TOKEN or of `hf auth login`.

    Args:
        publication: From `plan_publication`.
        private: Make a new repo private; a public one is then refused.
        accept_licences: Upload encoders whose licences forbid commercial use.
        message: Of the commit.

    Raises:
        ViMLError: A licence is not accepted, the repo is public and should not be, or the upload failed.
    """
    check_licences(publication.facts, accept_licences)
    api, repo_id, files = HfApi(), publication.repo_id, dict(publication.files)
    try:
        before = _repo_info(api, repo_id)
        if private and before is not None and not before.private:
            raise ViMLError(f"{repo_id}: it is there and public; make it private in its settings, or publish it so")
        keeps_card = before is not None and not publication.has_own_card and _own_card_on_hub(repo_id) is not None
        there = [] if before is None else [file.rfilename for file in before.siblings or ()]
    except FAILURES as error:
        raise _failure(repo_id, error, NOTHING) from error
    if keeps_card:
        del files[CARD_FILE]
        logger.warning("README.md on the Hub has words of somebody's own and is kept: check that it is still true")
    operations: list[Any] = [CommitOperationDelete(path) for path in there if path not in files and _is_published(path)]
    operations += [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        if before is None:
            api.create_repo(repo_id, private=private)
        return api.create_commit(repo_id, operations, commit_message=message or f"Publish {publication.facts.name}")
    except BaseException as error:
        left = _remove_if_made(api, repo_id, before)
        if isinstance(error, FAILURES):
            raise _failure(repo_id, error, left) from error
        raise


def check_licences(facts: CardFacts, accepted: bool) -> None:
    """Refuse to upload encoders that are not for commercial use, unless their licences are accepted."""
    if facts.non_commercial and not accepted:
        raise ViMLError(
            f"encoders inside are not for commercial use: {', '.join(facts.non_commercial)}; if you may publish them, "
            "say so with --accept-licences (accept_licences=True)"
        )


def write_hub_files(
    folder: str | Path, facts: CardFacts, tags: Iterable[str] = (), token: str | bool | None = None, pushed: bool = True
) -> None:
    """Write a saved model's card and files for sentence-transformers; if `pushed`, a user's card on the Hub is kept."""
    path = Path(folder) / CARD_FILE
    card = _own_card_on_hub(facts.repo_id, token) if pushed else None
    if card is None:
        card = render_card(facts, [*tags, *(ModelCard.load(path).data.tags or () if path.is_file() else ())])
    path.write_bytes(card.encode())
    if facts.whole:
        for name, text in sentence_transformers_files(facts.heads).items():
            (path.parent / name).write_text(text, encoding="utf-8")
    there = HfApi(token=token).list_repo_files(facts.repo_id) if pushed else []
    # transformers adds and replaces files, and removes none.
    of_another = [name for name in there if _is_result(name) or (name == "processor_config.json" and not facts.whole)]
    if of_another:
        text = "%s: %s will stay there, of the model that was there before; `viml publish` removes what is not replaced"
        logger.warning(text, facts.repo_id, ", ".join(of_another))


def _loaded_tokenizer_files(folder: Path, facts: CardFacts) -> set[str]:
    """Check that the model and its processor load; returns the names of its tokenizer's files, none for heads."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if facts.whole and not (folder / "processor_config.json").is_file():
        raise ViMLError(f"{folder}: a model without its processor; save it there with ViMLProcessor.save_pretrained")
    try:
        AutoModel.from_pretrained(folder, **options)
        processor = AutoProcessor.from_pretrained(folder, **options) if facts.whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ViMLError(f"{folder}: not published, it does not load ({in_one_line(error)}); save it again") from error
    return set(processor.tokenizer.vocab_files_names.values()) if processor else set()


def _cleaned(value: Any, without_paths: bool) -> Any:
    """A JSON value without `POINTERS`; with `without_paths`, each path of this machine is cut to its last part."""
    if isinstance(value, dict):
        return {key: _cleaned(one, without_paths) for key, one in value.items() if key not in POINTERS}
    if isinstance(value, list):
        return [_cleaned(one, without_paths) for one in value]
    if not (without_paths and isinstance(value, str)):
        return value
    name, colon, place = value.rpartition(":")  # an encoder in a folder may have its family's name before
    is_path = os.path.isabs(place) or (os.sep in place and os.path.exists(place))
    return f"{name}{colon}{Path(place).name}" if is_path else value


def _is_published(path: str) -> bool:
    """Whether a file on the Hub came from a publication, and so is removed when the next one lacks it."""
    weights, folders = WEIGHTS.fullmatch(path) or _PICKLES.fullmatch(path), (CODE_FOLDER, *SUBFOLDERS)
    return bool(weights) or path in PUBLISHED or path.partition("/")[0] in folders or _is_result(path)


def _is_result(path: str) -> bool:
    return path == EVALUATION_FILE or path.startswith(f"{EVAL_RESULTS_FOLDER}/")


def _own_card_on_hub(repo_id: str, token: str | bool | None = None) -> str | None:
    try:
        card = Path(HfApi(token=token).hf_hub_download(repo_id, CARD_FILE)).read_bytes().decode()
    except EntryNotFoundError:
        return None
    return card if is_own_card(card) else None


def _repo_info(api: HfApi, repo_id: str) -> ModelInfo | None:
    try:
        return api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None


def _remove_if_made(api: HfApi, repo_id: str, before: ModelInfo | None) -> str:
    """After a failed upload, remove the repo if it was made for it; returns in words what was published."""
    try:
        now = _repo_info(api, repo_id)  # an upload whose answer was lost may have succeeded
        if now is None or (before is not None and now.sha == before.sha):
            return NOTHING
        if before is None and all(file.rfilename == ".gitattributes" for file in now.siblings or ()):
            api.delete_repo(repo_id)
            return NOTHING
        return f"the answer was lost, but there is a new commit: look at {repo_id}"
    except Exception as error:
        made = f"; if it is empty, remove it with `hf repos delete {repo_id}`" if before is None else ""
        return f"whether anything was published is not known ({_reason(error)}): look at {repo_id}{made}"


def _failure(repo_id: str, error: Exception, left: str) -> ViMLError:
    """An error in one line: what was published, what went wrong and how to correct it."""
    answer: BaseException | None = error
    while answer is not None and not isinstance(answer, HfHubHTTPError):
        answer = answer.__cause__  # the upload of large files wraps the Hub's answer
    status = None if answer is None else answer.response.status_code
    fix = "try again when the Hub can be reached"
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        fix = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there"
    elif (status is not None and status < 500) or (isinstance(error, OSError) and error.filename is not None):
        fix = "correct what it names"
    reason = f"{repo_id}: {left}: {_reason(error if answer is None else answer)}"
    return ViMLError(f"{reason}; {fix}" if left == NOTHING else reason)


def _reason(error: Any) -> str:
    """An error's message in one line of at most 300 characters, without the token."""
    reason = re.sub(r" For more information check: \S+", "", in_one_line(error))
    return reason.replace(get_token() or "\n", "…")[:300].rstrip(".")
