import pytest
import torch
from torch.nn import functional as F
from transformers import BartConfig, BartModel, RobertaConfig, RobertaModel

from viml_hf.modeling.configuration_ordering import SentenceOrderingConfig
from viml_hf.modeling.modeling_ordering import SentenceOrderingModel

SIZES = {
    "vocab_size": 30,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 0.4,  # large, so that random scores differ
}
BOS, PAD, EOS = 0, 1, 2


def make_model(seed=0):
    torch.manual_seed(seed)
    return SentenceOrderingModel(SentenceOrderingConfig(**SIZES)).eval()


def make_rows(counts, seed=0):
    """Rows of so many sentences, each of 1 to 4 words."""
    draws = torch.Generator().manual_seed(seed)
    rows = []
    for count in counts:
        lengths = torch.randint(1, 5, (count,), generator=draws)
        words = [torch.randint(3, 30, (length,), generator=draws).tolist() for length in lengths.tolist()]
        rows.append([token for word in words for token in (BOS, *word, EOS)])
    return rows


def pad(rows, to=0):
    longest = max(to, *map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def test_greedy_orders_are_permutations_whatever_the_weights():
    seen = set()
    for seed in range(20):
        counts = [1, 5, 3, 8]
        orders = make_model(seed).order(**pad(make_rows(counts, seed))).tolist()
        for count, order in zip(counts, orders, strict=True):
            assert sorted(order[:count]) == list(range(count))
            assert order[count:] == [-100] * (8 - count)
        seen.add(tuple(orders[1]))
    assert len(seen) > 5  # not the order of the input each time


def test_greedy_takes_the_best_sentence_that_is_left_at_each_step():
    model, inputs = make_model(3), pad(make_rows([6, 4]))
    order = model.order(**inputs)
    logits = model(**inputs, labels=order).logits
    for row, count in enumerate([6, 4]):
        left = set(range(count))
        for step in range(count):
            best = max(left, key=lambda number: logits[row, step, number].item())
            assert order[row, step] == best
            left.remove(best)


def test_the_loss_is_the_cross_entropy_of_the_next_sentence_among_all():
    model, inputs = make_model(), pad(make_rows([3, 2]))
    labels = torch.tensor([[2, 0, 1], [1, 0, -100]])
    output = model(**inputs, labels=labels)
    terms = [F.cross_entropy(output.logits[row, step, :count], labels[row, step])
             for row, count in enumerate([3, 2]) for step in range(count)]  # fmt: skip
    torch.testing.assert_close(output.loss, torch.stack(terms).mean())
    assert model(**inputs).loss is None


def test_scores_of_a_step_see_the_sentences_before_it_and_none_after_it():
    model, inputs = make_model(), pad(make_rows([4]))
    one = model(**inputs, labels=torch.tensor([[2, 0, 1, 3]])).logits[0]
    two = model(**inputs, labels=torch.tensor([[2, 0, 3, 1]])).logits[0]
    torch.testing.assert_close(one[:3], two[:3])
    assert not torch.allclose(one[3], two[3], atol=1e-3)


def test_padding_and_company_change_no_score_and_no_order():
    model, rows = make_model(5), make_rows([5, 2, 7])
    together, far_padded = pad(rows), pad(rows, to=60)
    far_padded["input_ids"][far_padded["attention_mask"] == 0] = EOS  # padding that looks like separators
    logits, orders = model(**together).logits, model.order(**together)
    torch.testing.assert_close(model(**far_padded).logits, logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.order(**far_padded), orders)
    for number, row in enumerate(rows):
        count = row.count(EOS)
        alone = model(**pad([row])).logits[0]
        torch.testing.assert_close(alone, logits[number, :count, :count], atol=1e-5, rtol=1e-5)
        assert model.order(torch.tensor([row]))[0].tolist() == orders[number, :count].tolist()


def test_it_computes_the_same_after_it_was_saved(tmp_path):
    model, inputs = make_model(), pad(make_rows([4, 3]))
    model.save_pretrained(tmp_path)
    again, info = SentenceOrderingModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert again.config.model_type == "sentence_ordering"
    torch.testing.assert_close(again.eval()(**inputs).logits, model(**inputs).logits)


def test_bart_weights_load_below_a_new_head(tmp_path):
    bart = BartModel(BartConfig(**SIZES)).eval()
    bart.save_pretrained(tmp_path)
    model = SentenceOrderingModel.from_bart(tmp_path)
    assert model.config.model_type == "sentence_ordering"
    for name, value in bart.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], value), name
    assert model.pointer.q_proj.weight.std() > 0


def test_weights_of_another_family_are_refused(tmp_path):
    config = RobertaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    RobertaModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'roberta': .*'bart' weights"):
        SentenceOrderingModel.from_bart(tmp_path)


@pytest.mark.parametrize("labels", [[[0, 0, 1]], [[0, 1, 3]], [[0, 1, -100]], [[0, 1]]])
def test_labels_that_are_no_order_are_refused(labels):
    with pytest.raises(ValueError, match="each once"):
        make_model()(**pad(make_rows([3])), labels=torch.tensor(labels))


def test_a_row_without_a_separator_is_refused():
    with pytest.raises(ValueError, match=r"no separator \(token 2\)"):
        make_model().order(torch.tensor([[BOS, 5, EOS], [BOS, 5, 6]]))


def test_gradients_reach_every_weight():
    model = make_model().train()
    inputs = pad(make_rows([4, 3]))
    model(**inputs, labels=torch.tensor([[3, 1, 0, 2], [2, 1, 0, -100]])).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias common to all keys moves no difference between scores.
    assert [name for name in without if not name.endswith("k_proj.bias")] == []
