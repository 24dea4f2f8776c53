"""The facts that a model card states, gathered from a saved model or from a model in memory."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel

from viml_hf.encoders.encoder_info import OWN_LICENCE, forbids_commercial_use, licence_of
from viml_hf.errors import ViMLError, in_one_line, shown
from viml_hf.features.json_files import misfit, read_json
from viml_hf.hub.evaluation_results import EVALUATION_FILE, HUB_ID, read_evaluations
from viml_hf.hub.saved_weights import parameter_counts, saved_parameters, weights_checksum
from viml_hf.modeling.configuration_descriptors import DESCRIPTOR_CONFIGS
from viml_hf.modeling.configuration_viml import ViMLConfig, ViMLForMusicRetrievalConfig
from viml_hf.modeling.encoder_families import DESCRIPTORS, MODALITIES
from viml_hf.modeling.encoder_names import PROMPT, EncoderName, is_published_features, parse_encoder_name

TRAINING_FILE = "training.json"
_OPTIONAL = {kind: (kind, type(None)) for kind in (str, int, dict)}
_TRAINING: dict[Any, Any] = {
    **dict.fromkeys(("settings", "store", "metrics"), _OPTIONAL[dict]),
    **dict.fromkeys(("data", "texts", "recipe"), _OPTIONAL[str]),
    **dict.fromkeys(("training_items", "evaluation_items"), _OPTIONAL[int]),
    ...: object,
}
_TRAINING_PARTS: dict[str, dict[Any, Any]] = {
    "settings": {
        **dict.fromkeys(("clip_segments", "pool_size"), _OPTIONAL[int]),
        ...: (str, bool, int, float, type(None)),
    },
    "store": {...: str},
    "metrics": {...: float},
}


@dataclass(frozen=True)
class OwnerFacts:
    """What only the owner of a model can say, spelled as on the Hub.

    `licence` is such as `"cc-by-4.0"`; by default it follows from the encoders' licences. `datasets` are ids of the
    training data, and `data` is a sentence or more on them. `language` holds codes of the texts' languages, such as
    `("en", "pt-BR")`. `ViMLError` is raised where the Hub would refuse one of these.
    """

    licence: str | None = None
    datasets: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    data: str | None = None

    def __post_init__(self) -> None:
        if self.licence is not None and not re.fullmatch(r"[a-z0-9.-]+", self.licence):
            raise ViMLError(f"licence {self.licence!r}: give it as the Hub spells it, such as cc-by-4.0")
        for dataset in self.datasets:
            if not HUB_ID.fullmatch(dataset):
                raise ViMLError(f"dataset {dataset!r}: give OWNER/NAME of a dataset on the Hub, or leave it out")
        for code in self.language:
            if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z]{2})?", code):
                raise ViMLError(f"language {code!r}: give a code of 2 or 3 letters, such as en or pt-BR")
        object.__setattr__(self, "language", tuple(code.lower() for code in self.language))
        # In one line, so that it starts no section of the card.
        object.__setattr__(self, "data", " ".join((self.data or "").split()) or None)


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of the base encoder of one modality."""

    width: int  # numbers of a base feature
    model_type: str | None = None  # of its config, where it is in the model
    name: str | None = None  # Hub id, name of its folder, "descriptors", or "features:…" of published features
    hub_id: str | None = None
    revision: str | None = None
    licence: str | None = None  # of its weights

    @property
    def non_commercial(self) -> bool:
        """Whether its licence is known to forbid commercial use."""
        return forbids_commercial_use(self.licence)

    @property
    def is_descriptors(self) -> bool:
        """Whether it is hand-crafted, without weights."""
        return self.model_type in DESCRIPTOR_CONFIGS or (self.model_type is None and self.name == DESCRIPTORS)


@dataclass(frozen=True, eq=False)
class CardFacts:
    """What a model card is written from. What is not known is `None` or empty, and the card leaves it out."""

    repo_id: str  # of the model on the Hub
    heads: ViMLConfig
    whole: bool  # whether the encoders are inside, or the heads are alone
    frozen: bool  # whether the encoders were kept out of training
    encoders: dict[str, EncoderFacts]  # by modality: those inside, or those of the base features that the heads take
    parameters: dict[str, int]  # by part of the model
    training: dict[str, Any] | None = None  # `training.json`, as `viml train` writes it
    results: list[dict[str, Any]] = field(default_factory=list)  # of `viml evaluate --save`, with these weights
    with_code: bool = False  # whether the model's code lies beside it
    owner: OwnerFacts = OwnerFacts()

    @property
    def name(self) -> str:
        """The repo's name without its owner."""
        return self.repo_id.rpartition("/")[2]

    @property
    def takes(self) -> list[str]:
        """The modalities of queries, video first."""
        return [modality for modality in ("video", "text") if modality in self.heads.query_modalities]

    @property
    def non_commercial(self) -> list[str]:
        """The encoders inside that may not be used commercially, with their licences."""
        found = self.encoders.items() if self.whole else ()
        return [f"{modality} ({e.name or e.model_type}: {e.licence})" for modality, e in found if e.non_commercial]


def check_repo_id(repo_id: str, *, with_owner: bool = True) -> None:
    """Refuse a text that is not `OWNER/NAME`; with `with_owner=False`, `NAME` alone is accepted too."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ViMLError(f"{repo_id!r}: not a name on the Hub ({in_one_line(error)}); give OWNER/NAME") from error
    if with_owner and "/" not in repo_id:
        raise ViMLError(f"{repo_id!r}: give OWNER/NAME, the owner being your user name or an organisation")


def gather_facts(
    folder: str | Path,
    repo_id: str,
    *,
    owner: OwnerFacts | None = None,
    with_code: bool | None = None,
    local_files_only: bool = True,
) -> CardFacts:
    """Read the facts of a saved model from its folder, and from its `training.json` and `evaluation.json`.

    `with_code` says whether the model's code is published with it; by default, whether `config.json` names code. With
    `local_files_only`, licences of encoders are looked up only in what was downloaded before, not on the Hub.

    Raises:
        ViMLError: The folder holds no ViML model, a file of it is damaged, or its results are of other weights.

    Example:
        >>> import tempfile
        >>> from viml_hf import ViMLConfig, ViMLModel
        >>> folder = tempfile.mkdtemp()
        >>> ViMLModel(ViMLConfig(fusion="linear")).save_pretrained(folder)
        >>> gather_facts(folder, "me/heads").parameters["fusion"]
        131328
    """
    folder = Path(folder)
    config, names_code = _read_config(folder)
    known = {"training": _read_training(folder / TRAINING_FILE), "parameters": saved_parameters(folder)}
    with_code = names_code if with_code is None else with_code
    facts = _facts(config, repo_id, owner, local_files_only, with_code=with_code, **known)
    results = read_evaluations(folder)
    if results and {result["weights"] for result in results} != {weights_checksum(folder, facts.heads)}:
        raise ViMLError(
            f"{folder / EVALUATION_FILE}: its results are of other weights than the model's; run `viml evaluate` "
            "with --save again, or delete the file"
        )
    return replace(facts, results=results)


def facts_of_model(
    model: PreTrainedModel,
    repo_id: str,
    *,
    training: dict[str, Any] | None = None,
    owner: OwnerFacts | None = None,
    with_code: bool = False,
    local_files_only: bool = True,
) -> CardFacts:
    """The facts of a [`ViMLModel`] or [`ViMLForMusicRetrieval`] in memory, without results.

    `training` is what is known of its training, as in `training.json`. For the other arguments see `gather_facts`.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval
        >>> facts_of_model(ViMLForMusicRetrieval.from_encoders(), "me/model").encoders["text"].width
        512
    """
    counts = parameter_counts((name, parameter.numel()) for name, parameter in model.named_parameters())
    known = {"training": training, "parameters": counts}
    return _facts(model.config, repo_id, owner, local_files_only, with_code=with_code, **known)


def _facts(
    config: PreTrainedConfig, repo_id: str, owner: OwnerFacts | None, local_files_only: bool, **known: Any
) -> CardFacts:
    """The facts that a config tells, with others that are `known`, by their names in [`CardFacts`]."""
    check_repo_id(repo_id, with_owner=False)  # a Trainer that does not push calls its model by the folder's name
    # Compared by the type's name: code that came with a model has a class of its own.
    if config.model_type not in (ViMLConfig.model_type, ViMLForMusicRetrievalConfig.model_type):
        raise ViMLError(f"a model of type {config.model_type!r}: give a ViMLModel or a ViMLForMusicRetrieval")
    whole = config.model_type == ViMLForMusicRetrievalConfig.model_type
    heads: Any = config.viml_config if whole else config
    sources = getattr(config, "encoder_sources", None) or {}
    names = (known["training"] or {}).get("store") or {}
    encoders = {}
    for modality in [one for one in MODALITIES if whole or one in (*heads.query_modalities, "audio")]:
        width = heads.base_feature_dim(modality)
        model_type = getattr(config, f"{modality}_encoder_config").model_type if whole else None
        source = sources.get(modality) or {}
        encoders[modality] = _encoder(width, model_type, source, names.get(modality), local_files_only)
    frozen = bool(getattr(config, "freeze_encoders", True))
    return CardFacts(repo_id, heads, whole, frozen, encoders, owner=owner or OwnerFacts(), **known)


def _encoder(
    width: int, model_type: str | None, source: dict[str, Any], store_name: str | None, local_files_only: bool
) -> EncoderFacts:
    if model_type in DESCRIPTOR_CONFIGS or (model_type is None and store_name == DESCRIPTORS):
        return EncoderFacts(width, model_type, DESCRIPTORS, licence=OWN_LICENCE)
    name: str | None = source.get("name") or store_name
    if name is None or is_published_features(name):
        return EncoderFacts(width, model_type, name)
    name = name.partition(PROMPT)[0]
    licence: str | None = source.get("licence")
    # An encoder that came from a folder is called by the folder's name, without a colon.
    parsed = _on_hub(name) if ":" in name else None
    if parsed is None or parsed.hub_id is None:
        # Without the folder's path on this machine.
        return EncoderFacts(width, model_type, Path(name.rpartition(":")[2]).name, licence=licence)
    revision = source.get("revision") or parsed.revision
    if licence is None:
        licence = licence_of(f"auto:{parsed.hub_id}", revision=revision, local_files_only=local_files_only)
    return EncoderFacts(width, model_type, parsed.hub_id, parsed.hub_id, revision, licence)


def stated_name(name: str) -> str:
    """A store's name of an encoder for `training.json`: `family:hub_id`, or the last part of a folder's path."""
    if name == DESCRIPTORS or is_published_features(name):
        return name
    parsed = _on_hub(name)
    if parsed is None:
        return Path(name.rpartition(":")[2]).resolve().name
    return f"{parsed.name}:{parsed.hub_id}" + (f"@{parsed.revision}" if parsed.revision else "")


def _on_hub(name: str) -> EncoderName | None:
    """The parsed name of an encoder that is on the Hub; `None` where it came from a folder."""
    try:
        parsed = parse_encoder_name(name)
    except ValueError:  # such as the path of a folder of another machine
        return None
    return parsed if HUB_ID.fullmatch(parsed.hub_id or "") and not Path(parsed.hub_id or "").is_dir() else None


def _read_training(path: Path) -> dict[str, Any] | None:
    fix = "train again, or delete it"
    training = read_json(path, dict, fix)
    if training is not None:
        present = {name: shape for name, shape in _TRAINING_PARTS.items() if training.get(name) is not None}
        if (place := misfit(training, _TRAINING) or misfit(training, {**present, ...: object})) is not None:
            raise ViMLError(f"{path}: not written by `viml train` (see {shown(place)}); {fix}")
    return training


def _read_config(folder: Path) -> tuple[PreTrainedConfig, bool]:
    """The config of a saved model, and whether it names code."""
    classes = {one.model_type: one for one in (ViMLConfig, ViMLForMusicRetrievalConfig)}
    try:
        found = json.loads((folder / "config.json").read_bytes())
        return classes[found["model_type"]].from_pretrained(folder), "auto_map" in found
    except Exception as error:  # a config class raises any kind at a value of another kind
        raise ViMLError(
            f"{folder}: no saved ViML model ({in_one_line(error)[:300]}); give a folder made by `viml train` or "
            "save_pretrained"
        ) from error
