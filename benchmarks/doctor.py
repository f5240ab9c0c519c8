"""What the training doctor costs: its share of a step, task by task, at the defaults of `tercet train`.

    python benchmarks/doctor.py [--tasks faces ...] [--rounds 20]

Made-up samples of each task's shape; times are processor time on one thread, of steps and looks in turn, so that what
else the machine does falls on both. A step is augmentation, encoder, loss, backward pass and optimiser, as in training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from tercet.tasks import load_task, task_names
from tercet.train.care import Care


def timed(do: Callable[[], object]) -> float:
    """Milliseconds of processor time."""
    started = time.process_time()
    do()
    return 1000 * (time.process_time() - started)


def measure(name: str, rounds: int) -> tuple[int, float, float]:
    """Rows of a batch, and the milliseconds of a step without the doctor and of a look, medians."""
    plan = load_task(name).plan(minutes=1.0)
    settings = plan.settings
    forgeries = settings.forgeries_per_identity if name == "signatures" else 0
    identities = settings.identities_per_batch
    labels_B = torch.arange(identities).repeat_interleave(settings.samples_per_identity)
    # To augmentation a forgery is of the writer whose name it bears, to the loss it is nobody's.
    owners_B = torch.cat([labels_B, torch.arange(identities).repeat_interleave(forgeries)])
    labels_B = torch.cat([labels_B, torch.full((identities * forgeries,), -1)])
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 255, (len(labels_B), *plan.front_end.shape), generator=generator)
    dtype = torch.uint8 if plan.front_end.dtype.__name__ == "uint8" else torch.int16
    samples = plan.front_end.normalise(stored.to(dtype))
    torch.manual_seed(0)
    encoder, criterion, care = plan.initial(), settings.criterion(), Care(settings.mining)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4)
    steps, looks = [], []
    for step in range(rounds + 2):
        seen: dict[str, torch.Tensor] = {}

        def work(seen: dict[str, torch.Tensor] = seen) -> None:
            x_BD = encoder(plan.augment(samples, owners_B, generator))
            loss = criterion(x_BD, labels_B)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen |= {"x_BD": x_BD.detach(), "loss": loss.detach()}

        def look(step: int = step, seen: dict[str, torch.Tensor] = seen) -> None:
            care.look(
                step,
                seen["x_BD"],
                labels_B,
                loss=seen["loss"],
                margin=0.2,
                distance=settings.distance,
                gradient_norm=1.0,
            )

        steps.append(timed(work))
        looks.append(timed(look))
    return len(labels_B), statistics.median(steps[2:]), statistics.median(looks[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=task_names(), default=task_names())
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'task':12}{'batch':>6}{'step ms':>9}{'look ms':>9}{'share %':>9}")
    for name in args.tasks:
        rows, step, look = measure(name, args.rounds)
        print(f"{name:12}{rows:6}{step:9.1f}{look:9.2f}{100 * look / (step + look):9.2f}", flush=True)


if __name__ == "__main__":
    main()
