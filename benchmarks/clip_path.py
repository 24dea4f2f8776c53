"""Wall time from a video file to CLIP ViT-B/32 features, against transformers' `load_video`, `CLIPImageProcessor` and a
float32 forward pass. Random weights of the true size; both may use all cores.

    python benchmarks/clip_path.py [--folder FOLDER] [--repeats 3]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from clips import make_clip
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.video_utils import load_video

from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.encoders.encoder_info import computes_bfloat16

BATCH = 64


def clip_vit_b32() -> CLIPVisionModelWithProjection:
    """The network of openai/clip-vit-base-patch32 with random weights."""
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=32, projection_dim=512)).eval()


def media_encoder(dtype: str) -> MediaEncoder:
    """ViML's own path: streaming, preprocessing in torch, encoding in as many threads as cores."""
    model = ViMLForMusicRetrieval.from_encoders(video=clip_vit_b32(), encoder_dtypes={"video": dtype})
    plain = ViMLProcessor.from_encoders()
    return MediaEncoder(model, ViMLProcessor(CLIPImageProcessorPil(), plain.feature_extractor, plain.tokenizer))


@torch.inference_mode()
def reference(path: Path, model: CLIPVisionModelWithProjection, image_processor: CLIPImageProcessorPil) -> np.ndarray:
    """The usual way: the video as an array, the image processor, batches through the model, means over 10 s."""
    frames, _ = load_video(str(path), fps=6, backend="pyav")
    pixels = image_processor(list(frames), return_tensors="pt")["pixel_values"]
    embeds = torch.cat([model(pixels[i : i + BATCH]).image_embeds for i in range(0, len(pixels), BATCH)])
    return torch.stack([part.mean(0) for part in embeds.split(60)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "viml-bench")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    path = make_clip(options.folder, "h264", "720p")
    model, image_processor = clip_vit_b32(), CLIPImageProcessorPil()
    encoders = {dtype: media_encoder(dtype) for dtype in ("float32", "bfloat16")}
    runs: dict[str, Callable[[], object]] = {"reference": lambda: reference(path, model, image_processor)}
    runs |= {dtype: lambda encoder=encoder: encoder.encode_video(path) for dtype, encoder in encoders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{path.name}; torch threads: reference {torch.get_num_threads()}, ours {encoders['float32'].threads} × 1")
    print(f"bfloat16 instructions: {computes_bfloat16()}")
    for name, value in median.items():
        print(f"{name:10s} {value:6.2f} s   {value / median['reference']:.2f} of the reference")


if __name__ == "__main__":
    main()
