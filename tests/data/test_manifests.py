import json
import time
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from viml_hf import ViMLError
from viml_hf.data import table_rows
from viml_hf.data.manifests import parse_row, parse_seconds
from viml_hf.data.sources import read_sources
from viml_hf.features.media_item import MediaItem


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path, *rows):
    """A manifest of the kind that the path's suffix names."""
    if path.suffix == ".parquet":
        every = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in every}), path)
        return path
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def ids(sources):
    return [item.id for item in sources.items]


def lines_of(sources, path):
    """The lines that the problems name."""
    return [problem.removeprefix(f"{path} ").split(":")[0] for problem in sources.problems]


# Files of all kinds

ROWS = [
    {"file_name": "a b.mp4", "text": "calm, “slow” piano\nand more", "start": 1.5, "end": 65, "license": "CC0"},
    {"file_name": "ü/映.flac", "id": "second", "texts": ["one", "two"], "split": "test"},
]
ITEMS = [
    MediaItem(
        "a b.mp4",
        "{0}/a b.mp4",
        "{0}/a b.mp4",
        ("calm, “slow” piano\nand more",),
        start=1.5,
        end=65.0,
        fields={"licence": "CC0"},
    ),
    MediaItem("second", None, "{0}/ü/映.flac", ("one", "two"), fields={"split": "test"}),
]
CSV = (
    "file_name,text,start,end,license,id,texts,split\n"
    'a b.mp4,"calm, “slow” piano\nand more",1.5,1:05,CC0,,,\n'
    "\n"
    'ü/映.flac,,,,,second,"[""one"", ""two""]",test\n'
    ",,,,,,,\n"
)
MANIFESTS = {
    "m.csv": CSV.encode(),
    "bom.csv": CSV.encode("utf-8-sig"),
    "crlf.csv": CSV.replace("\n", "\r\n").replace("piano\r\n", "piano\n").encode(),
    "m.tsv": CSV.replace(",", "\t").replace("calm\t", "calm,").replace('""\t', '"",').encode(),
    "m.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    "m.ndjson": "\r\n\r\n".join(map(json.dumps, ROWS)).encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", [*MANIFESTS, "m.parquet"])
def test_every_kind_of_manifest_gives_the_same_items(tmp_path, name):
    path = tmp_path / name
    write(path, MANIFESTS[name]) if name in MANIFESTS else write_rows(path, *ROWS)
    found = read_sources([path])
    assert found.problems == ()
    expected = [
        replace(item, video=item.video and item.video.format(tmp_path), audio=item.audio.format(tmp_path))
        for item in ITEMS
    ]
    assert list(found.items) == expected


def test_nan_and_null_are_missing_in_parquet(tmp_path):
    nan = float("nan")
    rows = [
        {"path": "a.mp4", "id": None, "start": nan, "end": nan, "text": None, "texts": None, "tempo": nan, "n": 1},
        {"path": "b.mp4", "id": "b", "start": 1.0, "end": 2.0, "text": "x", "texts": ["y", None], "tempo": 9.0, "n": 2},
    ]
    first, second = read_sources([write_rows(tmp_path / "m.parquet", *rows)]).items
    assert (first.id, first.start, first.end, first.texts, first.fields) == ("a.mp4", None, None, (), {"n": 1})
    assert (second.start, second.end, second.texts, second.fields) == (1.0, 2.0, ("x", "y"), {"tempo": 9.0, "n": 2})


def test_columns_of_bytes_are_left_out(tmp_path, caplog):
    rows = [{"path": "a.mp4", "image": {"bytes": b"\xff", "path": "x"}, "raw": b"\xff", "binary": {"is": True}}]
    (item,) = read_sources([write_rows(tmp_path / "m.parquet", *rows)]).items
    assert item.fields == {"binary": {"is": True}}
    assert "image" in caplog.text
    assert "raw" in caplog.text


@pytest.mark.parametrize("columns", [{"path": ["a.mp4"] * 500_000}, {"path": ["a.mp4"], "texts": [["calm"] * 500_000]}])
def test_a_parquet_file_of_copies_is_refused_before_it_is_unpacked(tmp_path, columns, monkeypatch):
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(ViMLError, match=r"m\.parquet: .* 500,000 values in a column, in [\d,]+ bytes"):
        read_sources(tmp_path / "m.parquet")


def test_a_parquet_file_is_read_in_batches(tmp_path, monkeypatch):
    rows = [{"path": "a.mp4", "start": second, "end": "" if second == 3 else str(second + 1)} for second in range(5)]
    path = write_rows(tmp_path / "m.parquet", *rows, {"path": None})
    whole = read_sources(path)
    assert ids(whole)[-2:] == ["a.mp4#3-", "a.mp4#4-5"]
    assert lines_of(whole, path) == ["row 6"]
    monkeypatch.setattr(table_rows, "BATCH_ROWS", 2)
    assert read_sources(path) == whole


def test_a_parquet_file_with_a_damaged_batch_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    table = pa.table({"path": [f"{number}.mp4" for number in range(2000)]})
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    second = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[second : second + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ViMLError, match=r"m\.parquet: cannot be read as Parquet \(.*\); write it again$"):
        read_sources(path)


def test_a_parquet_file_is_read_as_it_is_wherever_it_lies(tmp_path):
    folder = tmp_path / "split=test"
    folder.mkdir()
    (item,) = read_sources([write_rows(folder / "m.parquet", {"path": "a.mp4"})]).items
    assert item.fields == {}


def test_a_generated_corpus_is_read_by_its_manifest(tmp_path):
    row = {"id": "00000", "video": "videos/00000.mp4", "music": "music/00000.m4a", "text": "pop", "tags": {"genre": []}}
    (item,) = read_sources([write_rows(tmp_path / "manifest.jsonl", row)]).items
    files = (str(tmp_path / "videos/00000.mp4"), str(tmp_path / "music/00000.m4a"))
    assert item == MediaItem("00000", *files, ("pop",), fields={"tags": {"genre": []}})


# Ids


def test_excerpts_of_one_file_get_ids_of_their_own(tmp_path):
    path = write(tmp_path / "m.csv", "path,start,end\na.mp4,0,10.25\na.mp4,1:30,\na.mp4,,20\na.mp4,,\nb.mp4,1,2\n")
    assert ids(read_sources([path])) == ["a.mp4#0-10.25", "a.mp4#90-", "a.mp4#0-20", "a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("content", "kept", "line", "first"),
    [
        ("path,start\na.mp4,1\na.mp4,2\na.mp4,1.0\n", ["a.mp4#1-", "a.mp4#2-"], 4, 2),
        ("path,id\na.mp4,\nb.mp4,a.mp4\n", ["a.mp4"], 3, 2),
    ],
)
def test_an_id_that_is_taken_is_a_problem_that_names_both_lines(tmp_path, content, kept, line, first):
    path = write(tmp_path / "m.csv", content)
    found = read_sources([path])
    assert ids(found) == kept
    (problem,) = found.problems
    assert problem.startswith(f"{path} line {line}: id='{kept[0]}': taken by {path} line {first}; ")


# Bad rows


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "pop"}, "no media file; give its path"),
        ({"path": ["a.mp4"]}, r"path=\['a.mp4'\]: not a path; give"),
        ({"path": "a\0.mp4"}, r"path='a\\x00.mp4': not a path; give"),
        ({"path": "a\ud800.mp4"}, r"path='a\\ud800.mp4': not a path; give"),
        ({"path": "a.mp3", "audio": "b.mp3"}, "audio='b.mp3': 'a.mp3' is music already; give"),
        ({"path": "a.mp4", "start": -1}, "start=-1: negative; give"),
        ({"path": "a.mp4", "start": True}, "start=True: not a time"),
        ({"path": "a.mp4", "end": 0}, "end=0: not after start=0; give"),
        ({"path": "a.mp4", "text": 1984}, "text=1984: not a text; give"),
        ({"path": "a.mp4", "texts": "calm piano"}, "texts='calm piano': not a list of texts; give"),
        ({"path": "a.mp4", "texts": ["pop", 3]}, r"texts=\['pop', 3\]: not a list of texts; give"),
        ({"path": "a.mp4", "id": {"a": 1}}, "id={'a': 1}: not a name; give"),
    ],
)
def test_a_bad_row_is_refused_with_its_value_and_the_fix(row, problem):
    with pytest.raises(ViMLError, match=f"^{problem}"):
        parse_row(row)


def test_bad_lines_are_problems_and_the_others_items(tmp_path):
    content = 'path,start|a.mp4,|b.mp4,abc|c.mp4,1,2|d.mp4,"1"2|e.mp4|,1|"f|g.mp4",|h.mp4,"|i'
    path = write(tmp_path / "m.csv", content.replace("|", "\n"))
    found = read_sources([path])
    assert ids(found) == ["a.mp4", "e.mp4", "f\ng.mp4"]
    assert lines_of(found, path) == ["line 3", "line 4", "line 5", "line 7", "lines 10-11"]
    assert found.problems[0].endswith("start='abc': not a time; give seconds (12.5), mm:ss or hh:mm:ss")


def test_bad_json_lines_are_problems(tmp_path):
    lines = ['{"path": "a.mp4"}', '{"path": ', "", "[1]", "[" * 100_000, '{"path": "b\u2028c.mp4"}']
    path = write(tmp_path / "m.jsonl", "\n".join(lines))
    found = read_sources([path])
    assert ids(found) == ["a.mp4", "b\u2028c.mp4"]
    assert lines_of(found, path) == ["line 2", "line 4", "line 5"]
    assert all("one object a line" in problem and len(problem) < 400 for problem in found.problems)


def test_line_ends_inside_quotes_are_kept_and_counted(tmp_path):
    path = write(tmp_path / "m.csv", 'path,text,start\r\na.mp4,"one\r\ntwo",\r\nb.mp4,,x\r\n')
    found = read_sources([path])
    assert found.items[0].texts == ("one\r\ntwo",)
    assert found.problems[0].startswith(f"{path} line 4: start='x'")


# Cells


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("12.5", 12.5), (12, 12), (" 7 ", 7), ("1:05.5", 65.5), ("90:00", 5400), ("1:02:03", 3723), ("1e-3", 0.001)],
)
def test_times(value, seconds):
    assert parse_seconds(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "abc", "1:60", "1:60:00", "1:2:3:4", "-1:30", "1.5:00", "nan", "²:00", "9" * 400 + ":00:00", []]
)
def test_what_is_no_time(value):
    with pytest.raises(ViMLError, match=r"not a time|negative"):
        parse_seconds(value)


def test_the_sound_may_be_another_file_and_paths_absolute(tmp_path):
    item = parse_row({"video": "../v.mp4", "audio": "/m/a.mp4"}, "list")
    assert (item.id, item.video, item.audio) == ("../v.mp4", "list/../v.mp4", "/m/a.mp4")
    alone = parse_row({"audio": "v.mp4"}, "list")
    assert (alone.id, alone.video, alone.audio) == ("v.mp4", None, "list/v.mp4")


def test_of_several_paths_the_first_column_counts_and_the_others_are_kept():
    item = parse_row({"path": "there.mp4", "file_name": "here.mp4"})
    assert (item.video, item.fields) == ("here.mp4", {"path": "there.mp4"})


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"license": "CC0"}, {"licence": "CC0"}),
        ({"licence": "CC-BY", "license": "CC0"}, {"licence": "CC-BY"}),
        ({"licence": "", "license": "CC0"}, {"licence": "CC0"}),
        ({"split": "", "n": 0, "ok": False, "": "x"}, {"n": 0, "ok": False}),
        ({"tags": [{"genre": "pop"}], "day": date(2023, 6, 1)}, {"tags": [{"genre": "pop"}], "day": "2023-06-01"}),
        ({"odd": "\ud83d", "odder": ["\ud83d"]}, {"odd": "\\ud83d", "odder": ["?"]}),
    ],
)
def test_other_columns_are_kept(row, fields):
    item = parse_row({"path": "a.mp4", **row})
    assert item.fields == fields
    assert json.dumps(item.fields, ensure_ascii=False).encode()


def test_texts_are_taken_once_and_empty_ones_not_at_all_and_numbers_are_ids():
    item = parse_row({"path": "a.mp4", "id": 7, "text": "b", "texts": '["a", "", "b"]'})
    assert (item.id, item.texts) == ("7", ("b", "a"))
    assert parse_row({"path": "a.mp4", "text": " ", "texts": []}).texts == ()


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "", "no row; give"),
        ("m.csv", "path,text\n", "no row; give"),
        ("m.csv", "file;text\na.mp4;pop\n", "its columns are ..file;text.., of which none names a media file; call"),
        ("m.jsonl", '{"file": "a.mp4"}', "its columns are ..file.., of which none"),
        ("m.csv", "path,path\na.mp4,b.mp4\n", "column 'path' is there 2 times"),
        ("m.csv", '"path\na.mp4', "column names cannot be read"),
        ("m.csv", "path,text\na.mp4,caf\xe9\n".encode("latin-1"), "line 2: not UTF-8"),
        ("m.parquet", "PAR1", "cannot be read as Parquet"),
        ("m.jsonl", "[\n{}\n]", "its columns are|no item to extract"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    with pytest.raises(ViMLError, match=message) as caught:
        read_sources([write(tmp_path / name, content)])
    assert "\n" not in str(caught.value)


def test_a_long_manifest_is_read_in_time(tmp_path):
    # Several times what it takes; a check of every row against every other one would take minutes.
    lines = [
        f'clips/{index // 2}.mp4,"calm, {index}",{index % 2 * 10},{index % 2 * 10 + 10},CC0' for index in range(20_000)
    ]
    path = write(tmp_path / "m.csv", "path,text,start,end,license\n" + "\n".join(lines))
    start = time.process_time()
    assert len(read_sources([path]).items) == 20_000
    assert time.process_time() - start < 4


def test_fields_that_cannot_be_kept_are_refused_before_any_work():
    with pytest.raises(ViMLError, match=r"licence=5: not a text; give its name, such as CC0"):
        parse_row({"file_name": "a.mp4", "license": 5})
    deep = []
    for _ in range(600):
        deep = [deep]
    with pytest.raises(ViMLError, match="nested deeper than 50 levels"):
        parse_row({"file_name": "a.mp4", "more": deep})
    assert parse_row({"file_name": "a.mp4", "more": [[[1]]]}).fields == {"more": [[[1]]]}


def test_a_name_is_found_however_its_letters_are_coded(tmp_path):
    (tmp_path / "cafe\u0301.mp4").touch()
    item = parse_row({"file_name": "caf\u00e9.mp4"}, str(tmp_path))
    assert item.video == str(tmp_path / "cafe\u0301.mp4")
    assert parse_row({"file_name": "th\u00e9.mp4"}, str(tmp_path)).video == str(tmp_path / "th\u00e9.mp4")
