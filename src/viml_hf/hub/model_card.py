"""Model cards: the README.md of a model's repo, from the text of `model_card_template.md` and the model's facts."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from viml_hf.encoders.encoder_info import OWN_LICENCE
from viml_hf.evaluation import CITATION
from viml_hf.evaluation.metrics import decimals
from viml_hf.hub import VIDEO_TO_MUSIC
from viml_hf.hub.card_facts import CardFacts
from viml_hf.hub.evaluation_results import CARD_METRICS, comparison_text, conditions, model_index, with_interval
from viml_hf.processing.segments import SEGMENT_SECONDS

CARD_FILE = "README.md"
# This line holds a checksum of all other lines: it tells whether somebody has changed the card.
GENERATED = "<!-- viml_hf wrote this card from the model's facts and renews it as long as nobody changes it: {} -->"
_SEAL = re.compile(re.escape(GENERATED).replace(r"\{\}", r"(\{\}|[0-9a-f]{16})"))
# Parts of the cards that transformers and its Trainer write by themselves.
TRANSFORMERS_CARDS = ("[More Information Needed]", "automatically according to the information the Trainer had access")
# Licences under which the heads may be under another licence, as the Hub spells them.
PERMISSIVE = {
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib"),
    *("cc0-1.0", "unlicense"),
}


def render_card(facts: CardFacts, tags: Iterable[str] = ()) -> str:
    """The text of a model card with its metadata; `tags` are added to those that follow from the facts.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval, facts_of_model
        >>> card = render_card(facts_of_model(ViMLForMusicRetrieval.from_encoders(), "me/model"))
        >>> card.splitlines()[:3]
        ['---', 'library_name: transformers', 'license: apache-2.0']
    """
    card = ModelCard.from_template(
        card_data(facts, tags),
        template_path=str(Path(__file__).with_name("model_card_template.md")),
        facts=facts,
        generated=GENERATED,
        results="\n\n".join(map(_result, facts.results)),
        training="\n".join(f"* {' '.join(line.split()).rstrip('.')}." for line in _training(facts)),
        encoders=_encoder_table(facts),
        stated_licence=card_licence(facts).get("license"),
        citation=CITATION,
    )
    return seal(f"{str(card).strip()}\n")


def seal(card: str) -> str:
    """The card with the checksum of its other lines in the line that says who wrote it."""
    others = [line.rstrip() for line in card.splitlines() if not _SEAL.fullmatch(line.rstrip())]
    checksum = hashlib.sha256("\n".join(others).strip().encode()).hexdigest()[:16]
    return "\n".join(GENERATED.format(checksum) if _SEAL.fullmatch(line) else line for line in card.split("\n"))


def is_own_card(card: str) -> bool:
    """Whether somebody wrote or changed a card: it is neither as this package nor as transformers wrote it."""
    card = card.replace("\r\n", "\n")
    generated = any(_SEAL.fullmatch(line) for line in card.split("\n")) and seal(card) == card
    return not generated and not any(part in card for part in TRANSFORMERS_CARDS)


def card_data(facts: CardFacts, more_tags: Iterable[str] = ()) -> ModelCardData:
    """The metadata of a card; `base_model` names the encoders that are on the Hub."""
    base_models = list(dict.fromkeys(encoder.hub_id for encoder in facts.encoders.values() if encoder.hub_id))
    tags = ["viml", "music", "music-retrieval", "cross-modal-retrieval"]
    tags += [VIDEO_TO_MUSIC] * ("video" in facts.takes) + ["text-to-music-retrieval"] * ("text" in facts.takes)
    results = model_index(facts.results)
    return ModelCardData(
        **card_licence(facts),
        library_name="transformers",
        language=list(facts.owner.language) or None,
        # The Hub has no task of ranking music, and its tasks that give audio or text would promise another output. The
        # pipeline of this one embeds texts; it works where there is a text encoder.
        pipeline_tag="feature-extraction" if facts.whole and "text" in facts.takes else None,
        base_model=base_models or None,
        # Heads need their encoders, as an adapter does. The Hub has no relation for encoders held unchanged inside.
        base_model_relation="adapter" if base_models and not facts.whole else None,
        datasets=list(facts.owner.datasets) or None,
        tags=list(dict.fromkeys([*tags, *more_tags])),
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def card_licence(facts: CardFacts) -> dict[str, Any]:
    """The licence fields of a card's metadata: what the owner states, else what the encoders' licences leave."""
    if facts.owner.licence:
        return {"license": facts.owner.licence}
    encoders = facts.encoders.values()
    restrictive = [encoder for encoder in encoders if encoder.licence and encoder.licence.lower() not in PERMISSIVE]
    if restrictive:
        strictest = min(restrictive, key=lambda encoder: (not encoder.non_commercial, str(encoder.licence)))
        link = strictest.hub_id and f"https://huggingface.co/{strictest.hub_id}"
        name = re.sub(r"[^a-z0-9.-]+", "-", str(strictest.licence).lower())
        return {"license": "other", "license_name": name, "license_link": link}
    return {"license": OWN_LICENCE} if encoders and all(encoder.licence for encoder in encoders) else {}


def _result(result: dict[str, Any]) -> str:
    texts = ""
    if any("text" in query for query in result["rows"]):
        named = result.get("texts")
        texts = f"texts {_code(named)} of `viml describe`" if named else "texts of the data itself"
    place = _dataset(result["benchmark"]["id"]) if "benchmark" in result else _code(result["store"])
    first, *others = conditions(result)
    parts = [f"On {place}: {first}", *others, texts, *map(comparison_text, result["comparisons"])]
    said = " ".join(f"{part[0].upper()}{part[1:].rstrip('.')}." for part in parts if part)
    rows = [["chance", *(f"{result['chance'][name]:.{decimals(name)}f}" for name in CARD_METRICS)]]
    for query, figures in result["rows"].items():
        rows.append([query, *(with_interval(name, figures[name]) for name in CARD_METRICS)])
    return f"{said}\n\n{_table(['query', *CARD_METRICS], rows)}"


def _training(facts: CardFacts) -> list[str]:
    training = facts.training or {}
    settings: dict[str, Any] = training.get("settings") or {}
    known = {"Data": facts.owner.data or training.get("data")}
    known["Datasets"] = ", ".join(map(_dataset, facts.owner.datasets))
    if items := training.get("training_items"):
        known["Items"] = f"{items:,}"
    if "texts" in training and "text" in facts.takes:
        texts = training["texts"]
        known["Texts"] = f"{_code(texts)}, written by `viml describe`" if texts else "those of the data itself"
    known["Recipe"] = _code(training.get("recipe"))
    if "clip_segments" in settings:
        clip = settings["clip_segments"]
        seconds = f", {clip * SEGMENT_SECONDS:.0f} s" if clip and facts.whole else ""
        known["Seen of a track"] = f"up to {clip} rows of base features{seconds}" if clip else "all of it"
    unsaid = ("clip_segments", "pool_size", "loader_workers")  # said elsewhere, or nothing of the model
    said = (f"{name} {value}" for name, value in settings.items() if name not in unsaid and value is not None)
    known["Settings"] = ", ".join(said)
    if facts.training is not None or any(known.values()):
        known["Loss"] = _loss(facts)
    metrics = {name: value for name, value in (training.get("metrics") or {}).items() if name in CARD_METRICS}
    if metrics and (held_out := training.get("evaluation_items")):
        pools = f" in pools of {min(settings['pool_size'] or held_out, held_out):,}" if "pool_size" in settings else ""
        asked = ", asked with the texts that it was trained on" if "text" in facts.takes else ""
        figures = ", ".join(f"{name} {value:.{decimals(name)}f}" for name, value in metrics.items())
        known[f"At its end, on {held_out:,} held-out items{pools}{asked}"] = figures
    return [f"{name}: {value}" for name, value in known.items() if value]


def _loss(facts: CardFacts) -> str:
    heads = facts.heads
    if heads.loss == "triplet":
        return f"triplet, margin {heads.triplet_margin}, over the {heads.triplet_num_hardest} hardest negatives"
    learned = "learned temperature" if heads.learned_temperature else f"temperature {heads.temperature}"
    textless = heads.textless_loss_weight if len(facts.takes) > 1 else 0
    return f"InfoNCE, {learned}" + (f", and the same without text, weight {textless}" if textless else "")


def _encoder_table(facts: CardFacts) -> str:
    """A table of the encoders, without the columns in which nothing is known."""
    lines = [
        {
            "modality": modality,
            "encoder": f"[{one.hub_id}](https://huggingface.co/{one.hub_id})" if one.hub_id else _code(one.name),
            "type": _code(one.model_type),
            "revision": _code(one.revision),
            "licence": one.licence,
            "width": str(one.width),
        }
        for modality, one in facts.encoders.items()
    ]
    known = [name for name in lines[0] if any(line[name] for line in lines)]
    return _table(known, [[line[name] or "–" for name in known] for line in lines])


def _dataset(hub_id: str) -> str:
    return f"[{hub_id}](https://huggingface.co/datasets/{hub_id})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _code(text: str | None) -> str:
    """A name in the type of code, whatever characters it has; empty where there is none."""
    return f"`{' '.join(str(text).replace('`', ' ').replace('|', ' ').split())}`" if text else ""
