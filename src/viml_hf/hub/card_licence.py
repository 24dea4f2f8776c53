"""The licence in the head of a model card."""

import re

from viml_hf.encoders.encoder_info import OWN_LICENCE
from viml_hf.hub.card_facts import CardFacts, EncoderFacts

# Licences that let the heads be under another one, as the Hub spells them.
PERMISSIVE = {
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib"),
    *("cc0-1.0", "unlicense"),
}


def card_licence(facts: CardFacts) -> dict[str, str]:
    """`license`, and where it is none that the Hub lists, `license_name` and `license_link`.

    The owner's word holds. Without it, a model whose encoders are all under permissive licences is under that of this
    package. Where an encoder's licence asks for more, the model as a whole cannot ask for less: that is `other`, with
    the name of the strictest such licence and a link to the encoder's own card; it is not the model's licence plainly,
    since it covers the encoder and not the heads. Where a licence is unknown and no other decides, none is stated.

    Args:
        facts: Of the model.

    Returns:
        Fields of `ModelCardData`.
    """
    if facts.owner.licence:
        return {"license": facts.owner.licence}
    restrictive = restrictive_encoders(facts)
    if restrictive:
        strictest = restrictive[0]
        found = {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", str(strictest.licence).lower())}
        return found | ({"license_link": f"https://huggingface.co/{strictest.hub_id}"} if strictest.hub_id else {})
    known = facts.encoders and all(encoder.licence for encoder in facts.encoders.values())
    return {"license": OWN_LICENCE} if known else {}


def restrictive_encoders(facts: CardFacts) -> list[EncoderFacts]:
    """The encoders whose licence is known and not permissive, those that forbid commercial use first."""
    found = [e for e in facts.encoders.values() if e.licence and e.licence.lower() not in PERMISSIVE]
    return sorted(found, key=lambda encoder: (not encoder.non_commercial, str(encoder.licence)))
