"""Backbones of timm and transformers: what is found, what is built again, what training may and may not change."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file

from published import MEAN, SIDE, STD, write_timm, write_vit
from tercet.encoders import PretrainedConfig, find_backbone, read_encoder
from tercet.errors import DataError, InvalidInput, InvalidOption, MissingExtra

pytest.importorskip("timm", reason="timm is not installed (the extra vision)")
pytest.importorskip("transformers", reason="transformers is not installed (the extra vision)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    return {"timm": write_timm(place / "timm"), "hf": write_vit(place / "vit")}


@pytest.fixture(scope="module", params=["timm", "hf"])
def backbone(request, folders):
    return find_backbone(f"{request.param}:{folders[request.param]}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing in the cache, and whoever fetches without having been asked to is found out."""
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: pytest.fail(f"fetches {names}"))


def pictures(channels=3):
    return torch.rand(6, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def ready(backbone, **options):
    encoder = backbone.config(3, **options).build()
    encoder.begin_with(backbone.start())
    return encoder


def theirs(backbone, folders, x_BCHW):
    """The features as the library itself gives them, of pictures normalised as the model's own files say."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    x_BCHW = ((x_BCHW + 1) / 2 - mean) / std
    if backbone.library == "timm":
        import timm

        model = timm.create_model("test_resnet", num_classes=10).eval()
        model.load_state_dict(load_file(folders["timm"] / "model.safetensors"))
        return model.forward_head(model.forward_features(x_BCHW), pre_logits=True)
    from transformers import ViTModel

    model = ViTModel.from_pretrained(folders["hf"], add_pooling_layer=False).eval()
    return model(pixel_values=x_BCHW).last_hidden_state[:, 0]


def test_the_features_are_those_of_the_library_itself(backbone, folders):
    with torch.inference_mode():
        found_BF = ready(backbone).eval().features(pictures())
        expected_BF = torch.nn.functional.normalize(theirs(backbone, folders, pictures()), dim=1)
    assert backbone.size == (SIDE, SIDE) and found_BF.shape[1] == backbone.features
    torch.testing.assert_close(found_BF, expected_BF, atol=1e-5, rtol=0)


def test_training_begins_where_the_frozen_features_stand(backbone):
    """As many numbers as features: a rotation, which leaves every similarity as it is."""
    encoder = ready(backbone, embedding_dim=backbone.features).eval()
    x_BD, f_BF = encoder(pictures()), encoder.features(pictures())
    torch.testing.assert_close(x_BD @ x_BD.T, f_BF @ f_BF.T, atol=1e-5, rtol=0)
    assert backbone.config(3).embedding_dim == min(backbone.features, 512)


def step(encoder):
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    encoder.train()
    (encoder(pictures()) @ torch.linspace(-1, 1, encoder.config.embedding_dim)).sum().backward()
    optimizer.step()


def test_what_is_frozen_stays_and_the_layer_after_it_learns(backbone):
    encoder = ready(backbone, frozen=True)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    step(encoder)
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"embed.weight", "embed.bias"}


def test_without_freezing_everything_learns_but_the_statistics_of_pretrained_batch_normalisation(backbone):
    encoder = ready(backbone)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    step(encoder)
    same = {name for name, tensor in encoder.state_dict().items() if torch.equal(tensor, before[name])}
    # Beside them only what no output depends on: a pooler that is not used, a bias that a softmax takes off.
    assert all("running_" in name or "num_batches" in name or "pooler" in name or "key.bias" in name for name in same)
    assert any("running_mean" in name for name in same) == (backbone.library == "timm")


def test_random_batch_normalisation_learns_its_statistics(folders, tmp_path):
    (tmp_path / "config.json").write_bytes((folders["timm"] / "config.json").read_bytes())
    found = find_backbone(f"timm:{tmp_path}")
    assert found.weights is None and found.start() is None and not found.config(3).is_pretrained
    encoder = found.config(3).build()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items() if "running_mean" in name}
    step(encoder)
    assert before and all(not torch.equal(encoder.state_dict()[name], tensor) for name, tensor in before.items())
    with pytest.raises(InvalidInput, match="random weights cannot be frozen"):
        found.config(3, frozen=True)


def test_with_the_flip_test_a_picture_and_its_mirror_image_are_one(backbone):
    plain, tested = ready(backbone).eval(), ready(backbone, flip_test=True).eval()
    x, mirrored = pictures(), pictures().flip(3)
    torch.testing.assert_close(tested(x), tested(mirrored), atol=1e-5, rtol=0)
    assert (plain(x) - plain(mirrored)).abs().max() > 1e-3


def test_a_grey_picture_is_one_of_three_equal_channels(backbone):
    torch.manual_seed(0)
    grey = backbone.config(1).build().eval()
    colour = backbone.config(3).build().eval()
    colour.load_state_dict(grey.state_dict())
    torch.testing.assert_close(grey(pictures(1)), colour(pictures(1).expand(-1, 3, -1, -1)))


def test_the_configuration_builds_it_again_without_the_folder(backbone):
    """JSON alone, through text and back; weights as a run keeps them."""
    config = backbone.config(3, frozen=True, flip_test=True)
    again = read_encoder(json.loads(json.dumps(config.to_json())))
    assert again == config and config.takes((3, SIDE, SIDE)) and not config.takes((1, SIDE, SIDE))
    encoder, other = ready(backbone, frozen=True, flip_test=True).eval(), again.build().eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(pictures()), other(pictures()))
    assert other.begin_with(backbone.start()) == config.weights
    assert again.with_embedding_dim(7).build().embed.out_features == 7


def test_weights_have_a_name_that_changes_with_them(backbone):
    encoder = ready(backbone)
    start = backbone.start()
    name = next(name for name in start if name.endswith("weight"))
    assert encoder.begin_with(start | {name: start[name] + 1}) != backbone.config(3).weights
    with pytest.raises(InvalidInput, match="start: not the weights of"):
        encoder.begin_with({key: value for key, value in start.items() if key != name})


def test_values_that_cannot_be_are_refused(backbone):
    good = backbone.config(3).to_json()
    wrong = (
        {"channels": 2},
        {"height": 4},
        {"features": 0},
        {"embedding_dim": 4096},
        {"mean": [0.5, 0.5]},
        {"mean": "grey"},
        {"std": [1, 1, 0]},
        {"std": [1, 1, float("inf")]},
        {"architecture": "resnet18"},
        {"more": 1},
    )
    for change in wrong:
        with pytest.raises(InvalidInput, match=f"{next(iter(change))}"):
            read_encoder(good | change)


def test_a_foreign_configuration_fetches_nothing_runs_nothing_and_takes_no_memory(backbone):
    good = backbone.config(3).to_json()
    for library, architecture in (
        ("timm", {"name": "hf-hub:somebody/something"}),
        ("timm", {"name": "local-dir:/etc"}),
        ("timm", {"name": 3}),
        ("timm", {"name": "test_resnet", "model_args": {"nothing": 3}}),
        ("transformers", {"model_type": "somebody/something"}),
        ("transformers", {"model_type": "vit", "hidden_size": 10**6, "intermediate_size": 10**6}),
        ("transformers", {"model_type": "vit", "hidden_size": "wide"}),
        ("keras", {}),
    ):
        config = read_encoder(good | {"library": library, "architecture": architecture})
        with pytest.raises(InvalidInput):
            config.build()


@pytest.mark.parametrize("name", ["resnet18", "timm:", "hf:", "keras:vgg", "", "hf:not/a/name"])
def test_names_that_mean_nothing(name):
    with pytest.raises(InvalidOption, match="encoder"):
        find_backbone(name)


def test_what_is_not_on_this_machine_is_not_fetched_unasked():
    found = find_backbone("timm:test_convnext")
    assert found.weights is None and found.size == (160, 160)
    with pytest.raises(InvalidOption, match="hf:some/model is not on this machine; --download fetches it"):
        find_backbone("hf:some/model")
    with pytest.raises(InvalidInput, match="timm knows no model 'resnet_eighteen'"):
        find_backbone("timm:resnet_eighteen")


def test_what_is_asked_for_is_fetched_from_the_models_own_place(monkeypatch, folders):
    asked = []

    def fetch(repository, file):
        asked.append((repository, file))
        path = folders["hf"] / file
        if not path.is_file():
            raise EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    found = find_backbone("hf:some/model", download=True)
    assert [file for _, file in asked] == ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert {repository for repository, _ in asked} == {"some/model"}
    assert found.config(3).weights == find_backbone(f"hf:{folders['hf']}").config(3).weights


def test_weights_of_timm_come_from_the_hub_and_from_the_cache(monkeypatch, tmp_path):
    file = write_timm(tmp_path / "other", classes=1000) / "model.safetensors"
    asked = []

    def fetch(repository, name):
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    fetched = find_backbone("timm:test_resnet", download=True)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: pytest.fail("fetches what is there"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(file))
    kept = load_file(file)
    for found in (fetched, find_backbone("timm:test_resnet"), find_backbone("timm:test_resnet", download=True)):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in found.weights.items())


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no connection"), OSError("no route"), RuntimeError("x")])
def test_a_fetch_that_fails_is_one_line(monkeypatch, error):
    def fetch(repository, file):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(DataError, match=r"^hf:some/model: cannot be fetched, "):
        find_backbone("hf:some/model", download=True)


def test_folders_that_are_not_what_they_should_be(folders, tmp_path):
    for kind in ("timm", "hf"):
        with pytest.raises(DataError, match=r"holds no config\.json"):
            find_backbone(f"{kind}:{tmp_path}")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(DataError, match="is no JSON object"):
        find_backbone(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        find_backbone(f"timm:{tmp_path}")
    for text, reason in (
        ('{"model_type": "bert"}', "no model for pictures"),
        ('{"model_type": "brain"}', "knows no model of type 'brain'"),
        ('{"auto_map": {"AutoModel": "evil.Model"}}', "knows no model of type None"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InvalidInput, match=reason):
            find_backbone(f"hf:{tmp_path}")


def test_weights_that_do_not_fit_are_refused(folders, tmp_path):
    for kind in ("timm", "hf"):
        place, library = tmp_path / kind, "timm" if kind == "timm" else "transformers"
        place.mkdir()
        (place / "config.json").write_bytes((folders[kind] / "config.json").read_bytes())
        other = folders["hf" if kind == "timm" else "timm"]
        (place / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(InvalidInput, match=f"{library}: the weights lack"):
            find_backbone(f"{kind}:{place}")


def test_a_model_of_pictures_and_text_gives_the_part_for_pictures(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    from tercet.encoders.backbones import quiet

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=small | {"image_size": SIDE, "patch_size": 8},
    )
    with quiet():
        CLIPModel(config).save_pretrained(tmp_path)
    found = find_backbone(f"hf:{tmp_path}")
    assert found.architecture["model_type"] == "clip_vision_model" and found.features == 16
    assert found.size == (SIDE, SIDE) and not any("text" in name for name in found.weights)


def test_the_kinds_of_output_that_transformers_have(tmp_path):
    """Maps, tokens without a class token: a vector each, and no weight of a pooler in the gradient."""
    from transformers import ConvNextConfig, ResNetConfig, SwinConfig

    for config, features in (
        (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), 16),
        (ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2), 16),
        (SwinConfig(image_size=SIDE, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4), 16),
    ):
        place = tmp_path / config.model_type
        place.mkdir()
        config.save_pretrained(place)
        found = find_backbone(f"hf:{place}")
        assert found.features == features and found.weights is None
        assert found.config(3).build()(torch.zeros(2, 3, *found.size)).shape == (2, features)


def test_without_the_packages_one_line_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"timm: needs an extra: pip install 'tercet\[vision\]'"):
        find_backbone("timm:test_resnet")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"hf: needs an extra: pip install 'tercet\[vision\]'"):
        PretrainedConfig(
            "hf:x", "transformers", {}, 3, 32, 32, (0.5,) * 3, (0.5,) * 3, 8, "random", 8
        ).build()  # fmt: skip
