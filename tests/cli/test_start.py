"""How the command starts: quickly, and with what cannot be used refused before anything is loaded."""

import os
import subprocess
import sys
import time

import pytest

from viml_hf import MediaDecodeError, __version__
from viml_hf.processing.audio_decoding import load_audio

START = "import sys; from viml_command import main; sys.exit(main())"


def start(*arguments, **options):
    return subprocess.run([sys.executable, "-c", START, *arguments], capture_output=True, text=True, **options)


def test_help_and_version_load_no_library():
    modules = """
import sys
sys.argv[1:] = ["--help"]
from viml_command import main
try:
    main()
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert start("--version").stdout == f"viml {__version__}\n"


def test_a_misspelt_video_is_answered_at_once():
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        done = start("recommend", "nope.mp4", "--index", "x")
        seconds.append(time.perf_counter() - begin)
        assert done.returncode == 2
        assert done.stderr.startswith("viml: nope.mp4: cannot be read (No such file or directory); give the path")
        assert len(done.stderr.splitlines()) == 1
    assert min(seconds) < 0.3  # other work on the machine only adds


def test_after_the_command_the_package_registers_its_classes():
    code = """
import sys, viml_command
viml_command.parsing = True
import viml_hf
print("transformers" in sys.modules)
from viml_hf.registration import register_auto_classes
register_auto_classes()
from transformers import AutoConfig
print(AutoConfig.for_model("viml").model_type)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "viml"]


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(MediaDecodeError, match=r"pipe\.wav: cannot be read \(it is a pipe or a device, and no file\)"):
        load_audio(tmp_path / "pipe.wav", 8000)


def test_extracting_nothing_that_can_be_read_is_an_error(viml, tmp_path):
    (tmp_path / "list.csv").write_text("file_name\nno.mp4\nnone.mp4\n")
    status, _, errors = viml("extract", tmp_path / "list.csv", "-o", tmp_path / "store", "--quiet", "--workers", 1)
    assert status == 2
    assert errors[-1] == "viml: not one of 2 items could be read, see above; give files that are there"


def test_names_cannot_steer_the_terminal(viml, tmp_path, capsys):
    name = "esc\x1b[31m new\nline.mp4"
    (tmp_path / name).write_bytes(b"no video")
    status, _, errors = viml("recommend", tmp_path / name, "--index", tmp_path)
    assert status == 2
    assert "\x1b" not in "".join(errors)
    assert len(errors) == 1


def test_whoever_reads_a_ranking_may_stop_early(monkeypatch):
    from viml_hf.cli import main, verify

    def run(options):
        raise BrokenPipeError

    redirected = []
    monkeypatch.setattr(verify, "run", run)
    monkeypatch.setattr(main.os, "dup2", lambda *files: redirected.append(files))
    monkeypatch.setattr(main.sys.stdout, "fileno", lambda: 1, raising=False)
    assert main.main(["verify", "store"]) == 0
    assert len(redirected) == 1


def test_a_text_is_one_however_its_letters_are_coded():
    from viml_hf import ViMLProcessor

    composed, decomposed = "caf\u00e9", "cafe\u0301"
    inputs = ViMLProcessor.from_encoders()(text=[composed, decomposed])
    assert inputs["input_ids"][0].tolist() == inputs["input_ids"][1].tolist()
