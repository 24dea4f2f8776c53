"""Two processes with half the batch each equal one process with the whole of it."""

import socket
import time

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from viml_hf import ViMLConfig, ViMLModel
from viml_hf.modeling import loss_viml

BATCH = 8
SMALL = {"hidden_size": 32, "projection_dim": 32, "num_attention_heads": 4, "intermediate_size": 64}


def make_model(loss, dtype):
    torch.manual_seed(0)
    sizes = {"video_dim": 12, "audio_dim": 14, "text_dim": 10, **SMALL}
    config = ViMLConfig(**sizes, dropout=0.0, loss=loss, learned_temperature=loss == "info_nce")
    return ViMLModel(config).to(dtype).train()


def make_batch(rows, dtype):
    """The given rows of one batch; every second text is dropped, in every process the same ones."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"video_features": (5, 12), "text_features": (1, 10), "audio_features": (6, 14)}
    batch = {n: torch.randn(BATCH, *shape, generator=generator).to(dtype)[rows] for n, shape in shapes.items()}
    batch["text_attention_mask"] = (torch.arange(BATCH) % 2)[rows, None]
    return {**batch, "return_loss": True}


def train(model, batch, steps=4):
    """Gradients of the first step, and parameters after all."""
    optimizer, first = torch.optim.SGD(model.parameters(), lr=0.05), None
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        first = first or [p.grad.clone() for p in model.parameters()]
        optimizer.step()
    return first, [p.detach().clone() for p in model.parameters()]


# float32 rounds gradients of the size of 10, as a temperature of 0.03 gives them, to about 1e-6 of their size.
CASES = {
    "float64": ("info_nce", torch.float64, 1e-6),
    "float32": ("info_nce", torch.float32, 2e-5),
    "triplet": ("triplet", torch.float32, 1e-6),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_process(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    half = BATCH // 2
    for name, (loss, dtype, _) in CASES.items():
        model = DistributedDataParallel(make_model(loss, dtype))
        result = train(model, make_batch(slice(rank * half, rank * half + half), dtype))
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
    dist.barrier()
    dist.destroy_process_group()


class TwoProcesses:
    """What a process sees of itself (rank 1) and another that holds half of its rows, and finds half its gradients."""

    is_available = is_initialized = staticmethod(lambda: True)
    get_world_size = staticmethod(lambda: 2)
    get_rank = staticmethod(lambda: 1)

    @staticmethod
    def all_gather(gathered, rows):
        gathered[0].copy_(rows / 2)
        gathered[1].copy_(rows)

    @staticmethod
    def all_reduce(gradient):
        gradient.mul_(1.5)


def test_rows_are_gathered_in_order_and_gradients_are_added(monkeypatch):
    monkeypatch.setattr(loss_viml, "dist", TwoProcesses)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    everything = loss_viml.gather_batch(rows)
    assert torch.equal(everything, torch.cat([rows / 2, rows]))
    (everything * torch.arange(8).view(4, 2)).sum().backward()
    assert rows.grad.tolist() == [[6, 7.5], [9, 10.5]]  # of the second half, from both


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What process 0 of two found in every case."""
    folder = tmp_path_factory.mktemp("results")
    context = torch.multiprocessing.spawn(run_process, args=(free_port(), folder), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the two processes did not end within 120 s")
    return {name: torch.load(folder / f"{name}.pt") for name in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_equal_one(results, case):
    loss, dtype, tolerance = CASES[case]
    gradients, parameters = results[case]
    expected_gradients, expected_parameters = train(make_model(loss, dtype), make_batch(slice(None), dtype))
    largest = max(g.abs().max() for g in expected_gradients)
    for found, expected in zip(gradients, expected_gradients, strict=True):
        assert (found - expected).abs().max() < tolerance
        assert (found - expected).abs().max() < 1e-6 * max(largest, 1.0)
    for found, expected in zip(parameters, expected_parameters, strict=True):
        assert (found - expected).abs().max() < 1e-5


def test_evaluation_does_not_wait_for_other_processes():
    model = make_model("info_nce", torch.float32).eval()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        with torch.no_grad():
            assert torch.isfinite(model(**make_batch(slice(None), torch.float32)).loss)
    finally:
        dist.destroy_process_group()
