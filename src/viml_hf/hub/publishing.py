"""Publishing a saved model: what goes to the Hub, on which terms, and in one commit."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo
from transformers import AutoModel, AutoProcessor

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.hub.card_facts import TRAINING_FILE, CardFacts, OwnerFacts, gather_facts
from viml_hf.hub.code import CODE_FOLDER, add_code
from viml_hf.hub.evaluation_results import EVAL_RESULTS_FOLDER, EVALUATION_FILE, benchmark_files
from viml_hf.hub.model_card import render_card
from viml_hf.hub.sentence_transformers_files import save_for_sentence_transformers
from viml_hf.hub.uploading import CARD_FILE, check_repo_id, commit_files
from viml_hf.modeling.configuration_viml import ViMLForMusicRetrievalConfig

# Of a model's folder: configs, tokenizers, weights. Whatever else lies there, such as checkpoints, stays.
PUBLISHED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
# What an earlier publication may have left in the repo and this one would not renew.
STALE = (f"{CODE_FOLDER}/", f"{EVAL_RESULTS_FOLDER}/", "model.safetensors", "model-")
FACTS = (TRAINING_FILE, EVALUATION_FILE)


@dataclass(frozen=True, eq=False)
class Publication:
    """What `publish` uploads.

    Args:
        repo_id: `OWNER/NAME`.
        files: By path in the repo: a file of the model's folder, or the content of one that was made here.
        left_out: Names of what else lies in the model's folder.
        facts: What the card is written from.
    """

    repo_id: str
    files: dict[str, Path | bytes]
    left_out: list[str]
    facts: CardFacts

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    @property
    def card(self) -> str:
        """The model card."""
        content = self.files[CARD_FILE]
        return content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")

    @property
    def non_commercial(self) -> list[str]:
        """The encoders inside that may not be used commercially, with their licences."""
        found = self.facts.encoders.items() if self.facts.whole else ()
        return [f"{modality} ({e.name or e.model_type}: {e.licence})" for modality, e in found if e.non_commercial]


def plan_publication(
    folder: str | Path,
    repo_id: str,
    *,
    with_code: bool = False,
    owner: OwnerFacts | None = None,
    local_files_only: bool = False,
) -> Publication:
    """Decide what would be uploaded, without uploading it.

    The model is loaded, so that a damaged one is not published. A `README.md` of the user's own in the model's folder
    is taken as the card. Paths of this machine are left out of what training and evaluation noted.

    Args:
        folder: A saved model, with its processor where it has one.
        repo_id: `OWNER/NAME`.
        with_code: Bring the code, so that the model loads where this package is not installed.
        owner: What only the owner of the model can say: licence, datasets, languages.
        local_files_only: Do not look for the licences of encoders on the Hub.

    Raises:
        ViMLError: The folder holds no whole model, its results are of other weights, or the name is none.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    facts = gather_facts(folder, repo_id, owner=owner, with_code=with_code, local_files_only=local_files_only)
    _check_loads(folder)
    paths = {path.name: path for pattern in PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    files: dict[str, Path | bytes] = {name: path for name, path in paths.items() if path.suffix == ".safetensors"}
    with TemporaryDirectory() as staging:
        for name in sorted(set(paths) - set(files)):
            shutil.copy(paths[name], staging)
        _drop_pointers(Path(staging) / "config.json")
        if with_code:
            add_code(staging)
        if facts.whole:
            save_for_sentence_transformers(staging)
        made = sorted(path for path in Path(staging).rglob("*") if path.is_file())
        files |= {path.relative_to(staging).as_posix(): path.read_bytes() for path in made}
    for name in FACTS:
        if name in files:
            files[name] = _without_paths(paths[name])
    files |= {path: text.encode() for path, text in benchmark_files(facts.results).items()}
    own_card = folder / CARD_FILE
    files[CARD_FILE] = own_card if own_card.is_file() else render_card(facts).encode()
    left_out = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in folder.iterdir()
        if path.name not in files and path.name != CODE_FOLDER
    )
    return Publication(repo_id, dict(sorted(files.items())), left_out, facts)


def publish(
    publication: Publication, *, private: bool | None = None, accept_licences: bool = False, message: str | None = None
) -> CommitInfo:
    """Upload in one commit. If anything fails, the repo is as it was; one made for this is removed again.

    Files of an earlier publication that are no longer part of it, such as code or a second shard, are removed in the
    same commit. The token is that of HF_TOKEN or of `hf auth login`.

    Args:
        publication: From `plan_publication`.
        private: Make the repo private, if it is made.
        accept_licences: The licences of encoders that forbid commercial use are known and kept to.
        message: Of the commit.

    Returns:
        The commit: `.commit_url`, `.oid`.

    Raises:
        ViMLError: Such a licence is not accepted, or the upload failed.
    """
    if publication.non_commercial and not accept_licences:
        raise ViMLError(
            f"encoders inside are not for commercial use: {', '.join(publication.non_commercial)}; if you may publish "
            "them, say so with --accept-licences (accept_licences=True)"
        )
    message = message or f"Publish {publication.facts.name}"
    return commit_files(publication.repo_id, publication.files, message=message, stale=STALE, private=private)


def _check_loads(folder: Path) -> None:
    """Load the model and its processor, as everybody will; heads alone have none."""
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True)
        if model.config.model_type == ViMLForMusicRetrievalConfig.model_type:
            AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ViMLError(
            f"{folder}: not published, since it does not load ({in_one_line(error)}); save model and processor again"
        ) from error


def _drop_pointers(config: Path) -> None:
    """Remove the pointers to code that an older `save_with_code` put there: the code is added anew, or not at all."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name not in ("auto_map", "custom_pipelines")}
    config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_paths(path: Path) -> bytes:
    """A JSON file in which what is a path on this machine is only the name of its end."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(one) for key, one in value.items()}
        if isinstance(value, list):
            return [cleaned(one) for one in value]
        if not isinstance(value, str):
            return value
        name, colon, place = value.rpartition(":")  # an encoder in a folder may have its family's name before
        is_path = os.path.isabs(place) or (os.sep in place and os.path.exists(place))
        return f"{name}{colon}{Path(place).name}" if is_path else value

    content = json.loads(path.read_text(encoding="utf-8"))
    return (json.dumps(cleaned(content), indent=1) + "\n").encode()
