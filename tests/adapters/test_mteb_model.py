import numpy as np
import pytest

from tests.adapters.conftest import noise, pictures
from tests.media import write_audio, write_video
from viml_hf import Recommender, ViMLError, build_index
from viml_hf.retrieval.model_loading import fingerprint

mteb = pytest.importorskip("mteb", reason="needs the extra mteb")
datasets = pytest.importorskip("datasets")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol  # noqa: E402
from mteb.types import PromptType  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from viml_hf.adapters.mteb_model import ViMLForMTEB  # noqa: E402

RATES = [8_000, 22_050, 44_100, 48_000, 16_000]
TEXTS = ["slow piano", "fast drums", "a choir", "electric guitar", "strings"]


def metadata(category: str, modalities: list[str]) -> TaskMetadata:
    return TaskMetadata(
        name="GeneratedRetrieval",
        description="Generated media.",
        reference=None,
        dataset={"path": "none/none", "revision": "0"},
        type="Any2AnyRetrieval",
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=("2026-01-01", "2026-01-02"),
        domains=["Music"],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


class GeneratedRetrieval(AbsTaskRetrieval):
    """Videos with texts → music, from files of many rates, as bytes in columns that would be decoded."""

    metadata = metadata("vt2a", ["video", "text", "audio"])

    def __init__(self, videos, music):
        super().__init__()
        self.media = videos, music

    def load_data(self, **kwargs):
        videos, music = self.media
        names = [f"q{i}" for i in range(len(videos))]
        queries = {"id": names, "text": TEXTS, "video": [{"bytes": v, "path": None} for v in videos]}
        corpus = {"id": [f"m{i}" for i in range(len(music))], "audio": [{"bytes": m, "path": None} for m in music]}
        self.dataset = {
            "default": {
                "test": {
                    "queries": datasets.Dataset.from_dict(queries).cast_column("video", datasets.Video()),
                    "corpus": datasets.Dataset.from_dict(corpus).cast_column("audio", datasets.Audio(16_000)),
                    "relevant_docs": {name: {f"m{i}": 1} for i, name in enumerate(names)},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Files: five short videos, and music of five rates, one track longer than 30 s."""
    folder = tmp_path_factory.mktemp("media")
    videos = [write_video(folder / f"q{i}.mp4", pictures(3, i), fps=6) for i in range(5)]
    music = [write_audio(folder / f"m{i}.wav", noise(41 if i == 4 else 4, r, i), r) for i, r in enumerate(RATES)]
    return videos, music


@pytest.fixture(scope="module")
def model(model_folder):
    return ViMLForMTEB(str(model_folder), device="cpu")


def encode(model, rows, category, modalities, side):
    loader = DataLoader(rows, batch_size=2)
    return model.encode(
        loader,
        task_metadata=metadata(category, modalities),
        hf_split="test",
        hf_subset="default",
        prompt_type=side,
        show_progress_bar=False,
    )


def test_a_generated_task_gives_the_scores_of_our_own_ranking(model, encoder, media):
    videos, music = media
    task = GeneratedRetrieval([v.read_bytes() for v in videos], [m.read_bytes() for m in music])
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    scores = result.task_results[0].scores["test"][0]

    recommender = Recommender(encoder, build_index(music, encoder, model="tiny", progress=False))
    queries = np.stack([recommender.embed_query(v, t) for v, t in zip(videos, TEXTS, strict=True)])
    rows, tracks = iter(recommender.index.embeddings), []
    for track in recommender.index.tracks:
        mean = np.stack([next(rows) for _ in track.windows]).mean(0)
        tracks.append(mean / np.linalg.norm(mean))
    cosine = queries @ np.stack(tracks).T
    ranks = (cosine > np.diag(cosine)[:, None]).sum(1) + 1
    assert len(set(ranks)) > 1  # else a constant would do
    assert scores["recall_at_1"] == pytest.approx(np.mean(ranks == 1), abs=1e-5)
    assert scores["recall_at_3"] == pytest.approx(np.mean(ranks <= 3), abs=1e-5)
    assert scores["mrr_at_10"] == pytest.approx(np.mean(1 / ranks), abs=1e-5)
    assert scores["ndcg_at_10"] == pytest.approx(np.mean(1 / np.log2(1 + ranks)), abs=1e-5)


@pytest.mark.parametrize("stated", [None, 16_000, 48_000])
def test_the_files_own_rate_counts_whatever_the_column_states(model, encoder, media, stated):
    sound = [{"bytes": file.read_bytes(), "path": None} for file in media[1][:3]]
    rows = datasets.Dataset.from_dict({"audio": sound}).cast_column("audio", datasets.Audio(stated))
    found = encode(model, rows, "vt2a", ["video", "text", "audio"], PromptType.document)
    recommender = Recommender(encoder, build_index(media[1][:3], encoder, model="tiny", progress=False))
    assert np.array_equal(found.astype(np.float16), recommender.index.embeddings)


def test_each_side_takes_its_modalities_in_order(model, encoder, media, recommender):
    videos, music = media
    rows = [
        {"video": str(v), "text": t, "audio": str(m), "id": "x"} for v, t, m in zip(videos, TEXTS, music, strict=True)
    ]
    everything = ["video", "text", "audio"]
    by_text = encode(model, rows, "t2a", everything, PromptType.query)
    assert np.array_equal(by_text, np.stack([recommender.embed_query(text=t) for t in TEXTS]))
    by_video = encode(model, rows, "v2a", everything, PromptType.query)
    assert np.array_equal(by_video, np.stack([recommender.embed_query(v) for v in videos]))
    by_both = encode(model, rows, "v2vt", everything, PromptType.document)
    assert np.array_equal(
        by_both, np.stack([recommender.embed_query(v, t) for v, t in zip(videos, TEXTS, strict=True)])
    )


def test_what_the_model_cannot_take_is_refused(model):
    with pytest.raises(ViMLError, match="takes text, video, audio"):
        encode(model, [{"image": 0}], "i2a", ["image", "audio"], PromptType.query)
    with pytest.raises(ViMLError, match="Music with video"):
        encode(model, [{"audio": "a", "video": "b"}], "va2t", ["video", "audio", "text"], PromptType.query)
    with pytest.raises(ViMLError, match="float32"):
        model.encode(
            DataLoader([]),
            task_metadata=metadata("t2a", ["text", "audio"]),
            hf_split="test",
            hf_subset="default",
            precision="int8",
        )


def test_the_facts_are_those_of_the_model(model, encoder):
    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert meta.n_parameters == sum(p.numel() for p in encoder.model.parameters())
    assert meta.embed_dim == 16
    assert set(meta.modalities) == {"text", "video", "audio"}
    assert meta.name == "local/tiny"
    assert meta.license is None
    assert meta.training_datasets is None
    assert meta.revision == fingerprint(encoder)[:40]
