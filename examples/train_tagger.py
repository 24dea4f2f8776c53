"""Train a music tagger with `transformers.Trainer`: tagged tracks → DeepSim with a tag head → tags with confidences.

    python examples/train_tagger.py -o my-tagger [--tracks 320] [--epochs 10] [--small]

Replace `generated_tracks` by a list of your own files with their tags. Without a GPU the published network takes about
2 s a step on one core; `--small` trains one of a quarter of its width on a quarter of the pixels instead, as a start.
"""

import argparse
import tempfile

import torch

from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style, tags
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger import DeepSimTagger
from viml_hf.tagging.tagger_training import TaggedTrack, TaggerSettings, TrackWindows, make_tagger_trainer, new_tagger

SMALL_NETWORK = {"hidden_size": 64, "stem_channels": 32, "num_blocks": 4, "num_mel_bins": 64}
SMALL_EXTRACTOR = {"feature_size": 64, "hop_length": 1024, "window_frames": 65}


def generated_tracks(count: int) -> list[TaggedTrack]:
    """Waveforms here; paths of files, with tags of the vocabulary and perhaps a tempo, are as good."""
    styles = [draw_style(seed=0, index=index) for index in range(count)]
    return [TaggedTrack(str(i), synthesise(s, 6.0), tags(s), float(s.tempo)) for i, s in enumerate(styles)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--tracks", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()

    vocabulary = TagVocabulary.load()  # or TagVocabulary.load("my-vocabulary.json")
    extractor = DeepSimFeatureExtractor(**(SMALL_EXTRACTOR if options.small else {}))
    tracks = generated_tracks(options.tracks)
    held_out = max(2, len(tracks) // 5)
    train = TrackWindows(tracks[held_out:], vocabulary, extractor)
    test = TrackWindows(tracks[:held_out], vocabulary, extractor, training=False)
    # A run of few steps needs running statistics that forget sooner than the published ones.
    model = new_tagger(train, vocabulary, batch_norm_momentum=0.1, **(SMALL_NETWORK if options.small else {}))

    with tempfile.TemporaryDirectory() as checkpoints:
        settings = TaggerSettings(epochs=options.epochs)
        trainer = make_tagger_trainer(
            model, train, settings, checkpoints, eval_dataset=test, bf16=True, use_cpu=not torch.cuda.is_available()
        )
        trainer.train()
        metrics = trainer.evaluate()
    print({name: round(value, 3) for name, value in metrics.items() if "auroc" in name or "triplet" in name})

    tagger = DeepSimTagger(model.cpu(), extractor)
    tagger.save_pretrained(options.output)
    print("truth:", tracks[0].tags)
    print("found:", tagger.tag(tracks[0].audio, tracks[0].sampling_rate).kept())
    print("saved:", options.output)


if __name__ == "__main__":
    main()
