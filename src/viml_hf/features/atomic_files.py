"""Files that are written whole or not at all, and folders with one writer at a time."""

import logging
import os
import platform
import secrets
import time
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
PATIENCE = 5.0  # seconds for which a writer waits for another one without a word

logger = logging.getLogger(__name__)


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
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    file = os.fdopen(os.open(folder / LOCK_FILE, flags, 0o666), "r+b", buffering=0)
    if fcntl is not None:
        try:
            _take_lock(file, PATIENCE if wait else 0)
        except BlockingIOError:
            writer = _writer(file)
            if not wait:
                file.close()
                raise ViMLError(
                    f"another extraction is writing into {folder}: wait for it or stop it{writer}"
                ) from None
            logger.warning(
                "%s: another run is writing here: waiting for it; to go on at once, stop it%s", folder, writer
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return file  # a file system without locks
        with suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}\n".encode())
    return file


def _take_lock(file: IO[bytes], seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.01)


def _writer(file: IO[bytes]) -> str:
    """Which process has a lock, as it wrote into it."""
    file.seek(0)
    holder = file.read(200).decode("ascii", "replace").strip()
    return f" (process {holder})" if holder else ""


def unlock_folder(lock: IO[bytes]) -> None:
    """Let other writers in."""
    if fcntl is not None:
        # Closing alone would leave the lock to processes forked meanwhile.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
    lock.close()
