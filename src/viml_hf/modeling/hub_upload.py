"""`push_to_hub` of a model or a processor, with more than transformers knows of them."""

import os
from collections.abc import Callable
from typing import Any, ClassVar


class HubUploadMixin:
    """Has `push_to_hub` done by what `viml_hf` sets, which writes a model card; else by transformers.

    The files of networks travel without the package, so they cannot import what writes the card.
    """

    uploader: ClassVar[Callable[..., Any] | None] = None  # takes the part, and then as `push_to_hub`

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Upload to the Hub in one commit.

        A model brings a card that is written from what it knows of itself, unless the repo has one; a processor brings
        none. `viml publish` uploads both with the training's facts and results.

        Args:
            repo_id: `OWNER/NAME`.
            kwargs: As for transformers: `commit_message`, `commit_description`, `private`, `token`, `revision`,
                `create_pr`, `max_shard_size`, `tags`; and `accept_licences=True` for encoders inside that are not for
                commercial use.

        Returns:
            What `huggingface_hub.HfApi.create_commit` returns.

        Raises:
            ValueError: The upload failed; the message says why and what to do. A repo made for it is removed again.
        """
        uploader = HubUploadMixin.uploader
        if uploader is None:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[misc]
        return uploader(self, repo_id, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save (see transformers); with `push_to_hub=True` upload too, to `repo_id` or a repo of the folder's name.

        Args:
            save_directory: The folder.
            args: As for transformers.
            push_to_hub: Upload.
            kwargs: As for transformers, and for `push_to_hub` where that is asked for.

        Raises:
            ValueError: The upload failed.
        """
        pushing = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")
        options = {name: kwargs.pop(name) for name in pushing if push_to_hub and name in kwargs}
        saved = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if push_to_hub:
            token = {"token": kwargs["token"]} if "token" in kwargs else {}
            self.push_to_hub(
                options.pop("repo_id", os.path.basename(os.path.abspath(save_directory))), **options, **token
            )
        return saved
