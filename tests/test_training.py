"""Training: the loop is the plain loop, interruptions leave no trace, and accuracies are what was predicted."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils import training
from utils.backbones import MLP, Conv4
from utils.data import DataError
from utils.data.episodes import Episode, EpisodeSampler
from utils.data.images import ImageSet
from utils.fewshot.prototypical import Prototypical, classify_embedded
from utils.training import Checkpoint, best_device, embed_images, episode_accuracies, fit

STEPS = 12


class Interrupted(Exception):
    pass


def build(seed: int = 0, momentum: bool = False):
    """A small network with running statistics, its optimizer and its scheduler."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    if momentum:
        optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
    return network, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)


def loss_of(network: nn.Module, stop_at: int | None = None, nan_at: int | None = None, seen: list | None = None):
    def loss_at(step: int) -> Tensor:
        if seen is not None:
            seen.append((step, network.training))
        if step == stop_at:
            raise Interrupted
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (network(x)[:, 0] - x[:, 0] * x[:, 1]).square().mean()
        return loss * math.nan if step == nan_at else loss

    return loss_at


def alike(a, b) -> bool:
    """Equal to the bit, however deep."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def states(network, optimizer, scheduler) -> list[dict]:
    return [copy.deepcopy(part.state_dict()) for part in (network, optimizer, scheduler)]


def checkpoint(folder: Path, every: int = 3, **fingerprint) -> Checkpoint:
    return Checkpoint(folder / "run.pt", {"width": 6, "steps": (7, 4), **fingerprint}, every)


# --------------------------------------------------------------------------------------------------------- the loop


def test_fit_is_the_plain_loop():
    parts = build()
    losses = fit(parts[0], loss_of(parts[0]), STEPS, parts[1], parts[2])
    network, optimizer, scheduler = build()
    network.train()
    expected = []
    for step in range(STEPS):
        loss = loss_of(network)(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        expected.append(loss.item())
    assert losses == expected and all(isinstance(loss, float) for loss in losses)
    assert alike(states(*parts), states(network, optimizer, scheduler))
    assert parts[1].param_groups[0]["lr"] == 0.02 / 4


def test_the_network_trains_in_training_mode_and_is_left_in_evaluation_mode():
    network, optimizer, _ = build()
    seen = []
    fit(network.eval(), loss_of(network, seen=seen), 3, optimizer)
    assert seen == [(0, True), (1, True), (2, True)]
    assert not any(module.training for module in network.modules())


def test_a_loss_that_is_not_finite_is_an_error():
    network, optimizer, _ = build()
    with pytest.raises(FloatingPointError, match="the loss of my run is not finite: lower the learning rate"):
        fit(network, loss_of(network, nan_at=1), 3, optimizer, label="my run")


def noisy(n_classes: int, seed: int) -> ImageSet:
    """Classes told apart by 4 pixels of 16, and by noise in the others."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n_classes, 20, 1, 4, 4), generator=generator)
    images[:, :, :, 0] = torch.randint(30, 226, (n_classes, 1, 1, 4), generator=generator)
    images[:, :, :, 0] += torch.randint(-30, 31, (n_classes, 20, 1, 4), generator=generator)
    names = tuple(str(c) for c in range(n_classes))
    return ImageSet(images.clamp(0, 255).to(torch.uint8), names, names, "noisy", str(seed))


def test_training_helps_with_new_classes():
    torch.manual_seed(0)
    network = MLP(16, (16,), activate_last=False)
    learner = Prototypical(network, "running")
    sampler, test = EpisodeSampler(noisy(60, 0), 5, 1, 5, 4), EpisodeSampler(noisy(60, 1), 5, 1, 5, 50)
    before = episode_accuracies(lambda e: learner.logits(None, e), test, 200)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = fit(network, lambda step: learner.loss(None, sampler.sample(step)), 150, optimizer)
    after = episode_accuracies(lambda e: learner.logits(None, e), test, 200)
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    assert before.mean() < 0.55 and after.mean() > before.mean() + 0.2


# -------------------------------------------------------------------------------------------- interrupted and resumed


@pytest.mark.parametrize("stop_at", [1, 3, 7, 11])
@pytest.mark.parametrize("momentum", [False, True], ids=["adam", "sgd"])
def test_an_interruption_leaves_no_trace(tmp_path, stop_at, momentum):
    whole = build(0, momentum)
    losses = fit(whole[0], loss_of(whole[0]), STEPS, whole[1], whole[2])

    parts = build(0, momentum)
    with pytest.raises(Interrupted):
        fit(parts[0], loss_of(parts[0], stop_at), STEPS, parts[1], parts[2], checkpoint(tmp_path))
    parts = build(0 if stop_at < 3 else 1, momentum)  # nothing but the file is left of the first run
    seen = []
    resumed = fit(parts[0], loss_of(parts[0], seen=seen), STEPS, parts[1], parts[2], checkpoint(tmp_path))
    assert seen[0][0] == stop_at // 3 * 3 and len(seen) == STEPS - stop_at // 3 * 3
    assert resumed == losses
    assert alike(states(*parts), states(*whole))


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    parts = build()
    losses = fit(parts[0], loss_of(parts[0]), 4, parts[1], checkpoint=checkpoint(tmp_path))
    again, seen = build(1), []
    assert fit(again[0], loss_of(again[0], seen=seen), 4, again[1], checkpoint=checkpoint(tmp_path)) == losses
    assert not seen and not again[0].training and alike(again[0].state_dict(), parts[0].state_dict())


def test_a_run_can_be_made_longer(tmp_path):
    whole, short = build(), build()
    losses = fit(whole[0], loss_of(whole[0]), 9, whole[1])
    fit(short[0], loss_of(short[0]), 5, short[1], checkpoint=checkpoint(tmp_path))
    longer = build(1)
    assert fit(longer[0], loss_of(longer[0]), 9, longer[1], checkpoint=checkpoint(tmp_path)) == losses
    assert alike(longer[0].state_dict(), whole[0].state_dict())


def test_a_longer_run_is_not_cut(tmp_path):
    parts = build()
    fit(parts[0], loss_of(parts[0]), 5, parts[1], checkpoint=checkpoint(tmp_path))
    with pytest.raises(ValueError, match=r"run\.pt holds 5 steps, more than the 4 asked for: delete it"):
        fit(parts[0], loss_of(parts[0]), 4, parts[1], checkpoint=checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"width": 7}, "width"),
        ({"seed": 1}, "seed"),
        ({"width": 7, "seed": 1}, "seed, width"),
        ({"steps": (7, 5)}, "steps"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, other, named):
    parts = build()
    fit(parts[0], loss_of(parts[0]), 3, parts[1], checkpoint=checkpoint(tmp_path))
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match=f"written by a run with another {named}: delete it to start afresh"):
        fit(parts[0], loss_of(parts[0]), 3, parts[1], checkpoint=checkpoint(tmp_path, **other))
    assert (tmp_path / "run.pt").read_bytes() == before


def test_a_damaged_checkpoint_is_named(tmp_path):
    store = checkpoint(tmp_path)
    assert store.load() is None
    store.save({"network": {"w": torch.randn(500)}, "step": 3})
    assert store.load()["step"] == 3
    content = store.path.read_bytes()
    for damaged in (b"", content[:10], content[: len(content) // 2], content[:-3], b"x" * 100, b"\x80\x02."):
        store.path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.pt is damaged or no checkpoint: delete it to start afresh"):
            store.load()
    for other in ([1, 2], {"network": {}}):
        torch.save(other, store.path)
        with pytest.raises(ValueError, match=r"run\.pt is no checkpoint of this course: delete it"):
            store.load()


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"fingerprint": {}, "step": Evil()}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        Checkpoint(tmp_path / "run.pt", {}).load()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("failing", ["save", "replace"])
def test_saving_is_all_or_nothing(tmp_path, monkeypatch, failing):
    store = checkpoint(tmp_path / "new" / "folder")
    store.save({"step": 1})
    before = store.path.read_bytes()

    def save(value, file):
        file.write(b"half")
        raise OSError("No space left on device")

    def replace(source, target):
        raise PermissionError("not allowed")

    if failing == "save":
        monkeypatch.setattr(torch, "save", save)
    else:
        monkeypatch.setattr(training.os, "replace", replace)
    with pytest.raises(DataError, match=r"No space|not allowed"):
        store.save({"step": 2})
    monkeypatch.undo()
    assert [path.name for path in store.path.parent.iterdir()] == ["run.pt"]
    assert store.path.read_bytes() == before


def test_a_run_that_breaks_down_keeps_its_last_good_checkpoint(tmp_path):
    parts = build()
    with pytest.raises(FloatingPointError, match="not finite by step 6; nothing was saved"):
        fit(parts[0], loss_of(parts[0], nan_at=4), STEPS, parts[1], checkpoint=checkpoint(tmp_path))
    state = checkpoint(tmp_path).load()
    assert state["step"] == 3 and all(value.isfinite().all() for value in state["network"].values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_resumed_run_does_not_make_the_gpu_wait(tmp_path):
    parts = build()
    parts[0].cuda()
    optimizer = torch.optim.Adam(parts[0].parameters(), 0.02)

    def loss_at(step: int) -> Tensor:
        return parts[0](torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).cuda()).square().mean()

    fit(parts[0], loss_at, 3, optimizer, checkpoint=checkpoint(tmp_path))
    again = torch.optim.Adam(parts[0].parameters(), 0.02)
    fit(parts[0], loss_at, 6, again, checkpoint=checkpoint(tmp_path))
    assert {state["step"].device.type for state in again.state.values()} == {"cpu"}
    assert {state["exp_avg"].device.type for state in again.state.values()} == {"cuda"}


# ------------------------------------------------------------------------------------------------------- embeddings


def uneven(size: int = 16) -> ImageSet:
    images = torch.randint(0, 256, (3, 4, 1, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[1, 2:] = 0
    return ImageSet(images, ("a", "b", "c"), ("g",) * 3, "uneven", "all", torch.tensor([4, 2, 4]))


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("chunk", [5, 256])
def test_the_bank_holds_the_embedding_of_every_image(rotations, chunk):
    images = uneven()
    torch.manual_seed(0)
    network = Conv4(1, 5, 16)
    network(torch.rand(20, 1, 16, 16))  # in training mode: that must not matter
    bank = embed_images(network, images, rotations, chunk)
    assert bank.shape == (12 if rotations else 3, 4, 5) and not bank.requires_grad and network.training
    for turn in range(4 if rotations else 1):
        for c in range(3):
            for i in range(4):
                image = torch.rot90(images.images[c, i], turn, (-2, -1)).float() / 255
                torch.testing.assert_close(bank[3 * turn + c, i], network(image[None], "running")[0])


def test_the_bank_and_the_images_give_the_same_accuracies():
    images = noisy(20, 0)
    torch.manual_seed(0)
    network = MLP(16, (12,), activate_last=False)
    sampler = EpisodeSampler(images, 5, 2, 5, batch_size=5, rotations=True)
    bank = embed_images(network, images, rotations=True)
    learner = Prototypical(network, "running")
    plain = episode_accuracies(lambda e: learner.logits(None, e), sampler, 20)
    assert torch.equal(episode_accuracies(classify_embedded, sampler, 20, bank=bank), plain)
    assert plain.std() > 0


# ------------------------------------------------------------------------------------------------------- accuracies


def sampler_of(batch_size: int = 5, n_way: int = 5) -> EpisodeSampler:
    return EpisodeSampler(noisy(20, 3), n_way, 1, 8, batch_size, seed=4)


def test_a_perfect_prediction_scores_one_and_a_wrong_one_zero():
    sampler = sampler_of()
    assert episode_accuracies(lambda e: e.query_y, sampler, 20).tolist() == [1.0] * 20
    assert episode_accuracies(lambda e: (e.query_y + 1) % 5, sampler, 20).tolist() == [0.0] * 20


def test_guessing_scores_chance():
    generator = torch.Generator().manual_seed(0)
    for n_way in (2, 5):
        sampler = sampler_of(50, n_way)
        found = episode_accuracies(lambda e: torch.rand(50, 8 * e.n_way, e.n_way, generator=generator), sampler, 1000)
        error = found.std() / math.sqrt(1000)
        assert abs(found.mean() - 1 / n_way) < 4 * error


def test_accuracies_are_of_single_episodes_in_order():
    sampler = sampler_of()
    expected = []

    def predict(episode: Episode) -> Tensor:
        wrong = episode.query_y.clone()
        for task in range(5):
            wrong[task, : len(expected) % 7] += 1
            expected.append(1 - (len(expected) % 7) / 40)
        return wrong

    found = episode_accuracies(predict, sampler, 15)
    assert found.dtype == torch.float64 and found.device.type == "cpu"
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_scores_and_labels_are_both_understood():
    sampler = sampler_of()

    def scores(episode: Episode) -> Tensor:
        return -(episode.query_x.mean((2, 3, 4))[..., None] - torch.linspace(0.3, 0.7, 5)).abs()

    found = episode_accuracies(scores, sampler, 20)
    assert torch.equal(found, episode_accuracies(lambda e: scores(e).argmax(-1), sampler, 20))
    assert 0 < found.mean() < 1


def test_episodes_are_those_of_the_sampler_and_without_gradients():
    sampler, seen = sampler_of(), []

    def predict(episode: Episode) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(episode.instances)
        return episode.query_y

    episode_accuracies(predict, sampler, 15, start=4)
    assert torch.equal(torch.stack(seen), torch.stack([sampler.indices(i)[1] for i in (4, 5, 6)]))


def test_a_batch_must_fit():
    with pytest.raises(ValueError, match="12 episodes are no multiple of the sampler's batch of 5"):
        episode_accuracies(lambda e: e.query_y, sampler_of(), 12)


def test_scores_without_a_task_axis_are_refused():
    """5-way with one query a class: [5, 5] scores compared with [1, 5] labels would broadcast to nonsense."""
    sampler = EpisodeSampler(noisy(20, 3), 5, 1, 1)
    with pytest.raises(ValueError, match=r"\[B, Q\] = \[1, 5\]; its labels are \[5, 5\]"):
        episode_accuracies(lambda e: torch.zeros(5, 5), sampler, 4)


# ---------------------------------------------------------------------------------------------- devices and progress


def test_the_device_can_be_chosen(monkeypatch):
    monkeypatch.delenv("COURSE_DEVICE", raising=False)
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("COURSE_DEVICE", "meta")
    assert best_device() == torch.device("meta")
    monkeypatch.setenv("COURSE_DEVICE", "gpu")
    with pytest.raises(ValueError, match='COURSE_DEVICE must name a device such as "cpu" or "cuda"; got \'gpu\''):
        best_device()


def test_progress_is_shown_unless_it_is_not_wanted(monkeypatch, capsys):
    with training.progress(3, "counting") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("COURSE_QUIET")
    with training.progress(3, "counting") as bar:
        bar.update(3)
    shown = capsys.readouterr()
    assert shown.out == "" and "counting" in shown.err
