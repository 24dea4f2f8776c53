"""A saved model as a model of mteb: `mteb.evaluate(ViMLForMTEB("viml-demo/model"), tasks)`."""

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from viml_hf.adapters.samples import embed_sample
from viml_hf.encoders.media_encoder import MediaEncoder, best_device
from viml_hf.errors import ViMLError
from viml_hf.evaluation import CITATION
from viml_hf.hub.sentence_transformers_files import taken_modalities
from viml_hf.processing.inputs import read_sample
from viml_hf.retrieval.model_loading import fingerprint, load_encoder_and_model

try:
    from datasets import Audio, Dataset, Video
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError(f"This needs mteb ({error}): pip install viml-hf[mteb]") from error

UNBOUNDED = 10**9  # a tokenizer without a limit names a larger number


class ViMLForMTEB(AbsEncoder):
    """A ViML model behind mteb's `EncoderProtocol`.

    It takes the columns text, video and audio as a task's category says for each side: `vt2a` ranks music for videos
    with texts, and any other pairing of text, video and audio works as well, but for audio together with something
    else in one input. Embeddings are those of [`embed_sample`], one input at a time.

    Media columns are read undecoded, by this package, so that the file's own sampling rate and times count, whatever
    rate the column's `Audio` feature states; columns of dicts with `"array"` and `"sampling_rate"` are taken with that
    rate. mteb's collators would decode with torchcodec, resample to one rate and hand over frames without their times:
    that is what a `SentenceTransformer` gets from mteb, so evaluate this object instead. (A model that mteb itself
    loads, by its `mteb_model_meta`, makes it ask for torchaudio and torchcodec, which this one does not use.)

    Args:
        model_name: A folder made by `viml train` or `save_pretrained`, or a Hub id.
        revision: Of the Hub repo.
        device: Where to compute; by default a GPU where there is one.
        kwargs: Passed to `from_pretrained` (`local_files_only`, `token`, …).

    Raises:
        ViMLError: There is no such model, or it is not a `ViMLForMusicRetrieval`.

    Example:
        >>> import mteb  # doctest: +SKIP
        >>> mteb.evaluate(ViMLForMTEB("viml-demo/model"), mteb.get_tasks(tasks=["…"]))  # doctest: +SKIP
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: str | None = None, **kwargs: Any):
        name = str(model_name)
        device = device or best_device()
        self._encoder = load_encoder_and_model(name, device=device, revision=revision or "main", **kwargs)
        self.model = self._encoder.model
        # mteb keeps results by name and revision: a checksum keeps those of other weights apart.
        self.mteb_model_meta = _meta(name, revision or fingerprint(self._encoder)[:40], self._encoder)

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed a side of a task: `(rows, dim)` float32, L2-normalised, in the order of the rows.

        Batches and collator of `inputs`, the split, the subset and `batch_size` have no effect.

        Raises:
            ViMLError: The side has nothing that this model takes, or another precision than float32 is asked for.
        """
        if (precision := kwargs.get("precision")) not in (None, "float32"):
            raise ViMLError(f"precision={precision!r}: these embeddings are float32; leave it out")
        side = task_metadata.get_modalities(prompt_type)
        known = taken_modalities(self.model.config.viml_config)
        taken = [name for name in side if name in known]
        if not taken:
            raise ViMLError(
                f"{task_metadata.name}: a side of {' and '.join(side)}, but this model takes {', '.join(known)}; "
                "choose another task"
            )
        rows = _undecoded(inputs.dataset)
        progress = tqdm(rows, desc="embed", unit="row", disable=not kwargs.get("show_progress_bar", True))
        samples = (read_sample({name: row[name] for name in taken if row[name] is not None}) for row in progress)
        return np.stack([embed_sample(self._encoder, sample) for sample in samples])


def _undecoded(rows: Any) -> Any:
    """A dataset whose media columns give the bytes or the path of their files."""
    if isinstance(rows, Dataset):
        for name, feature in rows.features.items():
            if isinstance(feature, Audio | Video):
                rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def _meta(name: str, revision: str, encoder: MediaEncoder) -> ModelMeta:
    """What is known of the model; `model.mteb_model_meta.model_copy(update={…})` adds what its owner knows."""
    model, on_hub = encoder.model, not Path(name).is_dir()
    limit = encoder.processor.tokenizer.model_max_length
    loader: Any = ViMLForMTEB if on_hub else None  # it gets the name, which does not say where a folder is
    unknown: dict[str, Any] = dict.fromkeys(("release_date", "languages", "license", "training_datasets"))
    unknown |= dict.fromkeys(("public_training_code", "public_training_data"))
    return ModelMeta(
        **unknown,
        loader=loader,
        name=name if on_hub else f"local/{Path(name).resolve().name}",
        revision=revision,
        n_parameters=model.num_parameters(),
        memory_usage_mb=model.get_memory_footprint() / 2**20,
        max_tokens=limit if limit < UNBOUNDED else None,
        embed_dim=model.config.viml_config.projection_dim,
        open_weights=True if on_hub else None,
        framework=["PyTorch", "Transformers", "safetensors"],
        reference=f"https://huggingface.co/{name}" if on_hub else None,
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        modalities=[*taken_modalities(model.config.viml_config)],
        citation=CITATION,
    )
