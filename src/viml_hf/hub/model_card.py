"""Model cards: the facts of a model as the README.md of its repo on the Hub.

The text is in `model_card_template.md`; here is what is computed for it. The same facts give the same card.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from viml_hf.encoders.encoder_info import OWN_LICENCE
from viml_hf.evaluation.metrics import decimals
from viml_hf.hub import VIDEO_TO_MUSIC
from viml_hf.hub.card_facts import CardFacts
from viml_hf.hub.evaluation_results import comparison_text, conditions, model_index, with_interval
from viml_hf.processing.segments import SEGMENT_SECONDS

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("model_card_template.md")
COLUMNS = ("R@1", "R@5", "R@10", "MR")
CITATION = """@inproceedings{mckee2023viml,
  title = {Language-Guided Music Recommendation for Video via Prompt Analogies},
  author = {McKee, Daniel and Salamon, Justin and Sivic, Josef and Russell, Bryan},
  booktitle = {CVPR},
  year = {2023}
}"""
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
DESCRIPTOR_LIMITS = {
    "video": "The video encoder measures colours, edges, motion and cuts; it does not see what a picture shows",
    "text": "The text encoder compares spellings: a synonym is another word to it",
    "audio": "The audio encoder measures timbre, harmony, tempo and onsets; it knows no instruments or voices as such",
}
TOWERS = {"transformer": "Transformer", "mlp": "residual MLP", "linear": "linear stack"}
PAPER_ITEMS = 100_000


def render_card(facts: CardFacts, tags: Iterable[str] = ()) -> str:
    """The whole text of a model card, with its metadata in YAML.

    Args:
        facts: From `gather_facts` or `facts_of_model`.
        tags: More tags than those that follow from the facts.

    Example:
        >>> from viml_hf import ViMLForMusicRetrieval
        >>> from viml_hf.hub.card_facts import facts_of_model
        >>> card = render_card(facts_of_model(ViMLForMusicRetrieval.from_encoders(), "me/model"))
        >>> card.splitlines()[:3]
        ['---', 'library_name: transformers', 'license: apache-2.0']
    """
    card = ModelCard.from_template(
        card_data(facts, tags),
        template_path=str(TEMPLATE),
        facts=facts,
        generated=GENERATED,
        results="\n\n".join(map(_result, facts.results)),
        training=_bullets(_training(facts)),
        encoders=_encoder_table(facts),
        non_commercial=" and ".join(name for name, encoder in facts.encoders.items() if encoder.non_commercial),
        limits=_bullets(_limits(facts)),
        licence=_sentences(_licence(facts)),
        citation=CITATION,
        towers=TOWERS[facts.heads.encoder],
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
    """The metadata of a card.

    `base_model` names the encoders that are on the Hub. Heads alone are related to these as an adapter is: useless
    without them. For a whole model the relation is left out: the Hub has none for weights that are held unchanged.
    """
    base_models = list(dict.fromkeys(encoder.hub_id for encoder in facts.encoders.values() if encoder.hub_id))
    tags = ["viml", "music", "music-retrieval", "cross-modal-retrieval"]
    tags += [VIDEO_TO_MUSIC] * ("video" in facts.takes) + ["text-to-music-retrieval"] * ("text" in facts.takes)
    results = model_index(facts.results)
    return ModelCardData(
        **card_licence(facts),
        library_name="transformers",
        language=list(facts.owner.language) or None,
        # The Hub has no task of ranking music, and its tasks that give audio or text would promise another output.
        pipeline_tag="feature-extraction",
        base_model=base_models or None,
        base_model_relation="adapter" if base_models and not facts.whole else None,
        datasets=list(facts.owner.datasets) or None,
        tags=list(dict.fromkeys([*tags, *more_tags])),
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def card_licence(facts: CardFacts) -> dict[str, Any]:
    """`license`, and where the Hub does not list it, `license_name` and `license_link`.

    What the owner states holds. Otherwise a model whose encoders are all under permissive licences is under the licence
    of this package. Where an encoder's licence asks for more, the licence is `other`, with the name of the strictest
    such licence and a link to that encoder's card: it binds the encoder, not the heads. Where a licence is unknown and
    none of the others decides, none is stated.
    """
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


def _licence(facts: CardFacts) -> list[str]:
    """What the card says of licences; nothing where none is known."""
    stated, said = card_licence(facts).get("license"), []
    if stated == "other" and not facts.owner.licence:
        said.append("No single licence covers this model: its use is bound by the licences of its encoders")
    elif stated:
        said.append(f"This model is under {stated}{', as its owner states' if facts.owner.licence else ''}")
    if any(encoder.licence and not encoder.is_descriptors for encoder in facts.encoders.values()):
        said.append("Each encoder keeps its own licence, see above")
    if unknown := [name for name, encoder in facts.encoders.items() if facts.whole and not encoder.licence]:
        said.append(f"The licence of the {' and '.join(unknown)} encoder is not known: look it up before use")
    return said


def _result(result: dict[str, Any]) -> str:
    """How the figures of a result came about, and the figures as a table."""
    texts = ""
    if any("text" in query for query in result["rows"]):
        texts = f"texts {_code(result['texts'])} of `viml describe`" if result["texts"] else "texts of the data itself"
    place = _dataset(result["benchmark"]["id"]) if "benchmark" in result else _code(result["store"])
    first, *others = conditions(result)
    said = _sentences([f"On {place}: {first}", *others, texts, *map(comparison_text, result["comparisons"])])
    rows = [["chance", *(f"{result['chance'][name]:.{decimals(name)}f}" for name in COLUMNS)]]
    for query, figures in result["rows"].items():
        rows.append([query, *(with_interval(name, figures[name]) for name in COLUMNS)])
    return f"{said}\n\n{_table(['query', *COLUMNS], rows)}"


def _training(facts: CardFacts) -> list[str]:
    """What is known of the training; nothing where none is."""
    training = facts.training or {}
    settings: dict[str, Any] = training.get("settings") or {}
    known = {
        "Data": facts.owner.data or training.get("data"),
        "Datasets": ", ".join(map(_dataset, facts.owner.datasets)),
    }
    if items := training.get("training_items"):
        known["Items"] = f"{items:,}"
    if "texts" in training and "text" in facts.takes:
        texts = training["texts"]
        known["Texts"] = f"{_code(texts)}, written by `viml describe`" if texts else "those of the data itself"
    known["Recipe"] = training.get("recipe") and _code(training["recipe"])
    if "clip_segments" in settings:
        clip = settings["clip_segments"]
        seconds = f", {clip * SEGMENT_SECONDS:.0f} s" if clip and facts.whole else ""
        known["Seen of a track"] = f"up to {clip} rows of base features{seconds}" if clip else "all of it"
    unsaid = ("clip_segments", "pool_size", "loader_workers")  # said elsewhere, or nothing of the model
    said = (f"{name} {value}" for name, value in settings.items() if name not in unsaid and value is not None)
    known["Settings"] = ", ".join(said)
    if facts.training is not None or any(known.values()):
        known["Loss"] = _loss(facts)
    metrics = {name: value for name, value in (training.get("metrics") or {}).items() if name in COLUMNS}
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
    columns: dict[str, list[str | None]] = {"modality": [*facts.encoders]}
    encoders = facts.encoders.values()
    columns["encoder"] = [
        f"[{one.hub_id}](https://huggingface.co/{one.hub_id})" if one.hub_id else one.name and _code(one.name)
        for one in encoders
    ]
    columns["type"] = [one.model_type and _code(one.model_type) for one in encoders]
    columns["revision"] = [one.revision and _code(one.revision) for one in encoders]
    columns["licence"] = [one.licence for one in encoders]
    columns["width"] = [str(one.width) for one in encoders]
    known = {name: [cell or "–" for cell in cells] for name, cells in columns.items() if any(cells)}
    return _table([*known], [list(row) for row in zip(*known.values(), strict=True)])


def _limits(facts: CardFacts) -> list[str]:
    """What the model cannot do, or was not shown, as far as the facts tell."""
    described = [name for name in (*facts.takes, "audio") if facts.encoders[name].is_descriptors]
    found = [DESCRIPTOR_LIMITS[name] for name in described]
    found += [f"It takes no {other}" for other in ("video", "text") if other not in facts.takes]
    training = facts.training or {}
    settings, items = training.get("settings") or {}, training.get("training_items")
    if items and items < PAPER_ITEMS:
        found.append(f"It has learned from {items:,} items, the paper's models from about {PAPER_ITEMS:,} videos")
    if len(facts.takes) > 1:
        if settings.get("text_dropout") == 0 and not facts.heads.textless_loss_weight:
            found.append("Texts were never dropped in training: a video alone may rank badly")
        if settings.get("video_dropout") == 0:
            found.append("Videos were never dropped in training: a text alone may rank badly")
    if facts.heads.encoder == "transformer":
        found.append(f"A sequence has up to {facts.heads.max_position_embeddings} rows of base features")
    if not facts.results:
        found.append("No result of `viml evaluate` is kept with this model")
    return [*found, "Similarities order the tracks of one library for one query; they are no probabilities"]


def _dataset(hub_id: str) -> str:
    return f"[{hub_id}](https://huggingface.co/datasets/{hub_id})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {' '.join(line.split()).rstrip('.')}." for line in lines)


def _sentences(parts: Iterable[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:].rstrip('.')}." for part in parts if part)


def _code(text: str) -> str:
    """A name in the type of code, whatever characters it has."""
    return f"`{' '.join(str(text).replace('`', ' ').replace('|', ' ').split())}`"
