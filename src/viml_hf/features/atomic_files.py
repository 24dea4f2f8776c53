"""Files that are written whole or not at all, and folders with one writer at a time."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from viml_hf.errors import ViMLError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path`, whole and on the disk, when the block ends without an error.

    The temporary file is made here, under a name that nobody can foresee: what lies in the folder, such as a link to
    another file, is never written through.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that their owner alone can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; where it cannot be written, that is an `OSError`."""
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error


def append_line(path: Path, line: str) -> None:
    """Append a line, which is on the disk when this returns. One that cannot be written whole is taken back."""
    with path.open("ab") as file:
        size = file.tell()
        try:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            # Half a line, where the disk is full, would spoil the next one.
            os.truncate(path, size)
            raise


def lock_folder(folder: Path, *, wait: bool = False) -> IO[bytes]:
    """Let no second writer into a folder, or wait for the first. The lock ends with `unlock_folder` or the process.

    Without `fcntl`, or on a file system without locks, there is none.
    """
    # A link planted under the lock's name would make a file elsewhere.
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    file = os.fdopen(os.open(folder / LOCK_FILE, flags, 0o666), "ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise ViMLError(f"another extraction is writing into {folder}: wait for it or stop it") from None
        except OSError:
            pass  # a file system without locks
    return file


def unlock_folder(lock: IO[bytes]) -> None:
    """Let other writers in."""
    if fcntl is not None:
        # Closing alone would leave the lock to processes forked meanwhile.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
    lock.close()
