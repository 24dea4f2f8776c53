"""The errors that a user can cause. The command line prints one as a single line and exits with status 2."""


def in_one_line(error: BaseException) -> str:
    """The message of an error in one line; the name of its class where it has none.

    Example:
        >>> in_one_line(OSError("no such file:\\n  song.wav"))
        'no such file: song.wav'
    """
    return shown(" ".join(str(error).split())) or type(error).__name__


def shown(text: str) -> str:
    r"""A text for a terminal: what is not printable, such as an escape sequence in a file's name, is spelled out.

    Example:
        >>> print(shown("new\nline \x1b[31m"))
        new\nline \x1b[31m
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ViMLError(ValueError):
    """Bad input from the user. The message names the value, what is accepted, and the fix."""


class MediaDecodeError(ViMLError):
    """A media file that yields no usable pictures or sound.

    Args:
        path: The file's path, or `<bytes>` for in-memory media.
        stage: Where it failed: `open`, `video` or `audio`.
        cause: What is wrong and what to do about it, in one line.
    """

    def __init__(self, path: str, stage: str, cause: str):
        super().__init__(f"{path}: {cause} [stage: {stage}]")
        self.path = path
        self.stage = stage
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.path, self.stage, self.cause)


def unreadable(path: str, error: OSError) -> MediaDecodeError:
    """The error of a media file that cannot be opened."""
    cause = f"cannot be read ({error.strerror}); give the path of a video or music file on this machine"
    return MediaDecodeError(path, "open", cause)
