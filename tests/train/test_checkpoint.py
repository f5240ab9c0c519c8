import errno
import json
import os
import shutil

import pytest
import torch

from tercet.encoders import ConvEncoder, ConvEncoderConfig
from tercet.errors import RunError
from tercet.losses import AutoMargin, TripletLoss
from tercet.train.checkpoint import Progress, load_checkpoint, save_checkpoint

LOSS = TripletLoss()


def made(seed, steps):
    """An encoder and its optimiser after some steps."""
    torch.manual_seed(seed)
    encoder = ConvEncoder(ConvEncoderConfig(1, 16, 16, embedding_dim=4, base_width=8))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    step(encoder, optimizer, steps)
    return encoder, optimizer


def step(encoder, optimizer, steps):
    x_BCHW = torch.linspace(-1, 1, 3 * 256).view(3, 1, 16, 16)
    for _ in range(steps):
        optimizer.zero_grad()
        (encoder(x_BCHW)[:, 0] ** 2).sum().backward()
        optimizer.step()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_after_loading_training_goes_on_bit_by_bit(tmp_path):
    encoder, optimizer = made(0, 3)
    best = {name: tensor + 1 for name, tensor in encoder.state_dict().items()}
    save_checkpoint(tmp_path, Progress(3, 1.5, 2, 0.25, 0.5, 2), encoder, optimizer, best, LOSS)
    other, other_optimizer = made(1, 0)
    progress, found = load_checkpoint(tmp_path, other, other_optimizer, LOSS)
    assert progress == Progress(3, 1.5, 2, 0.25, 0.5, 2)
    assert found.keys() == best.keys() and all(torch.equal(found[name], best[name]) for name in best)
    step(encoder, optimizer, 4)
    step(other, other_optimizer, 4)
    assert same(encoder, other)


def test_a_margin_that_moves_stands_where_it_stood(tmp_path):
    encoder, optimizer = made(0, 1)
    loss = TripletLoss(AutoMargin())
    x_BD = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        loss(x_BD, torch.arange(8) // 2)
        x_BD = 1.1 * x_BD
    save_checkpoint(tmp_path, Progress(3), encoder, optimizer, None, loss)
    other = TripletLoss(AutoMargin())
    load_checkpoint(tmp_path, encoder, optimizer, other)
    assert other.margin.value == loss.margin.value > 0
    assert float(other(x_BD, torch.arange(8) // 2)) == float(loss(x_BD, torch.arange(8) // 2))


def test_without_best_weights_and_without_any_checkpoint(tmp_path):
    encoder, optimizer = made(0, 1)
    assert load_checkpoint(tmp_path / "nowhere", encoder, optimizer, LOSS) is None
    save_checkpoint(tmp_path, Progress(1), encoder, optimizer, None, LOSS)
    assert load_checkpoint(tmp_path, encoder, optimizer, LOSS) == (Progress(1), None)


def test_the_newest_two_are_kept_and_the_newest_is_used(tmp_path):
    encoder, optimizer = made(0, 1)
    for number in (1, 20, 300):
        save_checkpoint(tmp_path, Progress(number), encoder, optimizer, None, LOSS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000020", "step-000000300"]
    assert load_checkpoint(tmp_path, encoder, optimizer, LOSS)[0].step == 300


def test_what_was_damaged_does_not_push_out_what_is_whole(tmp_path):
    encoder, optimizer = made(0, 1)
    for number in (10, 20, 21):
        save_checkpoint(tmp_path, Progress(number), encoder, optimizer, None, LOSS, kept=3)
    for number in (20, 21):
        (tmp_path / f"step-{number:09d}" / "state.json").write_text("{")
    for number in (12, 14):
        save_checkpoint(tmp_path, Progress(number), encoder, optimizer, None, LOSS, kept=3)
    assert [path.name[-2:] for path in sorted(tmp_path.iterdir())] == ["10", "12", "14"]
    assert load_checkpoint(tmp_path, encoder, optimizer, LOSS)[0].step == 14


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_serves(tmp_path, caplog, file, damage):
    encoder, optimizer = made(0, 2)
    save_checkpoint(tmp_path, Progress(2), encoder, optimizer, None, LOSS)
    before = [parameter.clone() for parameter in encoder.parameters()]
    step(encoder, optimizer, 1)
    save_checkpoint(tmp_path, Progress(3), encoder, optimizer, None, LOSS)
    path = tmp_path / "step-000000003" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[: len(content) // 2])
        case "flipped":
            path.write_bytes(content)
    progress, _ = load_checkpoint(tmp_path, encoder, optimizer, LOSS)
    assert progress.step == 2
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), before, strict=True))
    assert len(caplog.records) == 1 and file in caplog.text and "the checkpoint before it" in caplog.text


def test_when_all_are_damaged_one_line_says_so(tmp_path):
    encoder, optimizer = made(0, 1)
    save_checkpoint(tmp_path, Progress(1), encoder, optimizer, None, LOSS)
    (tmp_path / "step-000000001" / "state.json").write_text("{}")
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        load_checkpoint(tmp_path, encoder, optimizer, LOSS)


def test_a_checkpoint_of_another_encoder_does_not_fit(tmp_path):
    encoder, optimizer = made(0, 1)
    save_checkpoint(tmp_path, Progress(1), encoder, optimizer, None, LOSS)
    other = ConvEncoder(ConvEncoderConfig(1, 16, 16, embedding_dim=5, base_width=8))
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        load_checkpoint(tmp_path, other, torch.optim.AdamW(other.parameters()), LOSS)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    encoder, optimizer = made(0, 1)
    save_checkpoint(tmp_path, Progress(1), encoder, optimizer, None, LOSS)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        save_checkpoint(tmp_path, Progress(2), encoder, optimizer, None, LOSS)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert load_checkpoint(tmp_path, encoder, optimizer, LOSS)[0].step == 1


def test_what_a_kill_left_half_written_is_not_taken_for_a_checkpoint(tmp_path):
    encoder, optimizer = made(0, 1)
    save_checkpoint(tmp_path, Progress(1), encoder, optimizer, None, LOSS)
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".partial-000000002")
    assert load_checkpoint(tmp_path, encoder, optimizer, LOSS)[0].step == 1
    save_checkpoint(tmp_path, Progress(2), encoder, optimizer, None, LOSS)
    state = json.loads((tmp_path / "step-000000002" / "state.json").read_text())
    assert state["progress"]["step"] == 2
