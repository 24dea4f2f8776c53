"""The Trainer of this package: `transformers.Trainer` with whole evaluations and a card of the facts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, whoami
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from viml_hf.hub.card_facts import OwnerFacts, facts_of_model, stated_name
from viml_hf.hub.model_card import render_card
from viml_hf.hub.pushing import published_files, push_model_files, refuse_unaccepted
from viml_hf.hub.repo_files import CARD_FILE
from viml_hf.modeling.modeling_viml_towers import ViMLPreTrainedModel
from viml_hf.train.data_collator import ViMLDataCollator
from viml_hf.train.dataset import give_own_generator


class ViMLTrainer(Trainer):
    """Trainer that drops an incomplete last batch in training only, and publishes with a card of the facts.

    `dataloader_drop_last` drops it in evaluation too, and with it queries and tracks of the pool, without a word.
    `push_to_hub=True` uploads when the model is saved, in one commit; `hub_strategy` has no effect.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Find out what the repo is called. It is made by `push_to_hub`, with the first commit or not at all."""
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        owner = "" if "/" in name else f"{whoami(token=token or self.args.hub_token)['name']}/"
        self.hub_model_id = owner + name  # type: ignore[assignment]  # transformers begins with None
        self.push_in_progress = None

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        accept_licences: bool = False,
        **card: Any,
    ) -> CommitInfo | None:
        """Save the model and upload it with its card in one commit; no checkpoint and no pickle goes with it.

        Args:
            commit_message: Of the commit.
            blocking: Has no effect: it returns when all is done.
            token: By default `args.hub_token`, else that of HF_TOKEN or of `hf auth login`.
            revision: Branch; by default `args.hub_revision`.
            private: Make the repo private, if it is made; by default `args.hub_private_repo`.
            accept_licences: As for `viml_hf.hub.publishing.publish`.
            card: As for `create_model_card`.

        Raises:
            ViMLError: A licence is not accepted, or the upload failed and left nothing.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, ViMLPreTrainedModel):
            super().init_hf_repo(token=token, private=private)
            given: dict[str, Any] = {"token": token, "revision": revision, "private": private, **card}
            return super().push_to_hub(commit_message, blocking, **given)
        _owner_facts(**card)  # before anything is saved
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        refuse_unaccepted(facts_of_model(model, str(self.hub_model_id)), accept_licences)
        self.create_model_card(**card)
        output = Path(str(self.args.output_dir))
        return push_model_files(
            model,
            str(self.hub_model_id),
            published_files(output),
            (output / CARD_FILE).read_text(encoding="utf-8"),
            message=commit_message or "End of training",
            token=token,
            revision=revision or self.args.hub_revision,
            private=self.args.hub_private_repo if private is None else private,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload nothing on the way: a checkpoint holds pickles, and the arguments a token."""

    def create_model_card(  # type: ignore[override]  # what transformers alone would say goes into `more`
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | list[str] | None = None,
        **more: Any,
    ) -> None:
        """Write `README.md` into the output folder: what the model, the arguments and the last evaluation tell.

        Of a model that is no ViML, such as a tagger, transformers writes the card.

        Args:
            language: Codes of the languages of the texts.
            license: Of the model, as the Hub spells it.
            tags: More tags.
            model_name: Its name, where it has none on the Hub.
            dataset: Ids on the Hub of what it was trained on.
            more: What else transformers puts into its own card.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, ViMLPreTrainedModel):
            given = {"language": language, "license": license, "tags": tags, "model_name": model_name}
            return super().create_model_card(**given, dataset=dataset, **more)  # type: ignore[arg-type]
        if not self.is_world_process_zero():
            return None
        facts_owner = _owner_facts(license, dataset, language)
        name = self.hub_model_id or model_name or Path(str(self.args.output_dir)).name
        facts = facts_of_model(model, name, training=self._training_facts(), owner=facts_owner)
        card = render_card(facts, tags=_as_tuple(tags))
        (Path(str(self.args.output_dir)) / CARD_FILE).write_text(card, encoding="utf-8")
        return None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model without the arguments as a pickle, which nobody reads and which would be pushed too."""
        super()._save(output_dir, state_dict)
        Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _training_facts(self) -> dict[str, Any]:
        """What `write_training_facts` notes, as far as a Trainer knows it."""
        settings = {
            "epochs": self.args.num_train_epochs,
            "batch_size": self.args.train_batch_size,
            "learning_rate": self.args.learning_rate,
            "weight_decay": self.args.weight_decay,
            "seed": self.args.seed,
        }
        data: dict[str, Any] = {"training_items": self.train_dataset, "evaluation_items": self.eval_dataset}
        last = next((entry for entry in reversed(self.state.log_history) if "eval_R@10" in entry), {})
        metrics = {name.removeprefix("eval_"): value for name, value in last.items()}
        items = {name: len(dataset) for name, dataset in data.items() if dataset is not None}
        encoders = {}
        if isinstance(collator := self.data_collator, ViMLDataCollator):
            encoders = {modality: stated_name(name) for modality, name in collator.store.spec.encoders.items()}
            settings |= {name: getattr(collator, name) for name in ("text_dropout", "video_dropout", "clip_segments")}
        return {"settings": settings, "metrics": metrics, "store": encoders, **items}

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The evaluation batches, all of them."""
        return self._whole_loader(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """The test batches, all of them."""
        return self._whole_loader(super().get_test_dataloader, test_dataset)

    def _whole_loader(self, make: Callable[[Any], DataLoader], dataset: Any) -> DataLoader:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            loader = make(dataset)
        finally:
            self.args.dataloader_drop_last = drop_last
        give_own_generator(loader, self.args.seed)
        return loader


def _owner_facts(
    license: str | None = None,
    dataset: str | list[str] | None = None,
    language: str | list[str] | None = None,
    **unused: Any,
) -> OwnerFacts:
    """What the owner says of the model, in transformers' words."""
    return OwnerFacts(license, _as_tuple(dataset), _as_tuple(language))


def _as_tuple(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())
