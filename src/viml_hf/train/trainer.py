"""The Trainer of this package: `transformers.Trainer` with whole evaluations and a card of the facts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from viml_hf.hub.card_facts import OwnerFacts, facts_of_model
from viml_hf.hub.model_card import render_card
from viml_hf.modeling.modeling_viml_towers import ViMLPreTrainedModel
from viml_hf.train.dataset import give_own_generator


class ViMLTrainer(Trainer):
    """Trainer that drops an incomplete last batch in training only, and publishes with a card of the facts.

    `dataloader_drop_last` drops it in evaluation too, and with it queries and tracks of the pool, without a word.
    """

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
        owner = OwnerFacts(license, _as_tuple(dataset), _as_tuple(language))
        name = self.hub_model_id or model_name or Path(str(self.args.output_dir)).name
        facts = facts_of_model(model, name, owner=owner)
        card = render_card(replace(facts, training=self._training_facts()), tags=_as_tuple(tags))
        (Path(str(self.args.output_dir)) / "README.md").write_text(card, encoding="utf-8")
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
        return {"settings": settings, "metrics": metrics, **items}

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


def _as_tuple(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())
