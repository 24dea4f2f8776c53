"""Names of encoders, `NAME[:HUB_ID[@REVISION]][?dtype=DTYPE][?prompt=TEXT]` or a Hub id or folder alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from .encoder_families import DESCRIPTORS, FAMILIES, TOWERS

PROMPT, DTYPE = "?prompt=", "?dtype="
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class EncoderName:
    """A parsed encoder name."""

    name: str  # a key of `FAMILIES`, or `auto`
    hub_id: str | None = None  # Hub id or folder; `None` for the descriptors
    revision: str | None = None  # branch, tag or commit on the Hub, if the name gives one
    prompt: str = ""  # that a text encoder reads before every text, as it was trained; the empty text stays empty
    dtype: str = ""  # that a model without training computes in, if the name gives one


def parse_encoder_name(text: str) -> EncoderName:
    """Parse `NAME[:HUB_ID[@REVISION]]`, a Hub id, or a folder; `?dtype=` and then `?prompt=` may follow.

    Example:
        >>> parse_encoder_name("clip:openai/clip-vit-base-patch16@main")
        EncoderName(name='clip', hub_id='openai/clip-vit-base-patch16', revision='main', prompt='', dtype='')
        >>> parse_encoder_name("clip").hub_id
        'openai/clip-vit-base-patch32'
        >>> parse_encoder_name("intfloat/multilingual-e5-small?prompt=query: ").prompt
        'query: '
    """
    place, mark, prompt = text.partition(PROMPT)
    if mark and not prompt:
        raise ValueError(f"{text!r}: a prompt without a text: give one, as in `NAME?prompt=query: `, or none.")
    if mark:
        return replace(parse_encoder_name(place), prompt=prompt)
    place, mark, dtype = text.partition(DTYPE)
    if mark:
        if dtype not in DTYPES:
            raise ValueError(f"{text!r}: dtype={dtype!r}: give {' or '.join(DTYPES)}.")
        return replace(parse_encoder_name(place), dtype=dtype)
    if text == DESCRIPTORS:
        return EncoderName(DESCRIPTORS)
    if is_published_features(text):
        raise ValueError(
            f"{text!r} stands for features that were published without their encoder, so it cannot encode files: give "
            "a store of such features to `viml evaluate`, or use a model that was trained with encoders of its own."
        )
    if Path(text).is_dir():
        return EncoderName("auto", text)
    name, colon, location = text.partition(":")
    if name == DESCRIPTORS:
        location = ""  # they have no checkpoint to name
    elif name not in FAMILIES and name != "auto":
        name, location = "auto", text
    elif location and Path(location).is_dir():
        return EncoderName(name, location)
    elif not colon and name in FAMILIES:
        location = FAMILIES[name] or ""
    hub_id, _, revision = location.partition("@")
    if not hub_id or hub_id.count("/") > 1 or (name == "auto" and "/" not in hub_id) or "?" in hub_id:
        families = ", ".join(f"`{name}`" for name, checkpoint in FAMILIES.items() if checkpoint)
        raise ValueError(
            f"{text!r} names no encoder: give `descriptors`, {families}, one of these, `deepsim` or `st` with a "
            "checkpoint as in `clip:HUB_ID[@REVISION]`, a Hub id such as `MIT/ast-finetuned-audioset-10-10-0.4593`, or "
            "the folder of a saved model."
        )
    return EncoderName(name, hub_id, revision or None)


def is_joint_name(name: str) -> bool:
    """Whether a model's name is that of an encoder, as in `pe_av:HUB_ID`: a model that ranks without training.

    Example:
        >>> is_joint_name("pe_av:facebook/pe-av-small"), is_joint_name("me/my-model")
        (True, False)
    """
    return name.partition(":")[0] in FAMILIES and name != DESCRIPTORS and not Path(name).exists()


def lasting_name(name: str, revision: str | None = None, dtype: str = "") -> str:
    """The name of a model by which just it is found from any folder, an encoder's with its commit on the Hub.

    `dtype` is that which a model without training was loaded in; a machine would choose for itself.
    """
    if not is_joint_name(name):
        return str(Path(name).resolve()) if Path(name).is_dir() else name
    parsed = parse_encoder_name(name)
    if Path(parsed.hub_id or "").is_dir():
        parsed = replace(parsed, hub_id=str(Path(parsed.hub_id or "").resolve()))
    bears = any(tower.bfloat16 for tower in TOWERS if tower.family == parsed.name)
    return spelled(replace(parsed, revision=revision or parsed.revision, dtype=dtype if bears else ""))


def in_the_dtype_of(name: str, other: str) -> str:
    """A model's name, with the dtype of another one where it names the same kind of model and states none."""
    both = is_joint_name(name) and is_joint_name(other)
    if not both or (parsed := parse_encoder_name(name)).dtype:
        return name
    return spelled(replace(parsed, dtype=parse_encoder_name(other).dtype))


def spelled(parsed: EncoderName) -> str:
    """A name that is parsed as this."""
    revision = f"@{parsed.revision}" if parsed.revision else ""
    dtype = f"{DTYPE}{parsed.dtype}" if parsed.dtype else ""
    prompt = f"{PROMPT}{parsed.prompt}" if parsed.prompt else ""
    return f"{parsed.name}:{parsed.hub_id}{revision}{dtype}{prompt}"


def is_published_features(name: str) -> bool:
    """Whether a name stands for features without their encoder, such as `features:youtube8m-vggish-pca`."""
    return name.startswith("features:")


def locate_encoder(encoder: str, kwargs: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The Hub id or folder of an encoder (`None` for the descriptors), and the kwargs to load its parts with."""
    parsed = parse_encoder_name(encoder)
    kept = {name: value for name, value in kwargs.items() if name != "trust_remote_code"}
    if kwargs.get("trust_remote_code"):
        raise ValueError(
            "trust_remote_code=True: code that comes with an encoder is never run here; leave the argument out and "
            "give a model that transformers has."
        )
    return parsed.hub_id, {**kept, "revision": parsed.revision} if parsed.revision else kept


def revision_of(encoder: str, **kwargs: Any) -> str | None:
    """The commit on the Hub of an encoder that was loaded with these kwargs; `None` for folders and the descriptors."""
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None or Path(hub_id).is_dir():
        return None
    options = {name: kwargs.get(name) for name in ("cache_dir", "revision")}
    for name in ("config.json", "modules.json"):  # the second is that of sentence-transformers, which may be alone
        if isinstance(found := try_to_load_from_cache(hub_id, name, **options), str):
            return Path(found).parent.name  # the cache has a folder per commit
    return None


def pinned_name(encoder: str, revision: str | None) -> str:
    """The name of the same encoder at one commit of the Hub."""
    return encoder if revision is None else spelled(replace(parse_encoder_name(encoder), revision=revision))


def encoder_source(encoder: str, **kwargs: Any) -> dict[str, str]:
    """The name of a loaded encoder, and where it has them its commit on the Hub and its prompt."""
    parsed = parse_encoder_name(encoder)
    prompt = {"prompt": parsed.prompt} if parsed.prompt else {}
    if parsed.hub_id is None:
        return {"name": parsed.name, **prompt}
    if Path(parsed.hub_id).is_dir():
        # A published model must not tell the paths of a machine.
        return {"name": Path(parsed.hub_id).resolve().name, **prompt}
    revision = revision_of(encoder, **kwargs)
    return {"name": f"{parsed.name}:{parsed.hub_id}", **({"revision": revision} if revision else {}), **prompt}


@contextmanager
def loading(encoder: str, part: str) -> Iterator[None]:
    """Turn any error while a part of an encoder is loaded into an `OSError` of one line, with reason and fix."""
    try:
        yield
    except Exception as error:  # the files of a checkpoint, and the libraries that read them, fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        parsed = parse_encoder_name(encoder)
        if isinstance(error, ImportError):
            fix = "install what is missing"
        elif Path(parsed.hub_id or "").is_dir():
            fix = "give a folder that holds the model with its preprocessor, as saved by `save_pretrained`"
        else:
            revision = f" --revision {parsed.revision}" if parsed.revision else ""
            fix = f"check the name and the network, or fetch it once with `hf download {parsed.hub_id}{revision}`"
        raise OSError(f"{encoder}: its {part} cannot be loaded ({reason}): {fix}.") from error
