"""What `examples/train_on_media.py` starts from: a tiny model with its processor, and a manifest of pairs."""

import json

import torch
from safetensors.torch import load_file

from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import tiny_model, tiny_processor

TRAINED = {"viml", "video_encoder", "audio_encoder"}  # with the encoders that the arguments unfreeze


def write_pairs(folder, count=24):
    """The arguments of the script, for a model in `folder / "model"`: all but the number of epochs."""
    tiny_model("clap").save_pretrained(folder / "start")
    tiny_processor("clap").save_pretrained(folder / "start")
    rows = []
    for index in range(count):
        video = write_video(folder / f"{index}.mp4", 6, fps=6, size=(32, 32))
        audio = write_audio(folder / f"{index}.wav", sine(150 + 20 * index, 2, 8000), 8000)
        rows.append({"id": str(index), "video": str(video), "audio": str(audio), "text": f"text {index}"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = [folder / "pairs.jsonl", "--model", folder / "start", "-o", folder / "model"]
    return [*where, "--unfreeze", "video", "audio", "--epochs"]


def moved_parts(folder):
    """The parts of the trained model that have a weight which is another one than at the start."""
    start, trained = (load_file(folder / name / "model.safetensors") for name in ("start", "model"))
    return {name.partition(".")[0] for name, weights in trained.items() if not torch.equal(weights, start[name])}
