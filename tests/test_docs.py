"""README and docs: links lead somewhere, commands parse, snippets run and print what they say.

The figures of the README's demo are those of the full demo; the small one here prints others in the same form.
"""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import demo  # noqa: F401 (a fixture)
from tests.media import sine, write_audio, write_video
from viml_hf.cli.main import make_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RESULTS.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "space" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")


def each(pattern: str) -> list:
    """Every match of a pattern on any page, as a test's parameter with its page."""
    return [
        pytest.param(page, found, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, found in enumerate(re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_paths_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in links if target and not (page.parent / target).exists()]
    paths = re.findall(r"`((?:src|examples|benchmarks|tests|docs)/[\w/.-]*)`", text)
    assert missing + [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_of_docs_is_in_the_readmes_table():
    assert set(re.findall(r"\]\((docs/\w+\.md)\)", README)) == {
        f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")
    }


def test_the_readme_is_short():
    assert len(README.split()) <= 1400


@pytest.mark.parametrize(("page", "line"), each(r"^(viml (?:.*\\\n)*.*)$"))
def test_every_command_parses(page, line):
    words = shlex.split(line.replace("\\\n", " ").replace("[--json]", "--json"), comments=True)
    make_parser().parse_args(words[1:])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        target for page in PAGES for target in re.findall(r"`?make ([a-z][a-z-]+)\b", page.read_text(encoding="utf-8"))
    }
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    assert {target for target in named if f"make {target}" in README or "-" in target} <= targets
    assert {"demo", "test", "bench"} <= named & targets


@pytest.fixture(scope="module")
def folder(tmp_path_factory, demo):  # noqa: F811
    """A folder with the files that the snippets name; `viml-demo` is the small demo."""
    folder = tmp_path_factory.mktemp("docs")
    write_video(folder / "clip.mp4", 30)
    for name in ("a.mp3", "b.mp3"):
        write_audio(folder / name, sine(440, 2, 22050), 22050, codec="libmp3lame")
    (folder / "viml-demo").symlink_to(demo)
    return folder


@pytest.mark.parametrize(("page", "code"), each(r"^```python\n((?:(?!```).*\n)*)```"))
def test_snippets_run_and_print_what_they_say(page, code, folder, demo, monkeypatch, capsys):  # noqa: F811
    if "sentence_transformers" in code:
        pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
    monkeypatch.chdir(folder)
    # Without a network the descriptors take the place of encoders on the Hub; the small demo has fewer videos.
    code = re.sub(r'"(clip(:[^"]*)?|MIT/[^"]*)"', '"descriptors"', code)
    code = code.replace("00299.mp4", sorted((demo / "corpus" / "videos").iterdir())[-1].name)
    variables: dict = {}
    exec(compile(code, page.name, "exec"), variables)
    printed = capsys.readouterr().out.splitlines()
    told = re.findall(r"^(print\()?(.*?)\)?  # (\(.*\)|[\d.]+)$", code, flags=re.MULTILINE)
    for call, expression, expected in told:
        value = eval(expression, variables)
        assert expected in (str(value), str(tuple(getattr(value, "shape", ())))), (expression, expected)
        assert printed or not call


def test_the_recommend_snippet_is_short_and_printed_in_its_form(folder, demo, monkeypatch, capsys):  # noqa: F811
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL).group(1)
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(folder)
    exec(
        compile(code.replace("00299.mp4", sorted((demo / "corpus" / "videos").iterdir())[-1].name), "README", "exec"),
        {},
    )
    told = re.search(r"k=3\):.*?```\n\n```\n(.*?)```", README, flags=re.DOTALL).group(1)
    form = re.compile(r"\d\. \d{5}\.m4a  -?0\.\d\d  0–20 s")
    for lines in (told.splitlines(), capsys.readouterr().out.splitlines()):
        assert len(lines) == 3
        assert all(form.fullmatch(line) for line in lines), lines
