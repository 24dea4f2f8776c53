"""Publish a model to the Hub, load it back by its id, and fine-tune it from there.

    hf auth login
    python examples/hub_round_trip.py viml-demo/model OWNER/MODEL -o my-model [--private] [--pairs 8] [--epochs 2]

The model is one whose encoders are the descriptors, such as the demo's. What is fine-tuned lies in the output folder,
from where it can be published in turn.
"""

import argparse
import runpy
import sys
import tempfile
from pathlib import Path

from transformers import pipeline

from viml_hf import Recommender, build_index, find_music
from viml_hf.generated.corpus import generate_corpus
from viml_hf.hub.publishing import plan_publication, publish
from viml_hf.retrieval.model_loading import load_encoder_and_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a saved model with its processor")
    parser.add_argument("repo_id", metavar="OWNER/MODEL")
    parser.add_argument("-o", "--output", required=True, help="folder for the fine-tuned model")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--pairs", type=int, default=8, help="generated videos with music, to fine-tune on")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()

    # 1. Publish, in one commit. The card is written from what the folder tells of the model and its training.
    publication = plan_publication(options.model, options.repo_id)
    print("card:", publication.card.count("\n"), "lines; files:", ", ".join(publication.files))
    print("published:", publish(publication, private=options.private or None).commit_url)

    with tempfile.TemporaryDirectory() as folder:
        items = generate_corpus(folder, 3, duration=6, workers=1, progress=False)
        query = {"video": f"{folder}/{items[0].video}", "text": items[0].text}
        music = Path(folder) / "music"

        # 2. Load it back by its id: an index made of it names it, so a recommender needs nothing else.
        encoder = load_encoder_and_model(options.repo_id)
        build_index(find_music(music), encoder, model=options.repo_id, progress=False).save(f"{folder}/index")
        found = Recommender.from_pretrained(index=f"{folder}/index").recommend(**query, k=3)
        print("recommender:", [one.track for one in found])

        # 3. The same as a pipeline of transformers.
        recommend = pipeline("video-to-music", model=options.repo_id, music=str(music), top_k=3)
        print("pipeline:   ", [one["track"] for one in recommend(query)])

    # 4. Fine-tune it from the Hub.
    script = str(Path(__file__).with_name("finetune_with_trainer.py"))
    size = ["--pairs", str(options.pairs), "--epochs", str(options.epochs)]
    sys.argv = [script, "--model", options.repo_id, "-o", options.output, *size]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
