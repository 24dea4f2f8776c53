"""The README's examples run, and what it names exists. The small demo's own numbers differ from the printed ones."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import demo  # noqa: F401 (a fixture)
from tests.media import sine, write_audio, write_video
from viml_hf.cli.main import make_parser
from viml_hf.modeling.encoder_names import parse_encoder_name

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_recommend_snippet(demo, capsys):  # noqa: F811
    video = sorted((demo / "corpus" / "videos").iterdir())[-1]
    code = PYTHON[0].replace("viml-demo/corpus/videos/00299.mp4", str(video)).replace("viml-demo", str(demo))
    assert len(PYTHON[0].splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    printed = re.search(r"k=3\):.*?```\n\n```\n(.*?)```", README, flags=re.DOTALL).group(1)
    form = re.compile(r"\d\. \d{5}\.m4a  -?0\.\d\d  0–20 s")
    for lines in (printed.splitlines(), capsys.readouterr().out.splitlines()):
        assert len(lines) == 3
        assert all(form.fullmatch(line) for line in lines), lines


@pytest.fixture
def media(tmp_path, monkeypatch):
    """The files that the snippets name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", 30)
    for name in ("a.mp3", "b.mp3"):
        write_audio(tmp_path / name, sine(440, 2, 22050), 22050, codec="libmp3lame")
    return tmp_path


def test_encoder_snippet_and_saving_with_code(media):
    names = re.search(r"names = (\{.*\})", PYTHON[1]).group(1)
    for name in eval(names).values():
        assert parse_encoder_name(name).hub_id
    variables = {}
    exec(compile(PYTHON[1].replace(names, "{}"), "README.md", "exec"), variables)
    assert variables["output"].logits_per_query.shape == (1, 2)
    exec(compile(PYTHON[2], "README.md", "exec"), variables)
    assert (media / "my-model" / "code" / "modeling_viml.py").exists()


def test_sentence_transformers_snippet(demo, media, capsys):  # noqa: F811
    pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
    variables = {}
    exec(compile(PYTHON[3].replace("viml-demo", str(demo)), "README.md", "exec"), variables)
    assert variables["queries"].shape == (1, 256)
    assert capsys.readouterr().out.count("0.") == 2


def test_every_path_exists():
    for path in re.findall(r"`((?:src|examples|benchmarks|tests)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("line", re.findall(r"^viml .*$", README, flags=re.MULTILINE))
def test_every_command_parses(line):
    words = re.findall(r'"[^"]*"|\S+', line.split("#")[0].replace("[--json]", "--json"))
    make_parser().parse_args([word.strip('"') for word in words[1:]])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
