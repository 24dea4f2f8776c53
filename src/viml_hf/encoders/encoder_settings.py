"""Which base encoders are loaded, and how they run: small enough to be sent to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.modeling.encoder_names import parse_encoder_name, pinned_name


class EncoderLoader(Protocol):
    """What can be sent to a worker to load the encoders there."""

    def load(self, *, threads: int | None = None, device: str = "cpu") -> MediaEncoder:
        """Load the encoders."""


@dataclass(frozen=True)
class EncoderSettings:
    """The arguments of [`MediaEncoder.from_names`], with its kwargs as `load_options`."""

    video: str = "descriptors"
    text: str = "descriptors"
    audio: str = "descriptors"
    dtypes: Mapping[str, str] | str = "auto"
    fast: bool = False
    load_options: dict[str, Any] = field(default_factory=dict)
    describe: bool = True

    def __post_init__(self) -> None:
        """Refuse an invalid name before anything is done."""
        for name in self.names.values():
            parse_encoder_name(name)

    @property
    def names(self) -> dict[str, str]:
        """Encoder name per modality."""
        return {"video": self.video, "text": self.text, "audio": self.audio}

    def load(self, *, threads: int | None = None, device: str = "cpu") -> MediaEncoder:
        """Load the encoders."""
        options = {"dtypes": self.dtypes, "fast": self.fast, "describe": self.describe, **self.load_options}
        return MediaEncoder.from_names(self.video, self.text, self.audio, threads=threads, device=device, **options)

    def resolved(self, encoder: MediaEncoder) -> "EncoderSettings":
        """The settings with the dtypes and revisions of a loaded encoder, so that every worker loads just that one."""
        names: dict[str, Any] = {
            modality: pinned_name(name, encoder.info[modality].revision) for modality, name in self.names.items()
        }
        return replace(self, **names, dtypes=encoder.dtypes, describe=False)
