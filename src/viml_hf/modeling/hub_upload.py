"""`push_to_hub` as in transformers, with the model card of `viml_hf` where that package is imported."""

import sys
from typing import Any


class HubUploadMixin:
    """Adds to transformers' `push_to_hub` and `save_pretrained(…, push_to_hub=True)` what `viml_hf` knows of a model.

    That is a card written from the model's facts, in the same commit, unless somebody wrote the one on the Hub. And
    encoders inside that forbid commercial use are refused, before anything is created, without `accept_licences=True`.
    This file travels to Hub repos without the package, so it asks whether the package is imported.
    """

    def push_to_hub(self, repo_id: str, *, accept_licences: bool = False, **kwargs: Any) -> Any:
        """Upload as `PreTrainedModel.push_to_hub` does; the class says what is added."""
        self._check_licences(accept_licences)
        return super().push_to_hub(repo_id, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, save_directory: Any, *args: Any, accept_licences: bool = False, **kwargs: Any) -> Any:
        """Save, and with `push_to_hub=True` upload, as `PreTrainedModel.save_pretrained` does."""
        if kwargs.get("push_to_hub"):
            self._check_licences(accept_licences)
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """The last step of both: all files lie in `working_dir`, with the card of transformers or that of the repo."""
        if package := sys.modules.get("viml_hf"):
            facts = package.facts_of_model(self, repo_id, local_files_only=False)
            package.write_hub_files(working_dir, facts, token=kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)  # type: ignore[misc]

    def _check_licences(self, accepted: bool) -> None:
        if package := sys.modules.get("viml_hf"):
            package.check_licences(package.facts_of_model(self, "model", local_files_only=False), accepted)
