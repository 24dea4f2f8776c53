"""Peak memory of encoding a long video and a long mix, with an image encoder of the size of CLIP ViT-B/32.

    python benchmarks/long_files.py [--hours 2] [--dtype bfloat16]

Every ten minutes of media the highest memory so far is printed: it must not grow after the first line.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_path import media_encoder
from clips import make_clip, make_music, repeat

from viml_hf import MediaEncoder


def peak() -> float:
    """The highest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def watched(segments: Any) -> Iterator[Any]:
    """The segments, with a line every ten minutes."""
    for segment in segments:
        yield segment
        if round(segment.end) % 600 == 0:
            print(f"  {segment.end / 60:4.0f} min   peak {peak():.3f} GB", flush=True)


def watch(encoder: MediaEncoder, name: str) -> None:
    original = getattr(encoder.processor, name)
    setattr(encoder.processor, name, lambda *given, **options: watched(original(*given, **options)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "viml-bench")
    parser.add_argument("--hours", type=float, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    video = repeat(make_clip(options.folder, "h264", "720p"), round(options.hours * 180))
    music = repeat(make_music(options.folder), round(options.hours * 60))
    encoder = media_encoder(options.dtype)
    watch(encoder, "video_segments")
    watch(encoder, "audio_segments")
    print(f"{options.dtype}, {encoder.threads} encoding threads; before the first file: {peak():.3f} GB")
    for path, encode in ((video, encoder.encode_video), (music, encoder.encode_audio)):
        begin = time.perf_counter()
        features = encode(path)
        print(
            f"{path.name}: {features.duration / 3600:.3f} h, {len(features.rows)} rows, coverage {features.coverage}, "
        )
        print(
            f"  {features.duration / (time.perf_counter() - begin):.1f} × real time, peak {peak():.3f} GB", flush=True
        )


if __name__ == "__main__":
    main()
