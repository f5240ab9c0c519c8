"""Dataset-wide mining: every so many steps the whole training set is embedded and searched for what is hard.

    due        steps E, 2 E, 3 E, ...; from the first survey on, batches are made of what the last one has found
    tiles      embedded and searched so many rows at a time; each process does its share of a tile, all get the whole
    kept       where there are several tiles, each is a file in RUN/survey until the survey is done: a training that is
               killed or interrupted goes on with the next tile

What a survey has found is in the checkpoints, so a resumed training makes the same batches. Samples are embedded as
validation does it: not augmented, without dropout, in float32.

Cost of a survey: one forward pass of N rows, N^2 D operations, each divided by the W processes; memory of N embeddings
in each of them (hardness.py).

Legend: N rows that are trained on, S of a share, D embedding width, K neighbours, T rows of a tile.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tercet.data import SampleStore
from tercet.encoders import learning_part
from tercet.errors import RunError
from tercet.run.files import read_tensors, write_tensors
from tercet.run.model import embed_rows
from tercet.train.hardness import Hardness, judge, nearest_foreign
from tercet.train.ranks import Ranks

__all__ = ["Survey"]

TILE: Final = 2**14  # rows
_BATCH: Final = 256  # rows that are embedded at once, or a chunk


@final
class Survey:
    """The surveys of one training: when, how, and what the last one has found.

    Args:
        store: The samples.
        rows_N: Those that are trained on.
        ranks: The processes.
        folder: Where tiles are kept while a survey is under way.
        every: Steps from one survey to the next; 0: there is none.
        skip: The share of the hardest samples that is left out.
        batch: Rows that are embedded at once; None: as many as is usual.
    """

    def __init__(
        self,
        store: SampleStore,
        rows_N: npt.NDArray[np.int64],
        ranks: Ranks,
        folder: Path,
        *,
        every: int,
        skip: float,
        batch: int | None = None,
    ) -> None:
        self.store, self.ranks, self.folder = store, ranks, folder
        self.every, self.skip, self.tile = every, skip, TILE
        self._batch = min(_BATCH, batch or _BATCH)
        # A forgery is nobody's sample, and is no negative of anybody but of its own identity.
        self._genuine = np.flatnonzero(store.manifest.genuine[rows_N])
        self._rows = rows_N[self._genuine]
        self._total = len(rows_N)
        self._identities = np.unique(store.manifest.labels[self._rows], return_inverse=True)[1].astype(np.int64)
        self.forget()

    def forget(self) -> None:
        """Make ordinary batches until the next survey."""
        self.found: Hardness | None = None
        self.step = -1

    def due(self, step: int) -> bool:
        """Whether a survey is to be made before this step."""
        return self.every > 0 and step > 0 and step % self.every == 0 and step != self.step

    @property
    def long(self) -> bool:
        """Whether a survey has several tiles, which are kept on the disk: it pays to write a checkpoint before."""
        return len(self._rows) > self.tile

    def take(
        self, step: int, encoder: nn.Module, *, goes_on: Callable[[], bool], tell: Callable[[int, int], None]
    ) -> bool:
        """Make the survey that is due; whether it is done.

        Args:
            step: The number of the step.
            encoder: As it is now.
            goes_on: Asked between tiles, in all processes: whether there is time for another.
            tell: Told (rows done, rows in all); each row is embedded and searched for, so it counts twice.

        Raises:
            RunError: A tile cannot be written, or another process has gone.
        """
        encoder = learning_part(encoder)  # what is hard for a description stays so
        place = self.folder / f"{step:09d}-{_digest(encoder)}"
        if self.long:
            self.ranks.by_first(lambda: self._clear_but(place))
        starts = range(0, len(self._rows), self.tile)
        tiles = [slice(start, min(start + self.tile, len(self._rows))) for start in starts]
        done = 0

        def all_tiles(
            name: str, make: Callable[[slice], dict[str, Tensor]]
        ) -> dict[str, npt.NDArray[np.generic]] | None:
            nonlocal done
            found: dict[str, list[npt.NDArray[np.generic]]] = {}
            for number, tile in enumerate(tiles):
                if not goes_on():
                    return None
                for key, part in self._tile(place / f"{name}-{number:06d}.safetensors", tile, make).items():
                    found.setdefault(key, []).append(part.cpu().numpy())
                done += tile.stop - tile.start
                tell(done, 2 * len(self._rows))
            return {key: np.concatenate(parts) for key, parts in found.items()}

        embedded = all_tiles("embedded", lambda tile: self._embedded(tile, encoder))
        if embedded is None:
            return False
        x_ND = embedded["x"].astype(np.float32, copy=False)
        searched = all_tiles("nearest", lambda tile: self._searched(tile, x_ND))
        if searched is None:
            return False
        index_NK, score_NK = searched["index"].astype(np.int64, copy=False), searched["score"].astype(np.float32)
        found = judge(x_ND, self._identities, index_NK, score_NK, skip=self.skip)
        hard_N = np.full(self._total, -np.inf, np.float32)
        hard_N[self._genuine] = found.hard_N
        self.found, self.step = Hardness(found.near_IM, hard_N), step
        if self.long:
            self.ranks.by_first(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        return True

    def mean_hardness(self) -> float | None:
        """Of the samples that are not left out; None before the first survey."""
        if self.found is None:
            return None
        kept = self.found.hard_N[np.isfinite(self.found.hard_N)]
        return float(kept.mean(dtype=np.float64)) if len(kept) else None

    def tensors(self) -> dict[str, Tensor]:
        """All of the state."""
        state = {"step": torch.tensor(self.step)}
        if self.found is not None:
            state |= {"near": torch.from_numpy(self.found.near_IM), "hard": torch.from_numpy(self.found.hard_N)}
        return state

    def set_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `tensors` was taken; KeyError or ValueError where that does not fit."""
        self.step, self.found = int(state["step"]), None
        if "near" in state:
            near_IM, hard_N = state["near"].numpy(), state["hard"].numpy()
            if len(hard_N) != self._total or len(near_IM) != self._identities.max() + 1:
                raise ValueError(f"survey: of {len(hard_N)} samples of {len(near_IM)} identities, which are others now")
            self.found = Hardness(near_IM, hard_N)

    def _tile(self, path: Path, tile: slice, make: Callable[[slice], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What a tile comes to: read where it is kept, else made by all processes together, and kept."""
        kept = _read(path) if self.long and self.ranks.first else None
        if self.ranks.as_first([float(kept is not None)])[0]:
            return read_tensors(path) if kept is None else kept
        rows = tile.stop - tile.start
        own = self.ranks.share(rows)
        made = make(slice(tile.start + own.start, tile.start + own.stop))
        whole = {
            name: self.ranks.gather(made[name].to(self.ranks.device), rows) for name in sorted(made)
        }  # the same order in all
        if self.long:
            self.ranks.by_first(lambda: write_tensors(path, whole))
        return whole

    def _embedded(self, share: slice, encoder: nn.Module) -> dict[str, Tensor]:
        rows_S = self._rows[share]
        if not len(rows_S):
            return {"x": torch.zeros(0, 0)}
        return {"x": torch.from_numpy(embed_rows(encoder, self.store, rows_S, batch_size=self._batch))}

    def _searched(self, share: slice, x_ND: npt.NDArray[np.float32]) -> dict[str, Tensor]:
        index_SK, score_SK = nearest_foreign(x_ND, self._identities, share)
        return {"index": torch.from_numpy(index_SK), "score": torch.from_numpy(score_SK)}

    def _clear_but(self, place: Path) -> None:
        """Make the folder of a survey, and drop what earlier ones that were never finished have left."""
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{place}: cannot be made ({error.strerror or error})") from error
        for other in self.folder.iterdir():
            if other != place:
                shutil.rmtree(other, ignore_errors=True)


def _digest(encoder: nn.Module) -> str:
    """A mark of the weights, so that no tile of others is taken for theirs."""
    digest = hashlib.sha256()
    for tensor in encoder.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _read(path: Path) -> dict[str, Tensor] | None:
    """A tile that is kept; None where there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return read_tensors(path)
    except RunError:
        return None
