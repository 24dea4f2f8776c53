"""A Hub for tests: as much of huggingface.co's API as huggingface_hub and transformers use for models.

It lives in memory, on 127.0.0.1. Large files are kept by a second server, on a port of its own, as huggingface.co keeps
them on another host: there no token may arrive.
"""

import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import yaml

from tests.hub.http_server import Answer, Call, Server, file_answer, json_answer
from tests.hub.repos import LARGE, Refusal, Repo, card_metadata, changed, check_object, git_hash, sha256

USER = "tester"
TOKEN = "hf_testtoken_never_print_me"
READ_TOKEN = "hf_readtoken_never_print_me"
DATE = "2026-01-01T00:00:00.000Z"
DROP = "drop"  # as a fault's status: the connection ends before anything is done
CUT = "cut"  # it is done, but the connection ends halfway through the answer

_ID = "(?P<id>[^/]+/[^/]+|[^/]+)"
_AT = "(?P<revision>[^/]+)"
# The first that fits; each names the method of Hub that answers.
ROUTES = [
    ("POST", "/api/validate-yaml", "_validate_yaml"),
    ("POST", "/api/repos/create", "_create"),
    ("DELETE", "/api/repos/delete", "_delete"),
    ("POST", f"/api/models/{_ID}/preupload/{_AT}", "_preupload"),
    ("POST", f"/api/models/{_ID}/commit/{_AT}", "_commit"),
    ("POST", f"/api/models/{_ID}/branch/(?P<branch>[^/]+)", "_branch"),
    ("GET", f"/api/models/{_ID}/tree/{_AT}", "_tree"),
    ("GET", f"/api/models/{_ID}(?:/revision/{_AT})?", "_info"),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", "_batch"),
    ("POST", rf"/{_ID}\.git/info/lfs/verify", "_verify"),
    ("GET", f"/{_ID}/resolve/{_AT}/(?P<path>.+)", "_resolve"),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", "_store"),
    ("GET", "/storage/(?P<oid>[0-9a-f]{64})", "_stored"),
]


class Request(NamedTuple):
    """What was asked; `token` says whether a token was sent along, not which."""

    method: str
    path: str
    token: bool


@dataclass
class Fault:
    method: str
    path: str
    status: int | str
    times: float


class Hub:
    """A running Hub: `url`, `repos` by id, the `requests` so far, and `objects`, the large files by sha256.

    The one user is `tester`, who may write to `tester/…` with the token `TOKEN` and read everything of their own with
    `READ_TOKEN`. Any other token is refused, as is a token that is sent to where the large files are.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.objects: dict[str, bytes] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = [Server(self.answer), Server(self.answer)]
        self.url, self.storage_url = (server.url for server in self._servers)

    def close(self) -> None:
        for server in self._servers:
            server.stop()

    def fail(self, method: str, path: str, status: int | str = 500, times: float = float("inf")) -> None:
        """Answer requests whose path contains the pattern `path` with an error, or with `DROP` or `CUT`; see there.

        After 408, 429, 500, 502–504 and lost connections huggingface_hub repeats preupload, batch, storage, verify and
        tree up to five times. In a process of its own that takes 23 s: give another status, such as 403, there.
        """
        self._faults.append(Fault(method, path, status, times))

    def mend(self) -> None:
        """End all faults."""
        self._faults.clear()

    def environment(self, folder: Path, *, token: str | None = TOKEN, offline: bool = False) -> dict[str, str]:
        """Environment variables for a process that knows only this Hub; the same folder gives the same cache."""
        kept = {name: value for name, value in os.environ.items() if not concerns_the_hub(name)}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(folder / "hf_home")}
        kept |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if token is not None:
            kept["HF_TOKEN"] = token
        if offline:
            kept["HF_HUB_OFFLINE"] = "1"
        return kept

    def answer(self, call: Call) -> Answer | None:
        """The answer to a request, or None to drop the connection."""
        authorization = call.headers.get("Authorization")
        with self._lock:
            self.requests.append(Request(call.method, call.path, authorization is not None))
            status = self._fault(call)
            if status == DROP:
                return None
            try:
                if isinstance(status, int):
                    raise Refusal(status, "A fault that a test asked for")
                answer = self._route(call, authorization)
            except Refusal as refusal:
                answer = json_answer({"error": refusal.message, **refusal.more}, refusal.status)
                answer.headers |= refusal.headers
            except Exception as error:  # a request that is not understood; 501 is not tried again
                answer = json_answer({"error": f"The test Hub failed: {error!r}"}, 501)
            answer.cut = status == CUT
            return answer

    def _fault(self, call: Call) -> int | str | None:
        for fault in self._faults:
            if fault.times > 0 and fault.method == call.method and re.search(fault.path, call.path):
                fault.times -= 1
                return fault.status
        return None

    def _route(self, call: Call, authorization: str | None) -> Answer:
        if authorization is not None:
            roles = {f"Bearer {TOKEN}": "write", f"Bearer {READ_TOKEN}": "read"}
            if call.path.startswith("/storage/"):
                raise Refusal(400, "Only one auth mechanism allowed")
            if authorization not in roles:
                raise Refusal(401, "Invalid credentials in Authorization header")
            call.role = roles[authorization]
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, call.path)
            if match and method == call.method.replace("HEAD", "GET"):
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                answer = getattr(self, name)(call, **found)
                return answer if isinstance(answer, Answer) else json_answer(answer)
        raise Refusal(501, f"The test Hub has no {call.method} {call.path}")

    # Repos

    def _readable(self, call: Call, id: str) -> Repo:
        repo = self.repos.get(id)
        if repo is None or (repo.private and (call.role is None or not _own(id))):
            # To strangers the Hub does not say whether a private repo is there.
            raise Refusal(404 if call.role else 401, "Repository not found", "RepoNotFound")
        return repo

    def _writable(self, call: Call, id: str) -> Repo:
        repo = self._readable(call, id)
        _check_may_write(call, id)
        return repo

    def _validate_yaml(self, call: Call) -> Any:
        try:
            if isinstance(card_metadata(call.json()["content"]), dict):
                return {"errors": [], "warnings": []}
            errors, warnings = [], [{"message": "empty or missing yaml metadata in repo card"}]
        except (yaml.YAMLError, ValueError) as error:
            errors, warnings = [{"message": str(error)}], []
        return json_answer({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def _create(self, call: Call) -> Any:
        body = call.json()
        id = f"{body.get('organization') or USER}/{body['name']}"
        _check_may_write(call, id)
        url = f"{self.url}/{id}"
        if body.get("type", "model") != "model":
            raise Refusal(501, "The test Hub holds models only")
        if id in self.repos:
            raise Refusal(409, "You already created this model repo", url=url)
        self.repos[id] = Repo(private=body.get("visibility") == "private")
        return {"url": url, "name": id}

    def _delete(self, call: Call) -> Any:
        body = call.json()
        id = f"{body.get('organization') or USER}/{body['name']}"
        self._writable(call, id)
        del self.repos[id]
        return {}

    def _branch(self, call: Call, id: str, branch: str) -> Any:
        repo = self._writable(call, id)
        if branch in repo.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.at(call.json().get("startingPoint", "main")).sha
        return {}

    # Uploads: preupload says which files are large; those go to storage first; the commit names them.

    def _preupload(self, call: Call, id: str, revision: str) -> Any:
        commit = self._writable(call, id).at(revision)

        def described(path: str, size: int) -> dict[str, Any]:
            large = path.rsplit(".", 1)[-1] in LARGE or size > 10_000_000
            known = commit.files.get(path)
            oid = None if known is None else sha256(known) if path in commit.large else git_hash(known)
            return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

        return {"files": [described(file["path"], file["size"]) for file in call.json()["files"]]}

    def _batch(self, call: Call, id: str) -> Any:
        self._writable(call, id)
        objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in call.json()["objects"]]
        for known in objects:
            if known["oid"] not in self.objects:
                upload = {"href": f"{self.storage_url}/storage/{known['oid']}"}
                known["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/{id}.git/info/lfs/verify"}}
        return {"transfer": "basic", "objects": objects}

    def _store(self, call: Call, oid: str) -> Any:
        if sha256(call.body) != oid:
            raise Refusal(400, "The content does not have the sha256 that was announced")
        self.objects[oid] = call.body
        return {}

    def _verify(self, call: Call, id: str) -> Any:
        self._writable(call, id)
        check_object(self.objects, **call.json())
        return {}

    def _commit(self, call: Call, id: str, revision: str) -> Any:
        repo = self._writable(call, id)
        parent = repo.at(revision)
        header, *operations = [json.loads(line) for line in call.body.split(b"\n") if line]
        head = header["value"]
        if header["key"] != "header" or not head["summary"] or revision not in repo.branches:
            raise Refusal(400, "A commit needs a header with a summary, and a branch")
        commit = changed(parent, head["summary"], operations, self.objects)
        repo.add(revision, commit)
        return {"commitOid": commit.sha, "commitUrl": f"{self.url}/{id}/commit/{commit.sha}"}

    # Looking and downloading

    def _info(self, call: Call, id: str, revision: str = "main") -> Any:
        repo = self._readable(call, id)
        commit = repo.at(revision)
        card = card_metadata(commit.files.get("README.md", b"").decode()) or {}
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        known = {"id": id, "author": id.split("/")[0], "sha": commit.sha, "private": repo.private, "gated": False}
        about = {name: card.get(name) for name in ("library_name", "pipeline_tag")}
        known |= {"disabled": False, "createdAt": DATE, "lastModified": DATE, "tags": card.get("tags") or []}
        return {**known, **about, "cardData": card, "siblings": siblings}

    def _tree(self, call: Call, id: str, revision: str) -> Any:
        if call.query.get("recursive") != "true":
            raise Refusal(501, "The test Hub lists all files of a repo only")
        commit = self._readable(call, id).at(revision)
        return [commit.entry(name) for name in sorted(commit.files)]

    def _resolve(self, call: Call, id: str, revision: str, path: str) -> Answer:
        commit = self._readable(call, id).at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        data = commit.files[path]
        if path not in commit.large:
            return file_answer(call, data, headers | {"ETag": f'"{git_hash(data)}"'})
        oid = sha256(data)
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        return Answer(302, headers | {"Location": f"{self.storage_url}/storage/{oid}"})

    def _stored(self, call: Call, oid: str) -> Answer:
        if oid not in self.objects:
            raise Refusal(404, "No such object")
        return file_answer(call, self.objects[oid], {"ETag": f'"{oid}"'})


def concerns_the_hub(variable: str) -> bool:
    """Whether an environment variable changes which Hub is asked, how, or where the cache is."""
    return variable.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) or variable.lower().endswith("_proxy")


def _own(id: str) -> bool:
    return id.startswith(f"{USER}/")


def _check_may_write(call: Call, id: str) -> None:
    if call.role is None:
        raise Refusal(401, "Invalid username or password.")
    if call.role != "write" or not _own(id):
        raise Refusal(403, f"You don't have the rights to write to {id}")
