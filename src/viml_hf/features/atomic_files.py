"""Files that are written whole or not at all, and folders with one writer at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from viml_hf.errors import ViMLError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path`, whole and on the disk, when the block ends without an error."""
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


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


def lock_folder(folder: Path) -> IO[bytes]:
    """Let no second writer into a folder. The lock ends with `unlock_folder`, or with the process.

    Without `fcntl`, or on a file system without locks, there is none.

    Raises:
        ViMLError: Another writer has it.
    """
    file = (folder / LOCK_FILE).open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
