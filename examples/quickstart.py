"""From raw media to a ranking, the transformers way: processor, model, index, recommender.

It needs no network and no trained model: a few videos with music are generated, and the heads have random weights, so
the ranking means nothing yet. `make demo` trains a model; `--model viml-demo/model` uses it here.

    python examples/quickstart.py [--pairs 6] [--model FOLDER_OR_HUB_ID]
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

from viml_hf import MediaEncoder, Recommender, ViMLForMusicRetrieval, ViMLProcessor, build_index, find_music
from viml_hf.generated.corpus import generate_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--model")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        items = generate_corpus(folder, options.pairs, duration=6, workers=1, progress=False)
        videos = [f"{folder}/{item.video}" for item in items]
        music = [f"{folder}/{item.music}" for item in items]

        # 1. A model and its processor. `from_encoders` also takes Hub ids: video="clip:openai/clip-vit-base-patch32".
        if options.model:
            model = AutoModel.from_pretrained(options.model)
            processor = AutoProcessor.from_pretrained(options.model)
        else:
            model = ViMLForMusicRetrieval.from_encoders(video="descriptors", text="descriptors", audio="descriptors")
            processor = ViMLProcessor.from_encoders(video="descriptors", text="descriptors", audio="descriptors")

        # 2. A batch: every video with its text against every piece of music. `None` is "no text".
        inputs = processor(videos=videos[:2], text=[items[0].text, None], audio=music)
        with torch.no_grad():
            output = model(**inputs)
        print("similarity of 2 queries and", len(music), "tracks:", tuple(output.logits_per_query.shape))

        # 3. The same for a library, one file at a time, whatever their length.
        encoder = MediaEncoder(model, processor)
        files = find_music(Path(folder) / "music")
        index = build_index(files, encoder, model=options.model or "untrained", progress=False)
        for found in Recommender(encoder, index).recommend(videos[0], text=items[0].text, k=3):
            print(f"{found.rank}. {found.track} {found.score:+.3f} ({found.start:.0f}–{found.end:.0f} s)")


if __name__ == "__main__":
    main()
