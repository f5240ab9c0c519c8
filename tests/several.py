"""Real processes over gloo for the tests: what each of them does, started once for many cases."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from tercet.data import ImageFrontEnd, Manifest, Row, SampleStore
from tercet.functional.options import MINING
from tercet.losses import AutoMargin, MultiSampleTripletLoss, TripletLoss
from tercet.run.files import read_tensors, write_tensors
from tercet.train.memory import MemoryBank
from tercet.train.ranks import Ranks
from tercet.train.step import DividedStep
from tercet.train.survey import Survey

LOSSES = {
    **{f"mining {mining}": lambda mining=mining: TripletLoss(0.3, mining=mining) for mining in MINING},
    "soft": lambda: TripletLoss("soft", mining="hard"),
    "auto margin": lambda: TripletLoss(AutoMargin(), mining="semihard"),
    "active": lambda: TripletLoss(0.3, mining="semihard", reduction="active"),
    "anchor, cosine": lambda: TripletLoss(0.3, "cosine", reduction="anchor"),
    "sum, euclidean": lambda: TripletLoss(0.3, "euclidean", "hard", "sum"),
    "multi-sample": lambda: MultiSampleTripletLoss(0.3),
}
# Rows of the batch: divided evenly, unevenly, with processes that get none; and without any triplet.
ROWS = {"even": 24, "uneven": 13, "few": 3, "nothing": 2}


def batch(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and labels sorted so that the last share of a third is nobody's: no anchor, no positive in it."""
    random = torch.Generator().manual_seed(rows)
    labels = torch.arange(rows) // 3
    labels[rows - rows // 3 :] = -1
    return torch.randn(rows, 1, 8, 8, generator=random, dtype=torch.float64).to(dtype), labels


def encoder(dtype: torch.dtype) -> torch.nn.Module:
    """Convolution, group norm, and a last layer on the unit sphere; one parameter that nothing uses."""
    torch.manual_seed(0)
    return Small().to(dtype)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.embed = torch.nn.Linear(8 * 16, 6)
        self.unused = torch.nn.Linear(2, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        x = torch.nn.functional.avg_pool2d(torch.relu(self.norm(self.first(x))), 2)
        return torch.nn.functional.normalize(self.embed(x.flatten(1)), dim=1)


def cases():
    """(name, loss, rows, dtype, chunk, memory) of every case."""
    for dtype in (torch.float64, torch.float32):
        for name, loss in LOSSES.items():
            yield f"{name}, {dtype}", loss(), ROWS["uneven"], dtype, None, False
        for size, rows in ROWS.items():
            for chunk in (1, 5):
                yield f"{size}, chunk {chunk}, {dtype}", LOSSES["active"](), rows, dtype, chunk, False
        for name in ("mining all", "mining hard", "soft"):
            yield f"memory, {name}, {dtype}", LOSSES[name](), ROWS["uneven"], dtype, 5, True


def memory_of(model: torch.nn.Module, dtype: torch.dtype) -> MemoryBank:
    """A bank of fourteen rows, two of which are samples of the batch."""
    bank = MemoryBank(model, rows=14)
    random = torch.Generator().manual_seed(7)
    rows = torch.nn.functional.normalize(torch.randn(20, 6, generator=random, dtype=dtype), dim=1)
    bank.add(rows, torch.arange(20) // 4, torch.arange(20) + 4, step=0)
    return bank


def objective_of(loss, labels, bank):
    if bank is None:
        return lambda x: loss(x, labels)
    return lambda x: bank.loss(loss, x, labels, torch.arange(len(x)), step=1)


def gradients(name, model, loss, value) -> dict[str, torch.Tensor]:
    found = {f"{name}|{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    return found | {f"{name}|loss": value.detach()}


def undivided(name, loss, rows, dtype, chunk, memory) -> dict[str, torch.Tensor]:
    """What autograd alone makes of the whole batch."""
    model = encoder(dtype)
    x, labels = batch(rows, dtype)
    embeddings = model(x)
    torch.manual_seed(0)
    value = objective_of(loss, labels, memory_of(model, dtype) if memory else None)(embeddings)
    value.backward()
    return gradients(name, model, loss, value)


def divided(name, loss, rows, dtype, chunk, memory) -> dict[str, torch.Tensor]:
    """What this process's part of a divided step comes to."""
    model = encoder(dtype)
    x, labels = batch(rows, dtype)
    step = DividedStep(model, model, Ranks(), chunk=chunk)
    objective = objective_of(loss, labels, memory_of(model, dtype) if memory else None)
    _, value = step.backward(lambda part: x[part], rows, objective, seed=lambda row: row)
    return gradients(name, model, loss, value)


def fifty_steps() -> dict[str, torch.Tensor]:
    """The digest of the weights after fifty AdamW steps on batches of changing size, with a momentum encoder's bank."""
    model = encoder(torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    divided_step = DividedStep(model, model, Ranks(), chunk=4)
    loss, bank = TripletLoss(AutoMargin(), mining="hard"), MemoryBank(model, rows=30, momentum=0.9)
    for step in range(50):
        rows = 2 + step % 12
        x, labels = batch(rows, torch.float32)
        samples = torch.arange(rows) + step % 7

        def objective(e, labels=labels, samples=samples, step=step):
            return bank.loss(loss, e, labels, samples, step)

        divided_step.backward(lambda part, x=x: x[part], rows, objective, seed=lambda row: row)
        optimizer.step()
        optimizer.zero_grad()
        bank.add(divided_step.embed(lambda part, x=x: x[part], rows, bank.follower), labels, samples, step)
        bank.follow(model)
    state = {**model.state_dict(), **bank.tensors()}
    digest = hashlib.sha256(b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))).digest()
    return {"fifty": torch.frombuffer(bytearray(digest), dtype=torch.uint8), "embed": model.embed.weight.detach()}


def surveyed(folder: str) -> dict[str, torch.Tensor]:
    """What a survey of 41 made-up pictures in tiles of 9 finds: shares of 3 to none, tiles kept in the folder."""
    random = np.random.default_rng(0)
    pictures = (128 + np.repeat(random.normal(size=(9, 1, 8, 8)) * 40, 5, axis=0)[:41]).clip(0, 255).astype(np.uint8)
    pictures ^= random.integers(0, 16, pictures.shape, np.uint8)
    rows = tuple(Row(Path(f"/{n}.png"), f"p{n // 5}") for n in range(41))
    store = SampleStore(Manifest(Path("/"), rows), ImageFrontEnd(8, 8, 1), pictures, ("",) * 41)
    survey = Survey(store, np.arange(41), Ranks(), Path(folder) / "survey", every=1, skip=0.1)
    survey.tile = 9
    assert survey.take(1, encoder(torch.float32), goes_on=lambda: True, tell=lambda done, rows: None)
    assert not (Path(folder) / "survey").exists()
    return {f"survey.{name}": tensor for name, tensor in survey.tensors().items()}


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    minutes = datetime.timedelta(minutes=4)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size, timeout=minutes)
    found = fifty_steps() | surveyed(folder)
    for case in cases():
        found |= divided(*case)
    write_tensors(Path(folder) / f"{rank}.safetensors", found)
    dist.barrier()
    dist.destroy_process_group()


def run(size: int, folder: Path) -> list[dict[str, torch.Tensor]]:
    """What each of `size` processes has found."""
    spawn(work, (size, str(folder)), nprocs=size)
    return [read_tensors(folder / f"{rank}.safetensors") for rank in range(size)]
