"""One commit to a repo on the Hub: whole, or nothing is left of the attempt."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.hub.card_facts import facts_of_model
from viml_hf.hub.model_card import render_card

CARD_FILE = "README.md"
# What is in the card that transformers writes where there is none: a list of things that are not known.
TEMPLATE = "[More Information Needed]"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no `OWNER/NAME`.

    Raises:
        ViMLError: It is not.

    Example:
        >>> check_repo_id("me/my-model")
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ViMLError(f"{repo_id!r}: not a name on the Hub ({in_one_line(error)}); give OWNER/NAME") from error
    if "/" not in repo_id:
        raise ViMLError(f"{repo_id!r}: give OWNER/NAME, the owner being your user name or an organisation")


def commit_files(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    stale: Iterable[str] = (),
    private: bool | None = None,
    token: str | bool | None = None,
    **options: Any,
) -> CommitInfo:
    """Put files into a model repo in one commit; the repo is made if there is none.

    Args:
        repo_id: `OWNER/NAME`.
        files: What to upload, by its path in the repo.
        message: Of the commit.
        stale: Beginnings of paths: what the repo holds of these and is not in `files` is removed in the same commit.
        private: Make the repo private, if it is made; by default as the Hub does.
        token: By default that of HF_TOKEN or of `hf auth login`.
        options: Passed to `HfApi.create_commit` (`revision`, `create_pr`, `commit_description`).

    Raises:
        ViMLError: The upload failed. The repo is as it was: if it was made here, it is removed again.
    """
    check_repo_id(repo_id)
    api = HfApi(token=token)
    made = False
    with _failure_in_one_line(repo_id, token):
        if not api.repo_exists(repo_id):
            api.create_repo(repo_id, private=private)
            made = True
    try:
        with _failure_in_one_line(repo_id, token):
            there = [] if made else api.list_repo_files(repo_id, revision=options.get("revision"))
            old = [path for path in there if path not in files and path.startswith(tuple(stale))]
            operations: list[Any] = [CommitOperationDelete(path) for path in old]
            operations += [CommitOperationAdd(path, content) for path, content in files.items()]
            return api.create_commit(repo_id, operations, commit_message=message, **options)
    except BaseException as error:
        if made:
            _remove(api, repo_id, error)
        raise


def push_part(
    part: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    tags: list[str] | None = None,
    max_shard_size: int | str = "50GB",
    token: str | bool | None = None,
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
        options: As for `commit_files`.

    Raises:
        ViMLError: The upload failed.
    """
    check_repo_id(repo_id)
    with TemporaryDirectory() as folder:
        part.save_pretrained(folder, max_shard_size=max_shard_size)
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
        if hasattr(part, "config") and not _has_card(repo_id, token):
            facts = facts_of_model(part, repo_id, local_files_only=False)
            files[CARD_FILE] = render_card(facts, tags=tags or ()).encode()
        message = commit_message or f"Upload {type(part).__name__}"
        return commit_files(repo_id, files, message=message, token=token, **options)


def _has_card(repo_id: str, token: str | bool | None) -> bool:
    """Whether a repo has a card that somebody wrote."""
    api = HfApi(token=token)
    with _failure_in_one_line(repo_id, token):
        if not (api.repo_exists(repo_id) and api.file_exists(repo_id, CARD_FILE)):
            return False
        with TemporaryDirectory() as folder:
            card = api.hf_hub_download(repo_id, CARD_FILE, local_dir=folder)
            return TEMPLATE not in Path(card).read_text(encoding="utf-8")


def _remove(api: HfApi, repo_id: str, error: BaseException) -> None:
    """Remove the empty repo that was made for a commit that failed."""
    try:
        api.delete_repo(repo_id)
    except Exception as second:
        raise ViMLError(
            f"{in_one_line(error) if isinstance(error, Exception) else 'stopped'}. The repo {repo_id} was made and is "
            f"empty; it could not be removed ({_reason(second)}): remove it with `hf repos delete {repo_id}`"
        ) from error


@contextmanager
def _failure_in_one_line(repo_id: str, token: str | bool | None) -> Iterator[None]:
    """Say in one line what went wrong with the Hub and what to do, and never a token."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ViMLError(f"{repo_id}: no token for the Hub; {LOGIN}") from error
    except Exception as error:
        answered = _answer(error)
        if answered is not None:
            status = answered.response.status_code
            fix = {401: LOGIN, 403: f"the token may not write there; {LOGIN}"}.get(status, "try again")
            reason = f"the Hub answered {status} ({_reason(answered, token)})"
        # The library behind huggingface_hub has had several names.
        elif isinstance(error, OSError | RuntimeError) or type(error).__module__.startswith("httpx"):
            reason, fix = f"the Hub was not reached ({_reason(error, token)})", "try again when the network is back"
        else:
            raise
        raise ViMLError(f"{repo_id}: {reason}: nothing was published; {fix}") from error


def _answer(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's answer behind an error, if it gave one: the upload of large files wraps it."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _reason(error: Exception, token: str | bool | None = None) -> str:
    """The message of an error, without the address of the Hub's many lines and without a token."""
    reason = in_one_line(error)
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            reason = reason.replace(secret, "…")
    return reason[:300]
