"""Networks of other libraries as plain modules: pictures [B, 3, H, W] in, one vector of features [B, F] each out.

    "timm"           any model of timm, without its classifier
    "transformers"   any vision model of transformers: its class token, or where it has none the mean over places
    "dlib"           dlib's network for faces (tercet.encoders.face_network)

A network is described by its library and a JSON object, and built from these alone, with random weights: without the
network, and without code from anywhere but the installed libraries.

Legend: B batch, C channels, H height, W width, T tokens, F features.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, final

import torch
from torch import nn

from tercet.encoders.face_network import FaceNetwork
from tercet.encoders.torchvision import import_torchvision
from tercet.errors import InvalidInput, MissingExtra

__all__ = [
    "Library",
    "build_backbone",
    "describe_transformer",
    "load_timm",
    "load_timm_weights",
    "load_transformer",
    "quiet",
]

Library = Literal["timm", "transformers", "dlib"]

# What a configuration file may ask for, so that a foreign one cannot claim the machine's memory.
_MOST_PARAMETERS: Final = 2 * 10**9
# Of a transformers configuration: what says nothing of the network's shape.
_NO_SHAPE: Final = ("architectures", "auto_map", "id2label", "label2id", "transformers_version", "_name_or_path")


def build_backbone(library: str, architecture: Mapping[str, Any]) -> nn.Module:
    """The network that this description names, with random weights from torch's global generator.

    Raises:
        InvalidInput: The description is not one that the installed version of the library knows.
        MissingExtra: The library is not installed.
    """
    match library:
        case "timm":
            return _built(lambda: load_timm(architecture, None), architecture)
        case "transformers":
            return _built(lambda: _Transformer(_model(architecture)), architecture)
        case "dlib":
            return FaceNetwork()
        case _:
            raise InvalidInput(f"library={library!r} is not known; known: 'timm', 'transformers', 'dlib'")


def load_timm(architecture: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """A model of timm: `name`, `model_args` and `pretrained_cfg` of the description; weights from a safetensors file.

    Raises:
        InvalidInput: timm does not know it, or the weights do not fit.
        MissingExtra: timm is not installed.
    """
    timm = _timm()
    name = architecture.get("name")
    # Names with a scheme ("hf-hub:...") would be fetched; those that are no models of timm itself are refused.
    if not isinstance(name, str) or not timm.is_model(name):
        raise InvalidInput(f"timm knows no model {name!r} (version {timm.__version__})")
    given = dict(architecture.get("pretrained_cfg", {}))
    if weights is not None:
        given |= {"file": str(weights)}
    try:
        with quiet():
            model: nn.Module = timm.create_model(
                name,
                pretrained=weights is not None,
                pretrained_cfg_overlay=given,
                num_classes=0,
                **dict(architecture.get("model_args", {})),
            )
    except (RuntimeError, TypeError, ValueError, KeyError, AssertionError) as error:
        raise InvalidInput(f"timm cannot build {name!r}: {_first_line(error)}") from error
    return model


def load_timm_weights(architecture: Mapping[str, Any], weights: Path) -> nn.Module:
    """A model of timm with the weights of a safetensors file, all of them.

    timm passes over weights that are missing or bear other names; those would be left at random, and differ from one
    drawing to the next.

    Raises:
        InvalidInput: timm does not know the model, or the weights do not fit.
        MissingExtra: timm is not installed.
    """
    models = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(load_timm(architecture, weights))
    first, second = (model.state_dict() for model in models)
    missing = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    if missing:
        raise InvalidInput(f"timm: the weights lack {missing[0]!r}, and {len(missing) - 1} more")
    return models[0]


def describe_transformer(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is needed of a transformers config.json to build its vision model again; of a model for two, that part.

    Raises:
        InvalidInput: The installed transformers does not know the kind of model, or it takes no pictures.
        MissingExtra: transformers is not installed.
    """
    known = _config(config)
    known = getattr(known, "vision_config", known)
    values: dict[str, Any] = json.loads(known.to_json_string(use_diff=False))
    if getattr(known, "num_channels", None) != 3:
        raise InvalidInput(f"transformers: {values.get('model_type')!r} is no model for pictures of three channels")
    return {key: value for key, value in values.items() if key not in _NO_SHAPE}


def load_transformer(architecture: Mapping[str, Any], folder: Path) -> nn.Module:
    """A vision model of transformers with the weights of a folder that holds model.safetensors.

    Raises:
        InvalidInput: The weights do not fit.
        MissingExtra: transformers is not installed.
    """
    transformers = _transformers()
    try:
        with quiet():
            model, found = transformers.AutoModel.from_pretrained(
                str(folder),
                config=_config(architecture),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"transformers cannot load it: {_first_line(error)}") from error
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        raise InvalidInput(f"transformers: the weights lack {missing[0]!r}, and {len(missing) - 1} more")
    return _Transformer(model)


@final
class _Transformer(nn.Module):
    """A vision model of transformers whose answer is one vector: the class token, or the mean over places."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        names = [name for name, _ in model.named_parameters()]
        self._has_class_token = any(name.endswith(("cls_token", "class_embedding")) for name in names)
        for name, parameter in model.named_parameters():
            if "pooler" in name:  # not used: many models are published without a trained one
                nn.init.zeros_(parameter.requires_grad_(False))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(pixel_values=x_BCHW).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self._has_class_token else hidden.mean(dim=1)


def _model(architecture: Mapping[str, Any]) -> nn.Module:
    transformers = _transformers()
    try:
        with quiet():
            model: nn.Module = transformers.AutoModel.from_config(_config(architecture), trust_remote_code=False)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidInput(f"transformers cannot build it: {_first_line(error)}") from error
    return model


def _config(values: Mapping[str, Any]) -> Any:
    """The configuration object of the kind that `model_type` names."""
    _transformers()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise InvalidInput(f"transformers knows no model of type {kind!r}")
    try:
        return CONFIG_MAPPING[kind].from_dict({key: value for key, value in values.items() if key != "auto_map"})
    except Exception as error:  # its checks of values raise all sorts
        raise InvalidInput(f"transformers: a configuration that is not valid ({_first_line(error)})") from error


def _built(build: Any, architecture: Mapping[str, Any]) -> nn.Module:
    """The network, after a look at its size: on the meta device a network takes no memory."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            size = sum(parameter.numel() for parameter in build().parameters())
    except NotImplementedError:  # an initialisation that needs numbers
        size = 0
    if size > _MOST_PARAMETERS:
        raise InvalidInput(f"encoder: {size} weights, more than the {_MOST_PARAMETERS} allowed")
    network: nn.Module = build()
    return network


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers prints while it loads."""
    try:
        logging: Any = importlib.import_module("transformers.utils.logging")
    except ImportError:
        yield
        return
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _timm() -> Any:
    import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise MissingExtra.of("timm:", "vision") from error
    return timm


def _transformers() -> Any:
    with contextlib.suppress(MissingExtra):  # transformers works without, but not with one that fails to import
        import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra.of("hf:", "vision") from error
    return transformers


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
