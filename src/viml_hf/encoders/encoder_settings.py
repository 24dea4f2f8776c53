"""Which base encoders, and how they run: small enough to be sent to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.modeling.encoder_names import parse_encoder_name


class EncoderLoader(Protocol):
    """What can be sent to a worker to load the encoders there."""

    def load(self, *, threads: int | None = None, device: str = "cpu") -> MediaEncoder:
        """Load the encoders."""


@dataclass(frozen=True)
class EncoderSettings:
    """What `MediaEncoder.from_names` needs.

    Args:
        video: Video encoder, `NAME[:HUB_ID[@REVISION]]`, a Hub id or a folder.
        text: Text encoder.
        audio: Audio encoder.
        dtypes: Dtype per modality, one for all, or `"auto"`.
        fast: Decode only the frames that others refer to.
        load_options: Passed to each `from_pretrained` (`local_files_only`, `cache_dir`, `token`, …).
        describe: Look up licences and revisions, and warn of the former.

    Raises:
        ValueError: A name is none.

    Example:
        >>> EncoderSettings(video="clip").names["video"]
        'clip'
    """

    video: str = "descriptors"
    text: str = "descriptors"
    audio: str = "descriptors"
    dtypes: Mapping[str, str] | str = "auto"
    fast: bool = False
    load_options: dict[str, Any] = field(default_factory=dict)
    describe: bool = True

    def __post_init__(self) -> None:
        """Refuse a wrong name before anything is done."""
        for name in self.names.values():
            parse_encoder_name(name)

    @property
    def names(self) -> dict[str, str]:
        """Encoder name per modality."""
        return {"video": self.video, "text": self.text, "audio": self.audio}

    def load(self, *, threads: int | None = None, device: str = "cpu") -> MediaEncoder:
        """Load the encoders."""
        dtypes = self.dtypes if isinstance(self.dtypes, str) else dict(self.dtypes)
        return MediaEncoder.from_names(
            **self.names,
            dtypes=dtypes,
            fast=self.fast,
            threads=threads,
            device=device,
            describe=self.describe,
            **self.load_options,
        )

    def resolved(self, encoder: MediaEncoder) -> "EncoderSettings":
        """The same with the dtypes and revisions of a loaded encoder, so that all workers have these, whenever."""
        video, text, audio = (pinned_name(name, encoder.info[m].revision) for m, name in self.names.items())
        return replace(self, video=video, text=text, audio=audio, dtypes=encoder.dtypes, describe=False)


def pinned_name(name: str, revision: str | None) -> str:
    """The name of the same encoder at one commit of the Hub."""
    parsed = parse_encoder_name(name)
    return name if revision is None else f"{parsed.name}:{parsed.hub_id}@{revision}"
