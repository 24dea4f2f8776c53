"""A tiny sentence-transformers model with random weights that embeds texts, sound and videos in one space."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sentence_transformers.base.modules
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn

WIDTH, RATE = 16, 8000
PROMPTS = {"query": "task: find | ", "document": "title: none | "}


class ThreeSenses(InputModule):
    """Linear maps of the letters of a text, of the spectrum of a sound, and of the colours and the rate of a video.

    The prompt counts for all three, as in chat models of several modalities.
    """

    config_keys = ("width",)
    sampling_rate = RATE
    __module__ = "sentence_transformers.base.modules"  # classes from elsewhere are code that is never run

    def __init__(self, width: int = WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.width = width
        self.letters, self.spectrum, self.colours = nn.Linear(256, width), nn.Linear(128, width), nn.Linear(4, width)
        nn.init.normal_(self.colours.weight, std=2.0)
        nn.init.normal_(self.spectrum.weight, std=0.5)

    @property
    def modalities(self) -> list[Any]:
        return ["text", "audio", "video"]

    def preprocess(self, inputs: Any, prompt: str | None = None, task: str | None = None, **kwargs: Any) -> dict:
        return {"rows": [(self._numbers(one), _letters(prompt or "")) for one in inputs]}

    def _numbers(self, one: Any) -> tuple[str, Tensor]:
        if isinstance(one, str):
            return "letters", _letters(one)
        if "sampling_rate" in one:
            assert one["sampling_rate"] == RATE
            power = torch.fft.rfft(torch.as_tensor(one["array"])).abs()
            bands = torch.nn.functional.adaptive_avg_pool1d(power[None], 128)[0]
            return "spectrum", bands / bands.mean()
        frames, times = one["array"], one["video_metadata"]
        assert frames.dtype == torch.uint8
        assert len(frames) == times["total_num_frames"] == len(times["frames_indices"])
        return "colours", torch.cat([frames.float().mean((0, 2, 3)) / 255, torch.tensor([times["fps"] / 6])])

    def forward(self, features: dict, **kwargs: Any) -> dict:
        rows = [getattr(self, name)(row) + self.letters(prompt) for (name, row), prompt in features["rows"]]
        features["sentence_embedding"] = torch.stack(rows)
        return features

    def get_embedding_dimension(self) -> int:
        return self.width

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "ThreeSenses":
        place = {"model_name_or_path": model_name_or_path, "subfolder": subfolder}
        place |= {name: kwargs.get(name) for name in ("token", "cache_folder", "revision", "local_files_only")}
        return cls.load_torch_weights(**place, model=cls(**cls.load_config(**place)))


def _letters(text: str) -> Tensor:
    return torch.bincount(torch.tensor(list(text.encode()), dtype=torch.long), minlength=256).float()


@contextmanager
def known() -> Iterator[None]:
    """Sentence-transformers has a module of this kind, as it may have one day."""
    sentence_transformers.base.modules.ThreeSenses = ThreeSenses
    yield
    del sentence_transformers.base.modules.ThreeSenses


def make(folder: Path, prompts: dict[str, str] | None = None) -> SentenceTransformer:
    """Save one, and return it."""
    model = SentenceTransformer(modules=[ThreeSenses()], prompts=prompts or PROMPTS, device="cpu").eval()
    model.save_pretrained(str(folder), create_model_card=False)
    return model
