"""Test set-up shared by all: strategies and made-up data are importable, one torch thread per worker."""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "functional")]
torch.set_num_threads(1)
