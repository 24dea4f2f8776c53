"""What a model is for and what it cannot do, as far as the facts tell."""

from viml_hf.hub.card_facts import CardFacts

# What the descriptors of each modality measure, and so what they miss.
DESCRIPTOR_LIMITS = {
    "video": "The video encoder measures colours, edges, motion and cuts; it does not see what a picture shows",
    "text": "The text encoder compares spellings: a synonym is another word to it",
    "audio": "The audio encoder measures timbre, harmony, tempo and onsets; it knows no instruments or voices as such",
}
PAPER_ITEMS = 100_000


def intended_use(facts: CardFacts) -> str:
    """What the model is for.

    Args:
        facts: Of the model.
    """
    asked = {("video", "text"): "a video, guided by a text if one is given", ("video",): "a video", ("text",): "a text"}
    said = [
        f"Finding music for {asked[tuple(facts.takes)]}: the model orders a library that you have, as suggestions to "
        "somebody who listens and chooses.",
        "It makes no music, it recognises neither tracks nor people, and its order says nothing of the right to use a "
        "track.",
    ]
    if not facts.whole:
        said.append(
            "It takes base features of the encoders that it was trained with; others of the same width give noise."
        )
    if bound := [modality for modality, encoder in facts.encoders.items() if encoder.non_commercial]:
        said.append(f"It is not for commercial use, by the licence of its {' and '.join(bound)} encoder.")
    return " ".join(said)


def limits(facts: CardFacts) -> list[str]:
    """What the model cannot do, or was not shown, one sentence each without its full stop.

    Args:
        facts: Of the model.
    """
    found = [
        DESCRIPTOR_LIMITS[modality]
        for modality, encoder in facts.encoders.items()
        if encoder.is_descriptors and modality in (*facts.takes, "audio")
    ]
    found += [f"It takes no {other}" for other in ("video", "text") if other not in facts.takes]
    found += _training_limits(facts)
    if facts.heads.encoder == "transformer":
        found.append(f"A sequence has up to {facts.heads.max_position_embeddings} rows of base features")
    if not facts.results:
        found.append("No result of `viml evaluate` is kept with this model")
    found.append("Similarities order the tracks of one library for one query; they are no probabilities")
    return found


def _training_limits(facts: CardFacts) -> list[str]:
    """What follows from how it was trained, where that is known."""
    if facts.training is None:
        return []
    settings = facts.training.get("settings") or {}
    items = facts.training.get("training_items")
    found = []
    if items and items < PAPER_ITEMS:
        found.append(
            f"It has learned from {items:,} items, where the paper's models have seen about {PAPER_ITEMS:,} videos"
        )
    if len(facts.takes) > 1:
        if settings.get("text_dropout") == 0 and not facts.heads.textless_loss_weight:
            found.append("Texts were never dropped in training: a video alone may rank badly")
        if settings.get("video_dropout") == 0:
            found.append("Videos were never dropped in training: a text alone may rank badly")
    return found
