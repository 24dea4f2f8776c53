"""What the test Hub keeps: repos with their commits, branches and files."""

import hashlib
import re
import secrets
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

LARGE = ("bin", "safetensors", "npz", "pt", "parquet", "zip")
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


class Refusal(Exception):
    """An error to answer with: HTTP status, message, the Hub's name for it, headers, and more fields of the answer."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Any = (), **more: Any):
        super().__init__(message)
        self.status, self.message, self.more = status, message, more
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **dict(headers)}


@dataclass
class Commit:
    """One state of a repo; `large` are the paths of the files that came the LFS way."""

    message: str
    files: dict[str, bytes]
    large: set[str]
    sha: str = field(default_factory=lambda: secrets.token_hex(20))

    def entry(self, path: str) -> dict[str, Any]:
        """A file as listings show it."""
        data = self.files[path]
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
        if path in self.large:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n"
            entry["oid"] = git_hash(pointer.encode())
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer)}
        return entry


@dataclass
class Repo:
    """Commits, oldest first, and the sha of each branch. As on huggingface.co the first holds `.gitattributes`."""

    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add("main", Commit("initial commit", {".gitattributes": GITATTRIBUTES}, set()))

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the `main` branch."""
        return self.at("main").files

    def at(self, revision: str) -> Commit:
        """The commit that a branch or a sha names."""
        sha = self.branches.get(revision, revision)
        for commit in self.commits:
            if commit.sha == sha:
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add(self, branch: str, commit: Commit) -> None:
        """Put a commit at the end of a branch, or of a new one."""
        self.commits.append(commit)
        self.branches[branch] = commit.sha


def changed(parent: Commit, message: str, operations: list[Any], objects: Mapping[str, bytes]) -> Commit:
    """The commit after `operations`, lines of a commit request; `objects` are the large files by sha256."""
    commit = Commit(message, dict(parent.files), set(parent.large))
    for operation in operations:
        key, value = operation["key"], operation["value"]
        path = value["path"]
        if key == "file":
            commit.files[path] = b64decode(value["content"], validate=True)
            commit.large.discard(path)
        elif key == "lfsFile":
            check_object(objects, value["oid"], value["size"])
            commit.files[path] = objects[value["oid"]]
            commit.large.add(path)
        elif key == "deletedFile":
            if commit.files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            commit.large.discard(path)
        else:
            raise Refusal(501, f"The test Hub knows no operation {key!r}")
    return commit


def check_object(objects: Mapping[str, bytes], oid: str, size: int) -> None:
    """Refuse a large file that was not uploaded, or not whole."""
    if oid not in objects or len(objects[oid]) != size:
        raise Refusal(400, f"There is no large file {oid} of {size} bytes")


def card_metadata(content: str) -> dict[str, Any] | None:
    """The metadata at the top of a README.md; None where there is none."""
    match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    found = yaml.safe_load(match[1]) if match else None
    if found is not None and not isinstance(found, dict):
        raise ValueError("metadata must be a mapping")
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
