"""Test set-up shared by all: strategies and made-up data are importable, one torch thread per worker.

`make test` draws the same examples every time, so that a change is judged by what it changes; `make test-long` and
HYPOTHESIS_PROFILE=explore draw new ones.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import hypothesis
import torch

from tercet.encoders.torchvision import import_torchvision

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "functional")]
torch.set_num_threads(1)

# A shell that runs the suite in the background has it ignore Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when triton is first imported: without a GPU its kernels run in an interpreter, on the CPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# PyPI's torchvision fails to import beside a torch without CUDA, and takes with it whatever looks for it.
# After the line above: torchvision imports triton.
if importlib.util.find_spec("torchvision"):
    import_torchvision()

hypothesis.settings.register_profile("suite", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
