"""Seconds per minute of video and of music through a joint model, against transformers' processor and model on it.

The network is a PE-AV with random weights, of 100 million parameters or more. Its picture tower is a ViT of
transformers, since timm's needs torchvision. Both read the same files. transformers takes a minute in one piece,
we take segments.

    python benchmarks/joint_models.py [--folder FOLDER] [--repeats 3] [--dtype auto]
"""

import argparse
import statistics
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from clips import make_clip
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    PeAudioFeatureExtractor,
    PeAudioVideoConfig,
    PeAudioVideoModel,
    PeVideoEncoderConfig,
    ViTConfig,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.video_utils import load_video

from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.encoders.encoder_info import resolve_dtypes
from viml_hf.modeling.encoder_families import tower_config
from viml_hf.modeling.frozen_encoders import build_encoder
from viml_hf.processing.audio_decoding import iter_audio

RATE, SIDE = 48_000, 224


def config() -> PeAudioVideoConfig:
    """About the sizes of the small PE-AV."""
    PeVideoEncoderConfig.sub_configs_defaults = {"vision_config": SubConfigSpec(AutoConfig, model_type="vit")}
    tower = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 12}
    tower |= {"head_dim": 64}
    vision = ViTConfig(image_size=SIDE, patch_size=32, num_labels=768)
    codec = {"model_type": "dac", "sampling_rate": RATE, "downsampling_ratios": [2, 8, 10, 12]}
    codec |= {"encoder_hidden_size": 32, "hidden_size": 512, "codebook_dim": 128}
    both = {
        **tower,
        "video_config": {**tower, "model_type": "pe_video_encoder", "vision_config": vision},
        "audio_config": {**tower, "model_type": "pe_audio_encoder", "dac_config": codec},
    }
    text = {"model_type": "modernbert", "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 6}
    return PeAudioVideoConfig(text_config=text | {"num_attention_heads": 12}, audio_video_config=both)


def ours(model: PeAudioVideoModel, dtype: str) -> MediaEncoder:
    """The same weights in ViML's path."""
    towers = {}
    parts = {
        "video": (model.video_model.video_encoder, model.video_model.video_head),
        "text": (model.text_model, model.audio_model.text_audio_head),
        "audio": (model.audio_model.audio_encoder, model.audio_model.audio_head),
    }
    for modality, (encoder, head) in parts.items():
        towers[modality] = build_encoder(tower_config(modality, model.config, "pe_av")).eval()
        towers[modality].encoder.load_state_dict(encoder.state_dict())
        towers[modality].head.load_state_dict(head.state_dict())
    plain = ViMLProcessor.from_encoders()
    whole = ViMLForMusicRetrieval.from_encoders(
        **towers,
        tokenizer=plain.tokenizer,
        encoder="identity",
        fusion="late",
    )
    whole.config.encoder_dtypes = resolve_dtypes(dtype, towers)
    whole.cast_encoders()
    return MediaEncoder(whole, ViMLProcessor(image_processor(), PeAudioFeatureExtractor(), plain.tokenizer))


def image_processor() -> CLIPImageProcessorPil:
    """What PE-AV's video processor does to a frame."""
    return CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False, resample=2)


@torch.inference_mode()
def reference_video(model: PeAudioVideoModel, path: Path) -> np.ndarray:
    """The usual way: the video as an array, the image processor, the model on it in one piece."""
    frames, _ = load_video(str(path), fps=6, backend="pyav")
    pixels = image_processor()(list(frames), return_tensors="pt")["pixel_values"]
    part = model.video_model  # whose own `get_video_embeds` is missing in transformers 5.23
    return part.video_head(part.video_encoder(pixels[None]).pooler_output)[0].numpy()


@torch.inference_mode()
def reference_audio(model: PeAudioVideoModel, path: Path) -> np.ndarray:
    """The same for sound."""
    samples = np.concatenate(list(iter_audio(str(path), RATE)))
    inputs = PeAudioFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt")
    return model.get_audio_embeds(inputs["input_values"], inputs["padding_mask"])[0].numpy()


def make_music(folder: Path) -> Path:
    """A minute of noise, made once per folder."""
    path = folder / "noise-60s.wav"
    if not path.exists():
        samples = np.random.default_rng(0).integers(-8000, 8000, 60 * RATE, dtype=np.int16)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "viml-bench")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: as a user has it"
    )
    options = parser.parse_args()
    video = make_clip(options.folder, "h264", "720p", seconds=60)
    music = make_music(options.folder)
    torch.manual_seed(0)
    model = PeAudioVideoModel(config()).eval()
    encoder = ours(model, options.dtype)
    runs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "video": (lambda: reference_video(model, video), lambda: encoder.encode_video(str(video))),
        "music": (lambda: reference_audio(model, music), lambda: encoder.encode_audio(str(music))),
    }
    print(f"{model.num_parameters() / 1e6:.0f} M parameters, ours in {encoder.dtypes}")
    print(f"torch threads: reference {torch.get_num_threads()}, ours {encoder.threads} × 1")
    for name, pair in runs.items():
        seconds: list[list[float]] = [[], []]
        for _ in range(options.repeats):
            for run, measured in zip(pair, seconds, strict=True):
                begin = time.perf_counter()
                run()
                measured.append(time.perf_counter() - begin)
        theirs, own = (statistics.median(measured) for measured in seconds)
        print(f"{name}: transformers {theirs:.2f} s per minute, ours {own:.2f}, ratio {own / theirs:.2f}")


if __name__ == "__main__":
    main()
