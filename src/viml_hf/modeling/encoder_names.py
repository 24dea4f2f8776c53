"""How base encoders are named: `NAME[:HUB_ID[@REVISION]]`, or a Hub id or folder alone (`NAME` is then `auto`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

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
    if is_published_features(text):
        raise ValueError(
            f"{text!r} stands for features that came without their encoder, so no file can be encoded like them: give "
            "a store of such features to `viml evaluate`, or take a model that was trained with encoders of its own."
        )
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


def is_published_features(name: str) -> bool:
    """Whether a name stands for features that were published without their encoder, such as those of YouTube-8M.

    Example:
        >>> is_published_features("features:youtube8m-vggish-pca"), is_published_features("clip")
        (True, False)
    """
    return name.startswith("features:")


def locate_encoder(encoder: str, kwargs: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Where a named encoder lies, and with which arguments each of its parts is loaded.

    Args:
        encoder: An encoder name.
        kwargs: Arguments for `from_pretrained`.

    Returns:
        Hub id or folder, `None` for the descriptors; the arguments, with the name's revision where it has one.

    Raises:
        ValueError: The name is none, or the arguments ask to run code that comes with the checkpoint.

    Example:
        >>> locate_encoder("clip:a/b@v1", {"local_files_only": True})
        ('a/b', {'local_files_only': True, 'revision': 'v1'})
    """
    parsed = parse_encoder_name(encoder)
    kept = {name: value for name, value in kwargs.items() if name != "trust_remote_code"}
    if kwargs.get("trust_remote_code"):
        raise ValueError(
            "trust_remote_code=True: code that comes with an encoder is never run here; leave the argument out and "
            "give a model that transformers has."
        )
    return parsed.hub_id, {**kept, "revision": parsed.revision} if parsed.revision else kept


def cached_revision(hub_id: str, revision: str | None = None, cache_dir: str | None = None) -> str | None:
    """The commit of a checkpoint that was loaded from the Hub; `None` for a folder."""
    if Path(hub_id).is_dir():
        return None
    config = try_to_load_from_cache(hub_id, "config.json", cache_dir=cache_dir, revision=revision)
    return Path(config).parent.name if isinstance(config, str) else None  # the cache has a folder per commit


@contextmanager
def loading(encoder: str, part: str) -> Iterator[None]:
    """Make one line of whatever goes wrong while a part of a named encoder is loaded.

    Args:
        encoder: An encoder name.
        part: What is loaded, such as `"weights"` or `"tokenizer"`.

    Raises:
        OSError: It could not be loaded; the message names the encoder, the part, the reason and what to do.

    Example:
        >>> try:
        ...     with loading("clip:a/b", "weights"):
        ...         raise RuntimeError("no such file")
        ... except OSError as error:
        ...     print(str(error)[:54])
        clip:a/b: its weights cannot be loaded (no such file):
    """
    try:
        yield
    except Exception as error:  # whatever a checkpoint's files and the libraries that read them can do wrong
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        parsed = parse_encoder_name(encoder)
        if isinstance(error, ImportError):
            fix = "install what is missing"
        elif Path(parsed.hub_id or "").is_dir():
            fix = "give a folder that holds the model with its preprocessor, as saved by `save_pretrained`"
        else:
            revision = f" --revision {parsed.revision}" if parsed.revision else ""
            fix = f"check the name and the network, or fetch it once with `hf download {parsed.hub_id}{revision}`"
        raise OSError(f"{encoder}: its {part} cannot be loaded ({reason}): {fix}.") from error
