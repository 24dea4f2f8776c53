"""How well the moment of a track is found: tracks of three generated pieces, one of which is a video's own.

    python benchmarks/moments.py DEMO [--seed 0] [--text]

DEMO is what `viml demo` left. For each held-out video there is a track of 90 s: three pieces of 30 s in random order,
of its own style and of those of two others. Printed are the mean intersection over union of the found stretch of 30 s
with the own piece, that of a stretch at random, and how many stretches begin within 50 ms of a beat of the generator.
"""

import argparse
import json
import tempfile
import wave
from pathlib import Path

import numpy as np

from viml_hf import Recommender, find_moments
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import Style

PIECE = 30.0  # seconds
RATE = 22050
WITHIN = 0.05  # seconds


def write_wave(path: Path, waveform: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((32767 * waveform).astype("<i2").tobytes())


def overlap(start: float, end: float, place: int) -> float:
    """Intersection over union of a stretch and the piece at a place."""
    low, high = PIECE * place, PIECE * (place + 1)
    shared = max(0.0, min(end, high) - max(start, low))
    return shared / (end - start + high - low - shared)


def from_beat(start: float, styles: list[Style]) -> float:
    """Seconds from a moment's beginning to the nearest beat of the piece that it begins in."""
    place = min(int((start + WITHIN) // PIECE), len(styles) - 1)
    beat = 60 / styles[place].tempo
    return abs((start - PIECE * place + beat / 2) % beat - beat / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the pieces")
    parser.add_argument("--text", action="store_true", help="ask with the video's text, too")
    options = parser.parse_args()

    recommender = Recommender.from_pretrained(options.demo / "model", index=options.demo / "index")
    corpus = options.demo / "corpus"
    items = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    items = [item for item in items if Path(item["music"]).name in recommender.index.names]
    styles = [Style(**{**item["style"], "instruments": tuple(item["style"]["instruments"])}) for item in items]
    generator = np.random.default_rng(options.seed)
    found, by_chance, on_beat = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, item in enumerate(items):
            place = int(generator.integers(3))
            others = generator.choice([n for n in range(len(items)) if n != number], 2, replace=False).tolist()
            order = [styles[n] for n in [*others[:place], number, *others[place:]]]
            track = Path(folder, "track.wav")
            write_wave(track, np.concatenate([synthesise(style, PIECE, RATE) for style in order]))
            query = recommender.embed_query(corpus / item["video"], item["text"] if options.text else None)
            (moment,) = find_moments(recommender.encoder, track, query, PIECE)
            found.append(overlap(moment.start, moment.end, place))
            start = float(generator.uniform(0, 2 * PIECE))
            by_chance.append(overlap(start, start + PIECE, place))
            on_beat.append(from_beat(moment.start, order) <= WITHIN)
    print(
        f"{len(items)} tracks: intersection over union {np.mean(found):.2f}, at random {np.mean(by_chance):.2f}; "
        f"on a beat {np.mean(on_beat):.1%}"
    )


if __name__ == "__main__":
    main()
