"""One commit to a repo on the Hub: whole, or nothing is left of the attempt, and one line says so."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.hub.card_facts import check_repo_id
from viml_hf.hub.repo_files import CARD_FILE, is_own_card

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
NOTHING = "nothing was published"
# Of a repo that was just made.
EMPTY = {".gitattributes"}
# What huggingface_hub raises, and the library behind it, which has had several names.
FAILURES: tuple[type[Exception], ...] = (
    *(OSError, RuntimeError),
    *(c for c in HfHubHTTPError.__mro__ if issubclass(c, Exception) and c.__module__.startswith(("httpx", "requests"))),
)


def commit_files(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    is_stale: Callable[[str], bool] = lambda path: False,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    **options: Any,
) -> CommitInfo:
    """Put files into a model repo in one commit; the repo is made if there is none.

    Args:
        repo_id: `OWNER/NAME`.
        files: What to upload, by its path in the repo.
        message: Of the commit.
        is_stale: Whether a file that the repo holds, and that is not in `files`, is removed in the same commit.
        private: Make the repo private, if it is made; by default as the Hub does.
        token: By default that of HF_TOKEN or of `hf auth login`.
        revision: Branch, made if there is none.
        options: Passed to `HfApi.create_commit` (`create_pr`, `commit_description`).

    Raises:
        ViMLError: The repo is there and not private though it should be, or the upload failed. Then the repo is as it
            was, and one that was made for this is removed again; where that is not sure, the message says so.
    """
    check_repo_id(repo_id)
    api = HfApi(token=token)
    try:
        before = _head(api, repo_id, revision)
        if private and before is not None and not api.model_info(repo_id).private:
            raise ViMLError(f"{repo_id}: it is there and public; make it private in its settings, or publish it so")
    except FAILURES as error:
        raise _failure(repo_id, error, NOTHING, token) from error
    try:
        if before is None:
            api.create_repo(repo_id, private=private)
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = [] if before is None else api.list_repo_files(repo_id, revision=revision)
        operations: list[Any] = [CommitOperationDelete(path) for path in there if path not in files and is_stale(path)]
        operations += [CommitOperationAdd(path, content) for path, content in files.items()]
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision, **options)
    except BaseException as error:
        left = _undo(api, repo_id, revision, before)
        if isinstance(error, FAILURES):
            raise _failure(repo_id, error, left, token) from error
        raise


def has_own_card(repo_id: str, token: str | bool | None = None) -> bool:
    """Whether a repo has a card that somebody wrote.

    Raises:
        ViMLError: The Hub cannot be asked.
    """
    card = _read(repo_id, CARD_FILE, token)
    return card is not None and is_own_card(card)


def saved_model_type(repo_id: str, token: str | bool | None = None) -> str | None:
    """The model type in the config that a repo holds; `None` where it holds none.

    Raises:
        ViMLError: The Hub cannot be asked.
    """
    try:
        return json.loads(_read(repo_id, "config.json", token) or "{}").get("model_type")
    except (ValueError, AttributeError):  # no config that anybody could load
        return None


def _read(repo_id: str, name: str, token: str | bool | None) -> str | None:
    """The text of a file of a repo; `None` where there is none."""
    api = HfApi(token=token)
    try:
        if not (api.repo_exists(repo_id) and api.file_exists(repo_id, name)):
            return None
        with TemporaryDirectory() as folder:
            return Path(api.hf_hub_download(repo_id, name, local_dir=folder)).read_text(encoding="utf-8")
    except FAILURES as error:
        raise _failure(repo_id, error, NOTHING, token) from error


def _head(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """The last commit of a branch, or of `main` where there is no such branch; `None` where there is no repo."""
    try:
        return api.model_info(repo_id, revision=revision).sha
    except RevisionNotFoundError:
        return api.model_info(repo_id).sha
    except RepositoryNotFoundError:
        return None


def _undo(api: HfApi, repo_id: str, revision: str | None, before: str | None) -> str:
    """Remove the repo if it was made for a commit that failed, and say what the attempt has left.

    An answer that is lost may have been a good one, so the Hub is asked.
    """
    lost = f"the answer was lost, but there is a new commit: look at {repo_id}"
    try:
        if before is not None:
            return NOTHING if _head(api, repo_id, revision) == before else lost
        if not api.repo_exists(repo_id):
            return NOTHING
        if not set(api.list_repo_files(repo_id)) <= EMPTY:
            return lost
        api.delete_repo(repo_id)
        return NOTHING
    except Exception as error:
        if before is None:
            return f"the empty repo may have been left ({_reason(error)}): remove it with `hf repos delete {repo_id}`"
        return f"whether anything was published is unknown ({_reason(error)}): look at {repo_id}"


def _failure(repo_id: str, error: Exception, left: str, token: str | bool | None) -> ViMLError:
    """One line on what went wrong, what it has left and what to do; never a token."""
    answered = _answer(error)
    reason, fix = f"the Hub was not reached ({_reason(error, token)})", "try again when the network is back"
    if isinstance(error, LocalTokenNotFoundError):
        reason, fix = "no token for the Hub", LOGIN
    elif isinstance(error, OfflineModeIsEnabled):
        reason, fix = "HF_HUB_OFFLINE is set", "unset it"
    elif answered is not None:
        status = answered.response.status_code
        reason = f"the Hub answered {status} ({_reason(answered, token)})"
        fix = {401: LOGIN, 403: f"the token may not write there; {LOGIN}"}.get(status, "mend what it names")
        fix = fix if status < 500 else "try again later"
    elif isinstance(error, OSError) and error.filename is not None:
        reason, fix = f"{error.filename} cannot be read ({error.strerror})", "make it readable"
    # Where something was left, that is to be looked at first, as it says.
    return ViMLError(f"{repo_id}: {reason}: {left}" + (f"; {fix}" if left == NOTHING else ""))


def _answer(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's answer behind an error, if it gave one: the upload of large files wraps it."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _reason(error: Exception, token: str | bool | None = None) -> str:
    """The message of an error in one line of bearable length, without a token."""
    reason = re.sub(r" For more information check: \S+", "", in_one_line(error))
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            reason = reason.replace(secret, "…")
    return reason[:300]
