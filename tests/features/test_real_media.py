from viml_hf import Store, extract, read_sources

PARTLY = {"hard_cases/h264_10bits.mp4", "hard_cases/h265_10bits.mp4"}  # pictures alone


def test_every_real_file_is_decoded_or_says_why_not(shared_media, tmp_path):
    items = read_sources(shared_media).items
    store: Store = extract(items, tmp_path, workers=1, progress=False)
    assert len(store.items) == len(items) >= 24
    for item in store.items:
        assert item.has_features, item.error
        assert (item.error is None) == (item.id not in PARTLY), item.error
        assert item.error is None or item.error.endswith(
            "no audio stream; give a music file, or a video with sound [stage: audio]"
        )
        for modality in ("video", "audio"):
            if len(getattr(item, modality)):
                assert item.fields[f"{modality}_coverage"] > 0.9
    found = {item.id: item for item in store.items}
    assert len(found["hard_cases/video_with_failing_audio.mp4"].video) == 1
    assert len(found["music/Kevin_MacLeod_-_Vibe_Ace.ogg"].video) == 0  # its cover is no video
