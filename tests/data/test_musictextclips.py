import pytest

from tests.media import sine, write_video
from viml_hf import ViMLError, read_sources
from viml_hf.data.musictextclips import clip_around, files_by_id, is_musictextclips
from viml_hf.features.extraction import extract

HEADER = "video_id,start,end,text\n"


@pytest.fixture
def write(tmp_path):
    """Write a CSV and empty files of these names beside it."""

    def write(content, *names, name="test.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for other in names:
            (tmp_path / other).touch()
        return path

    return write


def test_the_thirty_seconds_around_the_ten_are_taken_and_never_before_the_file():
    assert clip_around(110, 120) == (100, 130)
    assert clip_around(10, 20) == clip_around(0, 10) == (0, 30)


def test_rows_become_clips_of_the_videos_at_hand(write, tmp_path):
    path = write(HEADER + '-a_1,110,120,"Slow, sad blues."\nb,0:05,0:15,Fast rock.\n', "-a_1.mp4", "b.webm")
    first, second = read_sources(path).items
    assert (first.id, first.start, first.end, first.texts) == ("-a_1", 100.0, 130.0, ("Slow, sad blues.",))
    assert first.video == first.audio == str(tmp_path / "-a_1.mp4")
    expected = {"split": "test", "described": [110.0, 120.0], "text_licence": "Adobe Research, non-commercial"}
    assert first.fields == expected
    assert (second.id, second.start, second.end) == ("b", 0.0, 30.0)


def test_missing_videos_are_named_and_counted(write, tmp_path, caplog):
    path = write(HEADER + "a,0,10,x\nb,0,10,y\nc,0,10,z\n", "b.mp4")
    found = read_sources(path)
    assert [item.id for item in found.items] == ["b"]
    assert [problem.split("; ")[0] for problem in found.problems] == [
        f"{path} line 2: video_id='a': no file of that name",
        f"{path} line 4: video_id='c': no file of that name",
    ]
    assert f"{path}: of 3 clips 2 have no video at hand" in caplog.text


def test_the_videos_may_be_in_another_folder_and_below_it(write, tmp_path):
    media = tmp_path / "media"
    (media / "00").mkdir(parents=True)
    (media / "00" / "a.mp4").touch()
    path = write(HEADER + "a,0,10,x\n")
    assert read_sources(path, media=media).items[0].video == str(media / "00" / "a.mp4")
    with pytest.raises(ViMLError, match="nowhere: no such folder; give the one with the videos"):
        read_sources(path, media=tmp_path / "nowhere")
    with pytest.raises(ViMLError, match=r"media: it is for a CSV of YouTube8M-MusicTextClips only"):
        read_sources(media, media=media)


def test_of_several_files_with_one_name_the_video_is_taken():
    files = ["x/a.wav", "x/a.webm", "x/a.mp4", "b.mp3"]
    for order in (files, files[::-1]):
        assert files_by_id(order) == {"a": "x/a.mp4", "b": "b.mp3"}


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.csv", "train"), ("musictextclips_val-2.csv", "validation"), ("Test.csv", "test"), ("latest.csv", None)],
)
def test_the_split_is_in_the_name_of_the_file(write, name, split):
    path = write(HEADER + "a,0,10,x\n", "a.mp4", name=name)
    assert read_sources(path).items[0].fields.get("split") == split


def test_a_column_split_goes_before_the_name_and_other_columns_are_kept(write):
    path = write("split,video_id,start,end,text,mood\ntrain,a,0,10,x,calm\n,b,0,10,y,\n", "a.mp4", "b.mp4")
    first, second = read_sources(path).items
    assert (first.fields["split"], first.fields["mood"]) == ("train", "calm")
    assert second.fields["split"] == "test"
    assert "mood" not in second.fields


def test_several_clips_of_one_video_have_ids_of_their_own(write):
    path = write(HEADER + "a,0:10,0:20,x\na,50,60.5,y\na,50,60.5,z\n", "a.mp4")
    found = read_sources(path)
    assert [item.id for item in found.items] == ["a#10-20", "a#50-60.5"]
    assert "id='a#50-60.5': taken by" in found.problems[0]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("a,soon,10,x", "start='soon': not a time"),
        ("a,,10,x", "video_id='a': no start or no end"),
        ("a,0,10,slow, sad", "5 cells for 4 columns; put commas in quotes"),
        ("a,0,10", "3 cells for 4 columns"),
        (",0,10,x", "video_id='': no file of that name"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_are_read(write, row, cause):
    path = write(f"{HEADER}{row}\n\na,0,10,good\n", "a.mp4")
    found = read_sources(path)
    assert [item.texts for item in found.items] == [("good",)]
    assert found.problems[0].startswith(f"{path} line 2: ")
    assert cause in found.problems[0]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (HEADER, "no row"),
        (HEADER.encode() + b"a,0,10,\xff\n", "line 2: not UTF-8"),
        (HEADER + 'a,0,10,"never closed\n', "line 2: unexpected end of data"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(write, content, cause):
    with pytest.raises(ViMLError, match=cause) as error:
        read_sources(write(content, "a.mp4"))
    assert "\n" not in str(error.value)


def test_other_csvs_stay_manifests(write):
    assert is_musictextclips(str(write("\ufeffvideo_id,start,end,text\n")))
    assert not is_musictextclips(str(write("video_id,start,end,text,path\n")))
    assert not is_musictextclips(str(write("video,start,end,text\n")))
    assert not is_musictextclips(str(write(HEADER, name="test.tsv")))
    assert not is_musictextclips("nowhere.csv")


def test_clips_are_extracted_as_three_segments_and_a_shorter_video_as_a_whole(tmp_path, write):
    for name, seconds in (("long", 50), ("short", 24)):
        sound = sine(220, seconds, 8000)
        write_video(tmp_path / f"{name}.mp4", 6 * seconds, fps=6, audio=sound, sampling_rate=8000)
    path = write(HEADER + "long,20,30,Slow blues.\nshort,7,17,x\n")
    store = extract(read_sources(path).items, tmp_path / "store", workers=1, progress=False)
    clip, whole = store.items
    assert (len(clip.video), len(clip.audio), len(clip.text)) == (3, 3, 1)
    assert [clip.fields[name] for name in ("start", "end", "video_seconds", "split")] == [10.0, 40.0, 30.0, "test"]
    assert whole.error is None
    assert [whole.fields[name] for name in ("start", "video_seconds", "video_coverage")] == [0.0, 24.0, 1.0]
