"""How often tempo and key are right, and how far loudness is from FFmpeg's.

    python benchmarks/analysis.py [--tracks 200] [--media FOLDER]
    python benchmarks/analysis.py --cost FOLDER

Tempo and key on generated tracks, whose style states both, and on those of the package `immich-memories-music`, where
it is installed: its licence file states the tempo and key that each track was made with. Loudness and true peak on all
files of a folder, against FFmpeg's `ebur128` on the command line.

`--cost` measures what `viml index --analysis` adds to decoding and encoding, on one core and in CPU time, per file of a
folder. The encoder is the descriptors: with a larger one the share of the analysis is smaller.
"""

import argparse
import importlib.metadata
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from viml_hf import ViMLError
from viml_hf.analysis.beats import find_beats
from viml_hf.analysis.key import TONICS, find_key
from viml_hf.analysis.loudness import measure_levels
from viml_hf.analysis.spectra import SAMPLING_RATE
from viml_hf.encoders.encoder_settings import EncoderSettings
from viml_hf.features.media_item import MeasuredItem, MediaItem, extract_one
from viml_hf.generated.music import EXPRESSIONS, synthesise
from viml_hf.generated.styles import draw_style
from viml_hf.processing.audio_decoding import iter_channels, load_audio, sound_format
from viml_hf.processing.media_files import find_media_files

Truth = tuple[np.ndarray, float, str, str]  # waveform, beats per minute, tonic, mode


def generated(count: int) -> Iterable[Truth]:
    for index in range(count):
        style = draw_style(77, index)
        mode = "major" if 4 in EXPRESSIONS[style.mood].scale else "minor"
        yield synthesise(style, 30.0, SAMPLING_RATE), style.tempo, style.key, mode


def packaged() -> Iterable[Truth]:
    try:
        files = importlib.metadata.files("immich-memories-music") or []
    except importlib.metadata.PackageNotFoundError:
        return
    paths = {Path(str(file)).stem: file.locate() for file in files if str(file).endswith(".opus")}
    licence = next(file for file in files if file.name == "LICENSE-MUSIC").read_text()
    for name, tempo, tonic, mode in re.findall(r"(\S+)\.opus +(\d+) bpm +(\S+) (major|minor)", licence):
        tonic = {"Bb": "A#", "Eb": "D#", "Ab": "G#"}.get(tonic, tonic)
        yield load_audio(paths[name], SAMPLING_RATE), float(tempo), tonic, mode


def compare(name: str, tracks: Iterable[Truth]) -> None:
    results = []
    for waveform, tempo, tonic, mode in tracks:
        beats, key = find_beats(waveform), find_key(waveform)
        ratio = beats.tempo / tempo if beats else 0.0
        octaves = any(abs(ratio / factor - 1) <= 0.04 for factor in (1, 2, 1 / 2, 3, 1 / 3))
        place = TONICS.index(tonic)
        relative = (TONICS[(place + 9) % 12], "minor") if mode == "major" else (TONICS[(place + 3) % 12], "major")
        found = (key.tonic, key.mode) if key else None
        results.append((abs(ratio - 1) <= 0.04, octaves, found == (tonic, mode), found in ((tonic, mode), relative)))
    if results:
        tempo, octaves, exact, relative = np.mean(results, axis=0)
        print(
            f"{name}: {len(results)} tracks, tempo {tempo:.1%}, with octaves {octaves:.1%}, "
            f"key {exact:.1%}, with relatives {relative:.1%}"
        )


def compare_loudness(folder: Path) -> None:
    differences = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # Holes are silence, as they are to this package.
        command = ["ffmpeg", "-nostats", "-i", path, "-map", "0:a:0", "-af", "aresample=async=1,ebur128=peak=true"]
        told = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True).stderr
        try:
            rate, layout = sound_format(path)
            found = measure_levels(iter_channels(path, rate), rate, layout)
        except ViMLError:
            continue
        summary = told[told.rfind("Summary") :]
        loudness, peak = (re.search(pattern, summary) for pattern in (r"I: +(\S+) LUFS", r"Peak: +(\S+) dBFS"))
        if loudness and peak and np.isfinite(found.loudness):
            pair = abs(found.loudness - float(loudness[1])), abs(found.true_peak - float(peak[1]))
            differences.append(pair)
            print(f"  {path.name}: {found.loudness:.2f} LUFS, {pair[0]:.2f} from FFmpeg's; true peak {pair[1]:.2f}")
    if differences:
        worst = np.max(differences, axis=0)
        print(f"loudness of {len(differences)} files: at most {worst[0]:.2f} LU from FFmpeg's, peak {worst[1]:.2f} dB")


def compare_cost(folder: Path) -> None:
    torch.set_num_threads(1)
    encoder, seconds = EncoderSettings().load(threads=1), []
    for path in find_media_files(folder):
        pair = []
        for kind in (MediaItem, MeasuredItem):
            began = time.process_time()
            if extract_one(kind(path.name, audio=str(path)), encoder).error is None:
                pair.append(time.process_time() - began)
        if len(pair) == 2:
            seconds.append(pair)
    plain, measured = np.median(seconds, axis=0)
    ratio = np.median([both / alone for alone, both in seconds])
    print(f"{len(seconds)} files: {plain:.3f} s of CPU time each, {measured:.3f} s with analysis; ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=200, help="how many generated tracks")
    parser.add_argument("--media", type=Path, help="folder of media")
    parser.add_argument("--cost", type=Path, help="folder of music; only what the analysis costs is measured")
    options = parser.parse_args()
    if options.cost:
        return compare_cost(options.cost)
    compare("generated", generated(options.tracks))
    compare("immich-memories-music", packaged())
    if options.media:
        compare_loudness(options.media)


if __name__ == "__main__":
    main()
