"""From files to batches: what there is, who is trained on, which rows make a batch, and the pixels themselves."""

from __future__ import annotations

from tercet.data.audio import AudioFrontEnd
from tercet.data.faces import FaceFrontEnd
from tercet.data.front_end import FrontEnd, read_front_end
from tercet.data.images import ImageFrontEnd
from tercet.data.layouts import LAYOUTS, read_data
from tercet.data.manifest import GENUINE, KINDS, Manifest, Row, Skipped
from tercet.data.samplers import PKSampler
from tercet.data.signatures import SignatureFrontEnd
from tercet.data.splits import Split, split_identities
from tercet.data.store import SampleStore

__all__ = [
    "Manifest",
    "Row",
    "Skipped",
    "GENUINE",
    "KINDS",
    "read_data",
    "LAYOUTS",
    "Split",
    "split_identities",
    "PKSampler",
    "FrontEnd",
    "read_front_end",
    "AudioFrontEnd",
    "FaceFrontEnd",
    "ImageFrontEnd",
    "SignatureFrontEnd",
    "SampleStore",
]
