"""`tercet bench losses` where tercet's limit is told: 8192 rows, without peers, every mining mode and engine.

make bench                        or: python benchmarks/losses.py [options of `tercet bench losses`]

For a table with peers, `tercet bench losses` itself; how to read either is in docs/benchmarks.md.
"""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from tercet.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "losses", "--rows", "8192", "--no-peers", "--seconds", "3", *sys.argv[1:]]))
