"""Small pretrained networks in folders, as timm and transformers write them: nothing is fetched in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tercet.encoders.torchvision import import_torchvision

SIDE = 32
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def write_timm(folder: Path, name: str = "test_resnet", *, seed: int = 5, classes: int = 10, **model_args: Any) -> Path:
    """A folder as timm's `save_for_hf` writes it, with a classifier."""
    import_torchvision()
    import timm

    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=classes, **model_args)
    with torch.no_grad():  # a batch normalisation whose statistics are those of a training
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    known = {"input_size": [3, SIDE, SIDE], "mean": MEAN, "std": STD, "num_classes": classes}
    known |= {key: model.pretrained_cfg[key] for key in ("first_conv", "classifier")}
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {"architecture": name, "num_classes": classes, "model_args": model_args, "pretrained_cfg": known}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_vit(folder: Path, *, seed: int = 5) -> Path:
    """A folder as `save_pretrained` writes it: a vision transformer of one layer, with its preprocessing."""
    import_torchvision()
    from transformers import ViTConfig, ViTModel

    from tercet.encoders.backbones import quiet

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=SIDE, patch_size=8
    )
    with quiet():
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    seen = {"image_mean": MEAN, "image_std": STD, "size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(seen))
    return folder
