"""Names of encoders, where the encoder of a name lies, and errors while it is loaded."""

from pathlib import Path

import pytest

from viml_hf.modeling.encoder_names import (
    EncoderName,
    encoder_source,
    loading,
    locate_encoder,
    parse_encoder_name,
    pinned_name,
    revision_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("descriptors", EncoderName("descriptors")),
        ("clip", EncoderName("clip", "openai/clip-vit-base-patch32")),
        ("clap", EncoderName("clap", "laion/clap-htsat-unfused")),
        ("clip:a/b", EncoderName("clip", "a/b")),
        ("clip:a/b@v1.2", EncoderName("clip", "a/b", "v1.2")),
        ("a/b", EncoderName("auto", "a/b")),
        ("a/b@main", EncoderName("auto", "a/b", "main")),
        ("auto:a/b@main", EncoderName("auto", "a/b", "main")),
        ("a/b@main?prompt=query: ", EncoderName("auto", "a/b", "main", "query: ")),
        ("descriptors?prompt=a?prompt=b", EncoderName("descriptors", prompt="a?prompt=b")),
    ],
)
def test_names(text, expected):
    assert parse_encoder_name(text) == expected


@pytest.mark.parametrize("folder", ["model", "deep/er/model@home"])
@pytest.mark.parametrize("name", ["clip", "auto", None])
def test_folders_are_named_like_hub_ids(tmp_path, monkeypatch, folder, name):
    monkeypatch.chdir(tmp_path)
    for place in (Path(folder), tmp_path / folder):
        place.mkdir(parents=True, exist_ok=True)
        parsed = parse_encoder_name(f"{name}:{place}" if name else str(place))
        assert parsed == EncoderName(name or "auto", str(place))


@pytest.mark.parametrize("name", ["clop", "clip:", "a/b/c", "auto:", "deepsim", "descriptors:a/b", "a/b?promt=x"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="names no encoder: give `descriptors`, `clip`"):
        parse_encoder_name(name)


def test_published_features_name_no_encoder():
    with pytest.raises(ValueError, match=r"published without their encoder.*give a store"):
        parse_encoder_name("features:youtube8m-vggish-pca")


def test_a_prompt_has_a_text():
    with pytest.raises(ValueError, match="a prompt without a text: give one"):
        parse_encoder_name("a/b?prompt=")


def test_a_pinned_name_is_of_one_commit():
    assert pinned_name("clip:a/b@main?prompt=q: ", "1" * 40) == f"clip:a/b@{'1' * 40}?prompt=q: "
    assert pinned_name("clip:a/b@main", "1" * 40) == f"clip:a/b@{'1' * 40}"
    assert pinned_name("clip:a/b@main", None) == "clip:a/b@main"


def test_a_folder_is_known_by_its_own_name_only(tmp_path):
    assert encoder_source(f"clip:{tmp_path}") == {"name": tmp_path.name}
    assert encoder_source("descriptors") == {"name": "descriptors"}
    assert encoder_source(f"{tmp_path}?prompt=q: ") == {"name": tmp_path.name, "prompt": "q: "}
    assert encoder_source("a/b?prompt=q: ", local_files_only=True) == {"name": "auto:a/b", "prompt": "q: "}
    assert revision_of(str(tmp_path)) is None


def test_where_an_encoder_lies_and_how_its_parts_are_loaded(tmp_path):
    assert locate_encoder("clip:a/b", {"revision": "x"}) == ("a/b", {"revision": "x"})
    assert locate_encoder("clip:a/b@v1", {"revision": "x", "token": "t"}) == ("a/b", {"revision": "v1", "token": "t"})
    assert locate_encoder("descriptors", {"token": "t"}) == (None, {"token": "t"})
    assert locate_encoder("a/b", {"trust_remote_code": False}) == ("a/b", {})
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        locate_encoder("descriptors", {"trust_remote_code": True})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("one\ntwo"), r"\(one\): check the name and the network, or fetch it once with `hf download a/b"),
        (KeyError(), r"\(KeyError\): check the name"),
        (ImportError("no timm"), r"\(no timm\): install what is missing\."),
    ],
)
def test_errors_of_loading_are_one_line(error, line):
    with (
        pytest.raises(OSError, match=rf"^a/b@v1: its config cannot be loaded {line}") as caught,
        loading("a/b@v1", "config"),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
