"""The code in a model card: one snippet per way of use that the model knows. The tests run them."""

import re
from dataclasses import dataclass

from viml_hf.hub.card_facts import CardFacts

VIDEO, TEXT, MUSIC, INDEX = "clip.mp4", "slow piano, no vocals", "my-music", "my-index"
TRACKS = ("my-music/a.mp3", "my-music/b.mp3")
SEGMENTS, TRACK_COUNT = 3, 5
_TRUST = ", trust_remote_code=True"


@dataclass(frozen=True)
class Snippet:
    """Code for one way of use.

    Args:
        title: What it does, without a full stop.
        code: The code.
        language: `"python"` or `"bash"`.
    """

    title: str
    code: str
    language: str = "python"

    def __str__(self) -> str:
        """As Markdown."""
        return f"{self.title}:\n\n```{self.language}\n{self.code}```"


def usage_snippets(facts: CardFacts) -> list[Snippet]:
    """The snippets that apply to a model, the simplest first.

    Args:
        facts: Of the model.
    """
    if not facts.whole:
        found = [Snippet("On base features", _heads(facts, "from viml_hf import ViMLModel", "ViMLModel"))]
        if facts.with_code:
            imported = "from transformers import AutoModel"
            found.append(Snippet("The same without the package", _heads(facts, imported, "AutoModel", _TRUST)))
        return found
    found = [
        Snippet("Rank a folder of music", _pipeline(facts, 'import viml_hf  # registers "video-to-music"\n')),
        Snippet("Index a library once, and ask it often", _commands(facts), "bash"),
        Snippet("The same index in Python", _recommender(facts)),
        Snippet(
            "Embeddings and similarities", _model_and_processor(facts, "import viml_hf  # registers the classes\n")
        ),
        Snippet("The same with sentence-transformers", _sentence_transformer(facts)),
    ]
    if facts.with_code:
        found += [
            Snippet("Rank a folder of music without the package", _pipeline(facts, "", _TRUST)),
            Snippet("Embeddings without the package", _model_and_processor(facts, "", _TRUST)),
        ]
    return found


def snippets_of(card: str, language: str = "python") -> list[str]:
    """The code blocks of a card's text, in order. Those with `trust_remote_code=True` need no package.

    Args:
        card: The card's text.
        language: Of the blocks.

    Example:
        >>> snippets_of("Text.\\n\\n```python\\nprint(1)\\n```\\n")
        ['print(1)\\n']
    """
    return re.findall(rf"^```{language}\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)


def _pipeline(facts: CardFacts, first: str, trust: str = "") -> str:
    query = {
        ("video", "text"): f'{{"video": "{VIDEO}", "text": "{TEXT}"}}',
        ("video",): f'"{VIDEO}"',
        ("text",): f'"{TEXT}"',
    }[tuple(facts.takes)]
    return f"""{first}from transformers import pipeline

recommend = pipeline("video-to-music", model="{facts.repo_id}", music="{MUSIC}"{trust})
for found in recommend({query}, top_k=3):
    print(found["rank"], found["track"], round(found["score"], 2), found["start"], found["end"])
"""


def _commands(facts: CardFacts) -> str:
    video = f" {VIDEO}" if "video" in facts.takes else ""
    text = f' --text "{TEXT}"' if "text" in facts.takes else ""
    return f"""viml index {MUSIC} -o {INDEX} --model {facts.repo_id}
viml recommend{video}{text} --index {INDEX} -k 3
"""


def _recommender(facts: CardFacts) -> str:
    asked = [f'"{VIDEO}"'] * ("video" in facts.takes) + [f'text="{TEXT}"'] * ("text" in facts.takes)
    return f"""from viml_hf import Recommender

recommender = Recommender.from_pretrained("{facts.repo_id}", index="{INDEX}")
for found in recommender.recommend({", ".join(asked)}, k=3):
    print(found.rank, found.track, round(found.score, 2), found.start, found.end)
"""


def _model_and_processor(facts: CardFacts, first: str, trust: str = "") -> str:
    video = f'videos=["{VIDEO}"], ' if "video" in facts.takes else ""
    text = f'text=["{TEXT}"], ' if "text" in facts.takes else ""
    tracks = ", ".join(f'"{track}"' for track in TRACKS)
    return f"""import torch
{first}from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{facts.repo_id}"{trust})
processor = AutoProcessor.from_pretrained("{facts.repo_id}"{trust})
inputs = processor({video}{text}audio=[{tracks}])
with torch.inference_mode():
    output = model(**inputs)
print(output.query_embeds @ output.audio_embeds.T)  # cosine similarities, (1, {len(TRACKS)})
"""


def _sentence_transformer(facts: CardFacts) -> str:
    query = {
        ("video", "text"): f'{{"video": "{VIDEO}", "text": "{TEXT}"}}',
        ("video",): f'{{"video": "{VIDEO}"}}',
        ("text",): f'"{TEXT}"',
    }[tuple(facts.takes)]
    tracks = ", ".join(f'"{track}"' for track in TRACKS)
    return f"""import viml_hf  # registers the classes
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{facts.repo_id}")
print(model.similarity(model.encode_query([{query}]), model.encode_document([{tracks}])))
"""


def _heads(facts: CardFacts, imported: str, loader: str, trust: str = "") -> str:
    def random(modality: str, *shape: int) -> str:
        sizes = ", ".join(map(str, (*shape, facts.heads.base_feature_dim(modality))))
        return f"{modality} = torch.randn({sizes})  # base features (batch, rows, width): put yours here"

    lines = [random(modality, 1, SEGMENTS if modality == "video" else 1) for modality in facts.takes]
    lines.append(random("audio", TRACK_COUNT, SEGMENTS))
    assignments = "\n".join(lines)
    arguments = ", ".join(f"{modality}_features={modality}" for modality in (*facts.takes, "audio"))
    return f"""import torch
{imported}

model = {loader}.from_pretrained("{facts.repo_id}"{trust})
{assignments}
with torch.inference_mode():
    output = model({arguments})
print(output.logits_per_query.argsort(descending=True))  # the tracks, best first
"""
