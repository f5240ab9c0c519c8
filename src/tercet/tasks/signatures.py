"""Signatures on paper, genuine and forged: offline verification, writer-independent."""

from __future__ import annotations

import torch

from tercet.data import SignatureFrontEnd
from tercet.data import signature_layouts as published
from tercet.encoders import DescribedConfig, DrawingEncoderConfig
from tercet.evaluate import ReferenceProtocol
from tercet.tasks.task import Layout, Task
from tercet.train.augment import stroke
from tercet.train.augment_ink import rewrite
from tercet.train.plan import Settings

__all__ = ["TASK"]


def augment(x_BCHW: torch.Tensor, labels_B: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Make other writers of the few there are, by slant and bend; then turn, scale, move and shake each a little.

    A forgery is bent as its target is, so that it stays as hard to tell. Nothing is ever mirrored: the mirror image of
    a signature is not genuine.
    """
    x_BCHW = rewrite(
        x_BCHW,
        labels_B,
        generator,
        share=0.8,
        skew=0.15,
        bend=0.12,
        tremble=0.02,
        shift=0.08,
        zoom=0.1,
        stretch=0.1,
        degrees=8,
    )
    return stroke(x_BCHW, generator, thinner=0.15, thicker=0.3)


TASK = Task(
    name="signatures",
    summary="handwritten signatures on paper, with forgeries where there are any: one picture a file",
    front_end=SignatureFrontEnd(64, 128),
    encoder=DescribedConfig(DrawingEncoderConfig(64, 128, cell=10), embedding_dim=640),  # cells as the baseline's
    augment=augment,
    settings=Settings(
        minutes=5.0,
        identities_per_batch=16,
        samples_per_identity=4,
        forgeries_per_identity=2,
        learning_rate=3e-4,  # what it begins with is worth keeping
    ),
    references=ReferenceProtocol(),
    layouts=(
        Layout(
            "genuine-forged",
            "a folder per writer, in it genuine/ and forged/ (SigComp, and many others)",
            published.recognise_genuine_and_forged,
            published.read_genuine_and_forged,
        ),
        Layout(
            "sigcomp",
            "SigComp as Kaggle has it: 001/ and 001_forg/, also in train/ and test/; or Offline Genuine/, Ref/ ...",
            published.recognise_sigcomp,
            published.read_sigcomp,
        ),
        Layout(
            "cedar",
            "CEDAR: full_org/original_7_3.png and full_forg/forgeries_7_3.png",
            published.CEDAR.recognise,
            published.CEDAR.read,
        ),
        Layout(
            "gpds",
            "GPDS: 007/c-007-03.jpg and 007/cf-007-03.jpg",
            published.GPDS.recognise,
            published.GPDS.read,
        ),
        Layout(
            "mcyt",
            "MCYT-75: 0007/0007v03.bmp and 0007/0007f03.bmp",
            published.MCYT.recognise,
            published.MCYT.read,
        ),
        Layout(
            "bhsig260",
            "BHSig260: Bengali/007/B-S-007-G-03.tif and B-S-007-F-03.tif, Hindi likewise",
            published.BHSIG.recognise,
            published.BHSIG.read,
        ),
        Layout(
            "hansig",
            "HanSig: original_12_3_4.jpg and forgery_12_3_4.jpg; the identity is writer and name",
            published.HANSIG.recognise,
            published.HANSIG.read,
        ),
    ),
)
