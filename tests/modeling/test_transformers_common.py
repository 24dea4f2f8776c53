"""transformers' own common tests of models, configs and processors, run by a script beside the repository."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY.parent / "shared" / "tools" / "hf_common_suite.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.is_file(), reason="no script ../shared/tools/hf_common_suite.py beside it"),
]


def run_suite(*words):
    command = [sys.executable, str(SCRIPT), "--path", "src", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [
        ["--spec", "tests/modeling/hf_common_spec.py"],
        ["--no-model", "--processor", "ViMLProcessor", "--spec", "tests/processing/hf_common_spec.py"],
    ],
    ids=["model", "processor"],
)
def test_nothing_fails(words):
    done = run_suite(*words)
    assert " 0 failed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.returncode == 0
