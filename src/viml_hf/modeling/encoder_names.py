"""How base encoders are named: `NAME[:HUB_ID[@REVISION]]`, or a Hub id or folder alone (`NAME` is then `auto`)."""

from dataclasses import dataclass
from pathlib import Path

# What a name needs the checkpoint's model type to begin with, and the checkpoint taken when none is named.
FAMILIES: dict[str, tuple[str, str | None]] = {
    "clip": ("clip", "openai/clip-vit-base-patch32"),
    "siglip": ("siglip", "google/siglip-base-patch16-224"),
    "clap": ("clap", "laion/clap-htsat-unfused"),
    "pe_av": ("pe", "facebook/pe-av-large"),
    "deepsim": ("deepsim", None),  # the published weights are not on the Hub, and not for commercial use
}


@dataclass(frozen=True)
class EncoderName:
    """A parsed encoder name.

    Args:
        name: `descriptors`, a key of `FAMILIES`, or `auto`.
        hub_id: Hub id or folder; `None` for the descriptors.
        revision: Branch, tag or commit on the Hub, where pinned.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None


def parse_encoder_name(text: str) -> EncoderName:
    """Parse `NAME[:HUB_ID[@REVISION]]`, a Hub id, or a folder.

    Raises:
        ValueError: The text is none of these.

    Example:
        >>> parse_encoder_name("clip:openai/clip-vit-base-patch16@main")
        EncoderName(name='clip', hub_id='openai/clip-vit-base-patch16', revision='main')
        >>> parse_encoder_name("clip").hub_id
        'openai/clip-vit-base-patch32'
    """
    if text == "descriptors":
        return EncoderName("descriptors")
    if Path(text).is_dir():
        return EncoderName("auto", text)
    name, colon, location = text.partition(":")
    if (name in FAMILIES or name == "auto") and location and Path(location).is_dir():
        return EncoderName(name, location)
    if name in FAMILIES or (colon and name == "auto"):
        hub_id, _, revision = location.partition("@")
        if name in FAMILIES and not colon:
            hub_id = FAMILIES[name][1] or ""
    else:
        name = "auto"
        hub_id, _, revision = text.partition("@")
    if not hub_id or hub_id.count("/") > 1 or (name == "auto" and "/" not in hub_id):
        families = ", ".join(f"`{family}`" for family, (_, default) in FAMILIES.items() if default)
        raise ValueError(
            f"{text!r} names no encoder: give `descriptors`, {families}, one of these or `deepsim` with a checkpoint "
            "as in `clip:HUB_ID[@REVISION]`, a Hub id such as `MIT/ast-finetuned-audioset-10-10-0.4593`, or the folder "
            "of a saved model."
        )
    return EncoderName(name, hub_id, revision or None)
