"""`bench gallery`: enrolment, search and recall of a gallery, beside an exact product and installed search libraries.

Legend: N templates, Q probes, D embedding width, K results.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tercet.bench.machine import machine
from tercet.errors import InvalidInput
from tercet.evaluate import nearest

__all__ = ["CONTENDERS", "GalleryPlan", "bench_gallery"]

Rows = npt.NDArray[np.float32]
Search = Callable[[Rows], npt.NDArray[np.int64]]
"""The rows of the K nearest templates, best first, to one probe [D]."""
Tell = Callable[[str, int, int], None]

OURS: Final = "tercet, FLAT"
_PER_IDENTITY: Final = 5


@final
@dataclass(frozen=True)
class GalleryPlan:
    """What to measure.

    Attributes:
        templates: N, five of each identity.
        width: D.
        probes: Q, searched for one at a time.
        results: K.
        peers: whether installed search libraries take part.
    """

    templates: int = 10_000
    width: int = 128
    probes: int = 200
    results: int = 10
    peers: bool = True

    def __post_init__(self) -> None:
        for name, least, most in (
            ("templates", 10, 10_000_000),
            ("width", 2, 32_768),
            ("probes", 1, 100_000),
            ("results", 1, min(self.templates, 1000)),
        ):
            if not least <= getattr(self, name) <= most:
                raise InvalidInput(f"{name} must lie between {least} and {most:,}, got {getattr(self, name)}")

    def sample(self) -> tuple[Rows, Rows]:
        """Templates [N, D] as a model places them, around a centre for each identity; and probes [Q, D] near some."""
        random = np.random.default_rng(0)
        centre = random.normal(size=(-(-self.templates // _PER_IDENTITY), self.width))
        x_ND = np.repeat(centre, _PER_IDENTITY, axis=0)[: self.templates]
        x_ND = x_ND + 0.5 * random.normal(size=x_ND.shape)
        probe_QD = x_ND[random.integers(0, len(x_ND), self.probes)]
        probe_QD = probe_QD + 0.3 * random.normal(size=probe_QD.shape)
        return _unit(x_ND), _unit(probe_QD)


@contextlib.contextmanager
def _tercet(index: str, x_ND: Rows, k: int) -> Iterator[Search]:
    """A gallery in a folder: durable, with names; the search is by the gallery's own method."""
    from tercet.gallery import Template, open_gallery

    templates = [Template(f"p{n // _PER_IDENTITY}", x_D, f"c{n}", path=f"/{n}") for n, x_D in enumerate(x_ND)]
    with (
        tempfile.TemporaryDirectory() as folder,
        open_gallery(
            str(Path(folder) / "gallery.db"), model="bench", dimension=x_ND.shape[1], create=True, index=index
        ) as gallery,
    ):
        gallery.enroll(templates)
        yield lambda probe_D: np.array([int(hit.path[1:]) for hit in gallery.search(probe_D, k)])


@contextlib.contextmanager
def _milvus(x_ND: Rows, k: int) -> Iterator[Search]:
    """Milvus Lite as its own client is used: vectors and row numbers, nothing else."""
    from pymilvus import MilvusClient

    with tempfile.TemporaryDirectory() as folder:
        client = MilvusClient(str(Path(folder) / "bare.db"))
        try:
            client.create_collection("bench", dimension=x_ND.shape[1], metric_type="IP")
            for start in range(0, len(x_ND), 1000):
                rows = range(start, min(start + 1000, len(x_ND)))
                client.insert("bench", [{"id": row, "vector": x_ND[row]} for row in rows])

            def search(probe_D: Rows) -> npt.NDArray[np.int64]:
                (hits,) = client.search("bench", [probe_D], limit=k)
                return np.array([hit["id"] for hit in hits])

            yield search
        finally:
            client.close()


@contextlib.contextmanager
def _product(x_ND: Rows, k: int) -> Iterator[Search]:
    """One product in memory, and the best of it in order: no names, no file, no second process."""

    def search(probe_D: Rows) -> npt.NDArray[np.int64]:
        score_N = x_ND @ probe_D
        best = np.argpartition(score_N, -k)[-k:]
        return best[np.argsort(-score_N[best], kind="stable")]

    yield search


@contextlib.contextmanager
def _faiss(kind: str, x_ND: Rows, k: int) -> Iterator[Search]:
    import faiss

    index: Any
    if kind == "flat":
        index = faiss.IndexFlatIP(x_ND.shape[1])
    else:
        index = faiss.IndexHNSWFlat(x_ND.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = max(64, k)
    index.add(x_ND)
    yield lambda probe_D: index.search(probe_D[None], k)[1][0]


Contender = Callable[[Rows, int], AbstractContextManager[Search]]

CONTENDERS: Final[Mapping[str, Contender]] = {
    OURS: lambda x_ND, k: _tercet("FLAT", x_ND, k),
    "tercet, HNSW": lambda x_ND, k: _tercet("HNSW", x_ND, k),
    "tercet, IVF_FLAT": lambda x_ND, k: _tercet("IVF_FLAT", x_ND, k),
    "milvus lite, bare": _milvus,
    "numpy, one product": _product,
    "faiss, flat": lambda x_ND, k: _faiss("flat", x_ND, k),
    "faiss, HNSW": lambda x_ND, k: _faiss("HNSW", x_ND, k),
}
PEERS: Final[Mapping[str, str]] = {"faiss, flat": "faiss", "faiss, HNSW": "faiss"}
EXACT: Final = frozenset({OURS, "numpy, one product", "faiss, flat"})


def bench_gallery(plan: GalleryPlan, tell: Tell) -> dict[str, Any]:
    """Measure; `tell` hears what is being done, and which of how many pieces it is.

    Recall is the share of the exact K nearest (`tercet.evaluate.nearest`) that a search returns. Searches are timed one
    probe at a time, everyone by turns; a contender that claims to be exact and is not is left out of the times.
    """
    x_ND, probe_QD = plan.sample()
    exact_QK = nearest(probe_QD, x_ND, plan.results).index_QK
    left_out = []
    enrolled: dict[str, float] = {}
    recall: dict[str, float] = {}
    with contextlib.ExitStack() as held:
        searches: dict[str, Search] = {}
        for i, (name, open_one) in enumerate(CONTENDERS.items()):
            if name in PEERS and (not plan.peers or importlib.util.find_spec(PEERS[name]) is None):
                if plan.peers:
                    left_out.append({"contender": name, "reason": "not installed"})
                continue
            tell(f"enrolling: {name}", i, len(CONTENDERS))
            start = time.perf_counter()
            search = held.enter_context(open_one(x_ND, plan.results))
            enrolled[name] = time.perf_counter() - start
            found = [search(probe_D) for probe_D in probe_QD]
            recall[name] = float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, exact_QK, strict=True)]))
            recall[name] /= plan.results
            if name in EXACT and recall[name] < 1 and name != OURS:
                reason = f"does not find the same: recall {recall[name]:.4f} where an exact search has 1"
                left_out.append({"contender": name, "reason": reason})
                continue
            searches[name] = search
        tell("searching by turns", len(CONTENDERS), len(CONTENDERS))
        took: dict[str, list[float]] = {name: [] for name in searches}
        for probe_D in probe_QD:
            for name, search in searches.items():
                start = time.perf_counter()
                search(probe_D)
                took[name].append(time.perf_counter() - start)
    entries = [
        {
            "contender": name,
            "enroll_seconds": enrolled[name],
            "search_ms": 1e3 * statistics.median(took[name]),
            "search_ms_p99": 1e3 * float(np.quantile(took[name], 0.99)),
            "times_tercet": None
            if name == OURS
            else statistics.median(a / b for a, b in zip(took[name], took[OURS], strict=True)),
            "recall": recall[name],
        }
        for name in searches
    ]
    return {
        "machine": machine(
            ["pymilvus", "milvus-lite", *(["faiss-cpu"] if any(name in PEERS for name in searches) else [])], "cpu"
        ),
        "setting": asdict(plan),
        "entries": entries,
        "left_out": left_out,
    }


def _unit(x_ND: npt.NDArray[np.float64]) -> Rows:
    unit_ND: Rows = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit_ND
