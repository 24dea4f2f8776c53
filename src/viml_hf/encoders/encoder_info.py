"""What a base encoder is: width, rate, window, dtype, and on what terms its weights may be used."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import PreTrainedModel

from viml_hf.modeling.encoder_names import cached_revision, parse_encoder_name
from viml_hf.modeling.frozen_encoders import encoder_width, weights_dtype
from viml_hf.processing.encoder_inputs import window_samples
from viml_hf.processing.processing_viml import ViMLProcessor
from viml_hf.processing.segments import FRAMES_PER_SECOND

logger = logging.getLogger(__name__)

OWN_LICENCE = "apache-2.0"
# Of checkpoints whose card names none; as their authors state it elsewhere.
KNOWN_LICENCES = {"openai/clip-vit-base-patch32": "mit", "openai/clip-vit-base-patch16": "mit"}
# Words of the names of licences that forbid commercial use. The Academic Free License does not.
_NON_COMMERCIAL = re.compile(r"\bnon-?commercial|\b(?:nc\d*|research|academic(?!-free)|amlr)\b")


@dataclass(frozen=True)
class EncoderInfo:
    """What is known of the base encoder of one modality.

    Args:
        name: As given, `NAME[:HUB_ID[@REVISION]]`.
        model_type: Of its config.
        width: Numbers of a base feature.
        rate: Frames or samples per second that it takes; `None` for text.
        window: Seconds that it sees or hears at once: a frame (0), or of sound; `None` for a whole segment or text.
        dtype: Of its weights.
        licence: Of its weights, where its card states one.
        revision: Commit on the Hub.
    """

    name: str
    model_type: str
    width: int
    rate: float | None
    window: float | None
    dtype: str
    licence: str | None = None
    revision: str | None = None

    @property
    def non_commercial(self) -> bool:
        """Whether the licence is known to forbid commercial use.

        Example:
            >>> EncoderInfo("x/y", "hubert", 768, 24000, None, "float32", licence="cc-by-nc-4.0").non_commercial
            True
        """
        return forbids_commercial_use(self.licence)


def forbids_commercial_use(licence: str | None) -> bool:
    """Whether a licence is known, by its name, to forbid commercial use.

    Licences for research or academic use count. Case, blanks and other signs between the words of a name do not.

    Example:
        >>> forbids_commercial_use("CC BY-NC 4.0"), forbids_commercial_use("mit"), forbids_commercial_use(None)
        (True, False, False)
    """
    return _NON_COMMERCIAL.search(re.sub(r"[^a-z0-9]+", "-", (licence or "").lower())) is not None


def encoder_info(
    modality: str, name: str, encoder: PreTrainedModel, processor: ViMLProcessor, **kwargs: Any
) -> EncoderInfo:
    """Describe a loaded encoder.

    Args:
        modality: `"video"`, `"text"` or `"audio"`.
        name: The encoder's name.
        encoder: The encoder.
        processor: The processor for it.
        kwargs: As for `from_pretrained` (`local_files_only`, `cache_dir`, …).
    """
    rate: float | None = None
    window: float | None = None
    if modality == "video":
        rate = FRAMES_PER_SECOND
        window = None if reads_whole_segments(encoder) else 0.0
    elif modality == "audio":
        rate = processor.feature_extractor.sampling_rate
        samples = window_samples(processor.feature_extractor)
        window = samples and samples / rate
    return EncoderInfo(
        name,
        encoder.config.model_type,
        encoder_width(encoder.config),
        rate,
        window,
        str(weights_dtype(encoder)).removeprefix("torch."),
        licence_of(name, **kwargs),
        revision_of(name, **kwargs),
    )


def reads_whole_segments(encoder: PreTrainedModel) -> bool:
    """Whether a video encoder takes the frames of a segment together, and not one by one."""
    return getattr(encoder, "encodes_segments", False) or encoder.main_input_name == "pixel_values_videos"


def licence_of(name: str, **kwargs: Any) -> str | None:
    """The licence that the card of a named encoder states; `None` where it states none.

    Args:
        name: `NAME[:HUB_ID[@REVISION]]`, a Hub id or a folder.
        kwargs: As for `from_pretrained`; `local_files_only` is honoured.

    Example:
        >>> licence_of("descriptors")
        'apache-2.0'
    """
    parsed = parse_encoder_name(name)
    if parsed.hub_id is None:
        return OWN_LICENCE
    card = Path(parsed.hub_id) / "README.md"
    if not Path(parsed.hub_id).is_dir():
        known = {key: kwargs[key] for key in ("cache_dir", "local_files_only", "token") if key in kwargs}
        try:
            revision = parsed.revision or kwargs.get("revision")
            card = Path(hf_hub_download(parsed.hub_id, "README.md", revision=revision, **known))
        except (EntryNotFoundError, OSError):  # there is no card, or no network to fetch it
            return KNOWN_LICENCES.get(parsed.hub_id)
    return _stated_licence(card) or KNOWN_LICENCES.get(parsed.hub_id)


def revision_of(name: str, **kwargs: Any) -> str | None:
    """The commit on the Hub of a named encoder that was loaded; `None` for folders and the descriptors.

    Args:
        name: `NAME[:HUB_ID[@REVISION]]`, a Hub id or a folder.
        kwargs: As for `from_pretrained` (`cache_dir`, `revision`).

    Example:
        >>> revision_of("descriptors") is None
        True
    """
    parsed = parse_encoder_name(name)
    if parsed.hub_id is None:
        return None
    return cached_revision(parsed.hub_id, parsed.revision or kwargs.get("revision"), kwargs.get("cache_dir"))


def _stated_licence(card: Path) -> str | None:
    """The licence in the head of a model card; `None` where there is no card, no head, or a broken one."""
    if not card.is_file():
        return None
    try:
        data = ModelCard.load(card).data
    except Exception:  # what people write there is read by YAML, which fails in many ways
        return None
    licence = data.license
    if licence in (None, "other"):
        licence = data.get("license_name") or licence
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return str(licence) if licence else None


def warn_of_licences(infos: dict[str, EncoderInfo]) -> None:
    """Log a warning for each encoder whose licence forbids commercial use."""
    for modality, info in infos.items():
        if info.non_commercial:
            logger.warning(
                "The %s encoder %s is under %s: neither it nor features made with it may be used commercially.",
                *(modality, info.name, info.licence),
            )
