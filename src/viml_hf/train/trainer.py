"""The Trainer of this package: `transformers.Trainer` with whole evaluations and a card of the model's facts."""

from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from viml_hf.hub.card_facts import OwnerFacts, facts_of_model, stated_name
from viml_hf.hub.publishing import check_licences, write_hub_files
from viml_hf.modeling.modeling_viml_towers import ViMLPreTrainedModel
from viml_hf.train.data_collator import ViMLDataCollator
from viml_hf.train.epoch_callback import give_own_generator


class ViMLTrainer(Trainer):
    """Trainer that drops an incomplete last batch in training only, and pushes with a card of the model's facts.

    `dataloader_drop_last` drops it in evaluation too, and with it queries and tracks of the pool, without a word.
    `push_to_hub=True` and `hub_strategy` are as in transformers.
    """

    _licences_accepted = False
    _push_token: str | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repo or find it, as transformers does, unless an encoder inside is not for commercial use.

        In that case leave `push_to_hub=True` out of the arguments and call `push_to_hub(accept_licences=True)`.
        """
        if (model := self._viml_model()) is not None:
            check_licences(facts_of_model(model, "model", local_files_only=False), self._licences_accepted)
        if self.args.hub_token is not None:
            self.args.hub_token = _UnpickledToken(self.args.hub_token)
        super().init_hf_repo(token, private)

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
        """Save the model and upload it with its card. All but these arguments are as in transformers.

        Args:
            accept_licences: The licences of encoders inside that forbid commercial use are known and kept to.
            card: As for `create_model_card`.
        """
        self._licences_accepted |= accept_licences
        self._push_token = token
        return super().push_to_hub(commit_message, blocking, token, revision, private, **card)

    def create_model_card(  # type: ignore[override]  # what else transformers would say goes into `more`
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | list[str] | None = None,
        **more: Any,
    ) -> None:
        """Write `README.md` into the output folder: what the model, the arguments and the last evaluation tell.

        A card that somebody wrote on the Hub is kept. For other models, such as taggers, transformers writes it.

        Args:
            language: Codes of the languages of the texts.
            license: Of the model, as the Hub spells it.
            tags: More tags.
            model_name: Its name, where it has none on the Hub.
            dataset: Ids on the Hub of what it was trained on.
            more: What else transformers puts into its own card.
        """
        if (model := self._viml_model()) is None:
            more |= {"language": language, "license": license, "tags": tags, "model_name": model_name}
            super().create_model_card(dataset=dataset, **more)
        elif self.is_world_process_zero():
            owner = OwnerFacts(license, _as_tuple(dataset), _as_tuple(language))
            name = self.hub_model_id or model_name or Path(str(self.args.output_dir)).name
            facts = facts_of_model(model, name, training=self._training_facts(), owner=owner)
            token, pushed = self._push_token or self.args.hub_token, self.hub_model_id is not None
            write_hub_files(str(self.args.output_dir), facts, _as_tuple(tags), token, pushed=pushed)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model without the pickled arguments, which nobody reads and which would be pushed too."""
        super()._save(output_dir, state_dict)
        Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _viml_model(self) -> ViMLPreTrainedModel | None:
        """The model that is trained, if it is one that our cards describe."""
        model = self.accelerator.unwrap_model(self.model)
        return model if isinstance(model, ViMLPreTrainedModel) else None

    def _training_facts(self) -> dict[str, Any]:
        """What `write_training_facts` notes, as far as a Trainer knows it."""
        steps, epochs = self.args.max_steps, self.args.num_train_epochs
        settings: dict[str, Any] = {"steps": steps} if steps > 0 else {"epochs": epochs}
        settings["batch_size"] = self.args.train_batch_size
        settings |= {name: getattr(self.args, name) for name in ("learning_rate", "weight_decay", "seed")}
        data: dict[str, Any] = {"training_items": self.train_dataset, "evaluation_items": self.eval_dataset}
        last = next((entry for entry in reversed(self.state.log_history) if "eval_R@10" in entry), {})
        metrics = {name.removeprefix("eval_"): value for name, value in last.items()}
        # A stream has no length, and several evaluation sets have no figures in common.
        items = {n: len(d) for n, d in data.items() if isinstance(d, Sized) and not isinstance(d, dict)}
        encoders = {}
        if isinstance(collator := self.data_collator, ViMLDataCollator):
            if collator.store is not None:
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


class _UnpickledToken(str):
    """A token that a pickle leaves out: transformers pushes the pickled arguments with each checkpoint."""

    def __reduce__(self) -> tuple[type[str], tuple[()]]:
        return str, ()


def _as_tuple(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())
