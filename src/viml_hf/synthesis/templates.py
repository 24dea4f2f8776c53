"""Sentences that tell the tags of one category, with a gap for the tags.

`{tags}` stands for "sad", "sad and slow" or "sad, slow and dark"; `{a_tags}` has "a" or "an" before them, `{each}`
before each of them that needs it ("a piano, brass and strings"); `{is}` is "is" for one tag that is no plural, else
"are". `{Tags}` and `{Each}` start a sentence.

The words around the gap hold no spelling of the package's vocabulary, and no denial. The paper's (PAPER section 2) are
the first genre, the first three moods and the first two instruments.
"""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "genre": (
        "This is {tags} music.",
        "This is {a_tags} track.",
        "The genre is {tags}.",
        "Here is {a_tags} tune.",
        "The style of the piece is {tags}.",
        "{Tags} music is playing.",
        "You are listening to {a_tags} piece.",
    ),
    "mood": (
        "The music gives {a_tags} vibe.",
        "This song is {tags}.",
        "The feeling is {tags}.",
        "The mood is {tags}.",
        "It sounds {tags}.",
        "It has {a_tags} character.",
        "The overall impression is {tags}.",
        "It sets {a_tags} atmosphere.",
        "{Tags} is how it feels.",
    ),
    "instrument": (
        "The soundtrack has {tags}.",
        "The instrumentation includes {tags}.",
        "It features {each}.",
        "You can hear {each}.",
        "The arrangement is built on {each}.",
        "{Each} {is} at the centre of the recording.",
        "{Each} {is} in the mix.",
        "The sound comes from {each}.",
    ),
}
