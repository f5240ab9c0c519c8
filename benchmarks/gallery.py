"""A gallery on this machine: enroll, search, forget; times, and recall against an exact search in memory.

python benchmarks/gallery.py [--templates 10000] [--width 128] [--probes 200] [--index FLAT HNSW IVF_FLAT] [--uri URI]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from tercet.evaluate import nearest
from tercet.gallery import Template, open_gallery


def measure(uri: str, index: str, x_ND: np.ndarray, probe_QD: np.ndarray) -> None:
    """Print one row of the table."""
    templates = [Template(f"p{n // 5}", x, f"c{n}", path=f"/{n}") for n, x in enumerate(x_ND)]
    with open_gallery(uri, model="benchmark", dimension=x_ND.shape[1], create=True, index=index) as gallery:
        start = time.perf_counter()
        gallery.enroll(templates)
        enroll_s = time.perf_counter() - start
        gallery.search(probe_QD[0], 10)
        start = time.perf_counter()
        found = [gallery.search(probe_D, 10) for probe_D in probe_QD]
        search_ms = 1000 * (time.perf_counter() - start) / len(probe_QD)
        oracle = nearest(probe_QD, x_ND, 10)
        recall = 0.0
        for hits, rows, scores in zip(found, oracle.index_QK, oracle.score_QK, strict=True):
            recall += len({hit.path for hit in hits} & {f"/{row}" for row in rows}) / 10
            if index == "FLAT":
                assert [hit.score for hit in hits] == scores.tolist(), "not what the exact search finds"
        start = time.perf_counter()
        gallery.forget("p7")
        forget_s = time.perf_counter() - start
    start = time.perf_counter()
    with open_gallery(uri) as gallery:
        assert len(gallery) == len(x_ND) - 5
    open_s = time.perf_counter() - start
    print(
        f"{index:9} enroll {enroll_s:6.2f} s   search {search_ms:7.2f} ms   recall@10 {recall / len(probe_QD):.4f}   "
        f"forget {forget_s:6.2f} s   open {open_s:5.2f} s"
    )


def main() -> None:
    """Measure every index asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--index", nargs="+", default=["FLAT", "HNSW", "IVF_FLAT"])
    parser.add_argument("--uri", help="a Milvus server; the galleries bench_INDEX are made there")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    # People as a model places them: five templates around a centre each.
    centre = rng.standard_normal((-(-arguments.templates // 5), arguments.width))
    x_ND = np.repeat(centre, 5, axis=0)[: arguments.templates]
    x_ND = x_ND + 0.5 * rng.standard_normal(x_ND.shape)
    probe_QD = x_ND[rng.integers(0, len(x_ND), arguments.probes)]
    probe_QD = probe_QD + 0.3 * rng.standard_normal(probe_QD.shape)
    x_ND, probe_QD = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (x_ND, probe_QD))
    print(f"{len(x_ND)} templates of width {arguments.width}, {len(probe_QD)} probes, one at a time")
    for index in arguments.index:
        with tempfile.TemporaryDirectory() as folder:
            measure(
                f"{arguments.uri}#bench_{index}" if arguments.uri else str(Path(folder) / "g.db"), index, x_ND, probe_QD
            )


if __name__ == "__main__":
    main()
