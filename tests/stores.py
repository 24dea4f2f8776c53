"""Small stores of random features."""

import numpy as np

from viml_hf import Store, StoreSpec, StoreWriter

WIDTHS = {"video": 6, "audio": 5, "text": 4}


def write_store(folder, count=40, *, shard_items=16, seed=0):
    """A store in which the music follows from video and text: something can be learned."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((10, 5))
    spec = StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS)
    with StoreWriter(folder, spec, np.full(4, 0.5), shard_items=shard_items) as writer:
        for index in range(count):
            video, text = generator.standard_normal((4 + index % 5, 6)), generator.standard_normal((1 + index % 2, 4))
            sound = np.concatenate([video.mean(0), text[0]]) @ mixing
            audio = sound + 0.1 * generator.standard_normal((3 + index % 7, 5))
            split = "train" if index % 4 else "test"
            texts = [f"text {n}" for n in range(len(text))]
            writer.add(f"item-{index:03d}", video=video, audio=audio, text=text, texts=texts, split=split)
    return Store(folder)
