"""Model cards: the facts of a model as the README.md of its repo on the Hub.

A fact that is not known leaves its line or section out. The same facts give the same text.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from huggingface_hub import ModelCardData

from viml_hf.encoders.encoder_info import OWN_LICENCE
from viml_hf.evaluation.metrics import decimals
from viml_hf.hub.card_facts import CardFacts, EncoderFacts
from viml_hf.hub.card_licence import card_licence
from viml_hf.hub.card_limits import intended_use, limits
from viml_hf.hub.card_snippets import usage_snippets
from viml_hf.hub.evaluation_results import TASK_TYPE, comparison_text, conditions, model_index, with_interval
from viml_hf.processing.segments import SEGMENT_SECONDS

# The Hub's nearest: it has no task of ranking music, and those that give audio or text would promise another output.
PIPELINE_TAG = "feature-extraction"
COLUMNS = ("R@1", "R@5", "R@10", "MR")
CITATION = """@inproceedings{mckee2023viml,
  title = {Language-Guided Music Recommendation for Video via Prompt Analogies},
  author = {McKee, Daniel and Salamon, Justin and Sivic, Josef and Russell, Bryan},
  booktitle = {CVPR},
  year = {2023}
}"""
# By this line, with a checksum of all others, a card of this package is told from one that somebody wrote or changed.
GENERATED = "<!-- viml_hf wrote this card from the model's facts and renews it as long as nobody changes it: {} -->"
_IS_SEAL = re.compile(re.escape(GENERATED).replace(r"\{\}", r"(\{\}|[0-9a-f]{16})"))
PAPER = "[McKee et al., CVPR 2023](https://arxiv.org/abs/2306.09327)"
TOWERS = {"transformer": "Transformer", "mlp": "residual MLP", "linear": "linear stack"}
# Settings that are said in other words, or say nothing of the model.
UNSAID = ("clip_segments", "pool_size", "loader_workers")
QUERIES = {("video", "text"): "a video, a text, or both", ("video",): "a video", ("text",): "a text"}


def render_card(facts: CardFacts, tags: Iterable[str] = ()) -> str:
    """The whole text of a model card, its head in YAML included.

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
    sections = {
        "Use": _use(facts),
        "Results": _results(facts),
        "Training": _training(facts),
        "Architecture": _architecture(facts),
        "Encoders": _encoders(facts),
        "Intended use": intended_use(facts),
        "Limits": _bullets(limits(facts)),
        "Licence": _licence(facts),
        "Citation": f"```bibtex\n{CITATION}\n```",
    }
    parts = [f"---\n{card_data(facts, tags).to_yaml()}\n---", GENERATED, f"# {facts.name}", _summary(facts)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return seal("\n\n".join(parts) + "\n")


def seal(card: str) -> str:
    """The card with the checksum of its other lines in the line that says who wrote it.

    Example:
        >>> seal(f"{GENERATED}\\nText.") == seal(seal(f"{GENERATED}\\nText."))
        True
        >>> is_generated(seal(f"{GENERATED}\\nText.")), is_generated(seal(f"{GENERATED}\\nText.") + "More.")
        (True, False)
    """
    others = [line.rstrip() for line in card.splitlines() if not _IS_SEAL.fullmatch(line.rstrip())]
    checksum = hashlib.sha256("\n".join(others).strip().encode()).hexdigest()[:16]
    return "\n".join(GENERATED.format(checksum) if _IS_SEAL.fullmatch(line) else line for line in card.split("\n"))


def is_generated(card: str) -> bool:
    """Whether this package wrote a card, and nobody has changed it since."""
    unix = card.replace("\r\n", "\n")
    return any(_IS_SEAL.fullmatch(line) for line in unix.split("\n")) and seal(unix) == unix


def card_data(facts: CardFacts, more_tags: Iterable[str] = ()) -> ModelCardData:
    """The head of a card.

    `base_model` names the encoders that are on the Hub. Heads alone are to these as an adapter is: of no use without.
    For a whole model the relation is left to the Hub: none that it knows says that weights are held unchanged.

    Args:
        facts: Of the model.
        more_tags: Tags that do not follow from these.
    """
    base_models = list(dict.fromkeys(encoder.hub_id for encoder in facts.encoders.values() if encoder.hub_id))
    tags = ["viml", "music", "music-retrieval", "cross-modal-retrieval"]
    tags += [TASK_TYPE] * ("video" in facts.takes) + ["text-to-music-retrieval"] * ("text" in facts.takes)
    tags += [tag for tag in more_tags if tag not in tags]
    results = model_index(facts.results)
    known: dict[str, Any] = {
        "library_name": "transformers",
        **card_licence(facts),
        "language": list(facts.owner.language),
        "pipeline_tag": PIPELINE_TAG,
        "base_model": base_models,
        "base_model_relation": "adapter" if base_models and not facts.whole else None,
        "datasets": list(facts.owner.datasets),
        "tags": tags,
        "model_name": facts.name if results else None,
        "eval_results": results,
    }
    known = {name: value for name, value in known.items() if value}
    data = ModelCardData(**known)
    # In this order, whatever the order of the class.
    data.__dict__ = {name: data.__dict__[name] for name in known} | data.__dict__
    return data


def _summary(facts: CardFacts) -> str:
    query = QUERIES[tuple(facts.takes)]
    inside = "the heads alone, which take the base features of encoders that are not in this repo"
    if facts.whole:
        made = "frozen encoders" if facts.frozen else "encoders"
        inside = f"{made} of video, text and music with small heads over them, in one checkpoint"
    return (
        f"{facts.name} ranks a library of music for {query}, by the cosine similarity of embeddings. It is a ViML "
        f"model ({PAPER}): {inside}."
    )


def _use(facts: CardFacts) -> str:
    package = "the package `viml_hf`, which pip knows as `viml-hf`"
    needs = f"These need {package}."
    if facts.with_code:
        libraries = "transformers, torch and PyAV" if facts.whole else "transformers and torch"
        needs = (
            "`trust_remote_code=True` runs the code in this repo: look at it, and pin the commit that you have looked "
            f"at with `revision=`. It needs {libraries}. All else needs {package}."
        )
    files = " `clip.mp4` is a video, `my-music` a folder of music." if facts.whole else ""
    return "\n\n".join([needs + files, *map(str, usage_snippets(facts))])


def _results(facts: CardFacts) -> str:
    if not facts.results:
        return ""
    intro = (
        "Measured with `viml evaluate`: recalls in percent (higher is better) and median rank (lower is better) of "
        "each query's own music, in brackets the 95 % bootstrap interval over queries. Ties count against the model."
    )
    return "\n\n".join([intro, *map(_result, facts.results)])


def _result(result: dict[str, Any]) -> str:
    """Conditions and table of one result."""
    texts = ""
    if any("text" in query for query in result["rows"]):
        texts = f"texts {_code(result['texts'])} of `viml describe`" if result["texts"] else "texts of the data itself"
    place = _dataset(result["benchmark"]["id"]) if "benchmark" in result else _code(result["store"])
    rows = [["chance", *(f"{result['chance'][name]:.{decimals(name)}f}" for name in COLUMNS)]]
    for query, figures in result["rows"].items():
        rows.append([query, *(with_interval(name, figures[name]) for name in COLUMNS)])
    first, *others = conditions(result)
    said = [f"On {place}: {first}", *others, texts, *map(comparison_text, result["comparisons"])]
    return f"{_sentences(said)}\n\n{_table(['query', *COLUMNS], rows)}"


def _training(facts: CardFacts) -> str:
    training = facts.training or {}
    settings: dict[str, Any] = training.get("settings") or {}
    lines = []
    if data := facts.owner.data or training.get("data"):
        lines.append(f"Data: {data}")
    if facts.owner.datasets:
        lines.append("Datasets: " + ", ".join(_dataset(name) for name in facts.owner.datasets))
    if training.get("training_items"):
        lines.append(f"Items: {training['training_items']:,}")
    if "texts" in training and "text" in facts.takes:
        texts = training["texts"]
        lines.append(
            f"Texts: {_code(texts)}, written by `viml describe`" if texts else "Texts: those of the data itself"
        )
    if training.get("recipe"):
        lines.append(f"Recipe: {_code(training['recipe'])}")
    if "clip_segments" in settings:
        clip = settings["clip_segments"]
        seconds = f", {clip * SEGMENT_SECONDS:.0f} s" if clip and facts.whole else ""
        lines.append(f"Seen of a track: {f'up to {clip} rows of base features{seconds}' if clip else 'all of it'}")
    if settings:
        said = (f"{name} {value}" for name, value in settings.items() if name not in UNSAID and value is not None)
        lines.append("Settings: " + ", ".join(said))
    if facts.training is not None or lines:
        lines.append(f"Loss: {_loss(facts)}")
    metrics = {name: value for name, value in (training.get("metrics") or {}).items() if name in COLUMNS}
    held_out = training.get("evaluation_items")
    if metrics and held_out:
        figures = ", ".join(f"{name} {value:.{decimals(name)}f}" for name, value in metrics.items())
        pool = min(settings.get("pool_size") or held_out, held_out)
        asked = ", asked with the texts that it was trained on" if "text" in facts.takes else ""
        pools = f" in pools of {pool:,}" if "pool_size" in settings else ""
        lines.append(f"At its end, on {held_out:,} held-out items{pools}{asked}: {figures}")
    return _bullets(lines)


def _loss(facts: CardFacts) -> str:
    heads = facts.heads
    if heads.loss == "triplet":
        return f"triplet, margin {heads.triplet_margin}, over the {heads.triplet_num_hardest} hardest negatives"
    learned = "learned temperature" if heads.learned_temperature else f"temperature {heads.temperature}"
    textless = heads.textless_loss_weight if len(facts.takes) > 1 else 0
    return f"InfoNCE, {learned}" + (f", and the same without text, weight {textless}" if textless else "")


def _architecture(facts: CardFacts) -> str:
    heads = facts.heads
    towers = f"{TOWERS[heads.encoder]} towers of width {heads.hidden_size}, layers: "
    towers += ", ".join(f"{modality} {heads.num_tower_layers(modality)}" for modality in (*facts.takes, "audio"))
    lines = [towers]
    if len(facts.takes) > 1:
        depth = f" of {heads.num_fusion_layers} layers" if heads.fusion == "transformer" else ""
        lines.append(f"Video and text become one query by fusion: {heads.fusion}{depth}")
    lines.append(f"Embeddings of {heads.projection_dim} numbers, normalised to length 1")
    counts = [*facts.parameters.items(), ("all", sum(facts.parameters.values()))]
    table = _table(["part", "parameters"], [[part, f"{count:,}"] for part, count in counts])
    return f"{_bullets(lines)}\n\n{table}"


def _encoders(facts: CardFacts) -> str:
    """A table of the encoders, without the columns of which nothing is known."""
    if facts.whole:
        intro = "Inside, and kept frozen." if facts.frozen else "Inside, and open to training."
    elif any(encoder.name for encoder in facts.encoders.values()):
        intro = "Not inside: this model takes base features of these encoders and of no others."
    else:
        intro = "Not inside: this model takes base features of the encoders that it was trained with, of these widths."
    cells = {modality: _encoder_cells(encoder) for modality, encoder in facts.encoders.items()}
    columns = [name for name in _encoder_cells(EncoderFacts(0)) if any(row[name] for row in cells.values())]
    rows = [[modality, *(row[name] or "–" for name in columns)] for modality, row in cells.items()]
    warnings = [
        f"**The {modality} encoder is under {encoder.licence}: neither it nor features made with it may be used "
        "commercially.**"
        for modality, encoder in facts.encoders.items()
        if encoder.non_commercial
    ]
    return "\n\n".join([intro, _table(["modality", *columns], rows), *warnings])


def _encoder_cells(encoder: EncoderFacts) -> dict[str, str]:
    name = encoder.name and _code(encoder.name)
    if encoder.hub_id:
        name = f"[{encoder.hub_id}](https://huggingface.co/{encoder.hub_id})"
    return {
        "encoder": name or "",
        "type": _code(encoder.model_type) if encoder.model_type else "",
        "revision": _code(encoder.revision) if encoder.revision else "",
        "licence": encoder.licence or "",
        "width": str(encoder.width) if encoder.width else "",
    }


def _licence(facts: CardFacts) -> str:
    stated = card_licence(facts)
    said = []
    if facts.owner.licence:
        said.append(f"This model is under {facts.owner.licence}, as its owner states")
    elif stated.get("license") == OWN_LICENCE:
        said.append(f"This model is under {OWN_LICENCE}")
    elif stated:
        said.append("No single licence covers this model: its use is bound by the licences of its encoders")
    if any(encoder.licence and not encoder.is_descriptors for encoder in facts.encoders.values()):
        said.append("Each encoder keeps the licence of its own, see above")
    unknown = [modality for modality, encoder in facts.encoders.items() if facts.whole and not encoder.licence]
    if unknown:
        said.append(
            f"No licence of the {' and '.join(unknown)} encoder is at hand: look it up before you use the model"
        )
    return _sentences(said)


def _dataset(hub_id: str) -> str:
    return f"[{hub_id}](https://huggingface.co/datasets/{hub_id})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {' '.join(line.split()).rstrip('.')}." for line in lines)


def _sentences(parts: Iterable[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:].rstrip('.')}." for part in parts if part)


def _code(text: str) -> str:
    """A name in the type of code, whatever characters it has."""
    return f"`{' '.join(str(text).replace('`', ' ').replace('|', ' ').split())}`"
