"""The lecture's table and Lake's runs, made tiny: seconds on made images, through the same code as the real ones."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_reproduce import made

from utils.data.episodes import EpisodeSampler
from utils.data.images import ImageSet
from utils.data.omniglot import OneShotRuns
from utils.fewshot.classifier import classify_embedded
from utils.records import results_dir
from utils.reproduce import METHODS, comparison, one_shot_runs
from utils.reproduce.comparison import NETWORKS, TASKS, VARIANTS, Evaluation, run_one
from utils.reproduce.one_shot_runs import AlphabetBatches, Training, siamese_errors, turned
from utils.training import embed_images, episode_accuracies

TINY = Evaluation(n_query=2, episodes=20, transductive_episodes=10, finetuned_episodes=3, tuning_steps=2)
ROWS = {
    "baseline": ("baseline-cosine", "baseline-cosine-finetuned", "baseline-softmax-finetuned"),
    "siamese": ("siamese", "siamese-finetuned"),
    "matching": ("matching", "matching-finetuned"),
    "relation": ("relation",),
}


def tiny(training: comparison.Training) -> comparison.Training:
    return replace(training, width=4, n_way=min(training.n_way, 6), n_query=2, steps=3)


@pytest.fixture(scope="module")
def lab():
    """The module with made data and tiny settings."""
    patch = pytest.MonkeyPatch()
    patch.setattr(comparison, "load", lambda name, split: made(split, n_images=8))
    patch.setattr(comparison, "Evaluation", lambda: TINY)
    networks = {name: tuple(map(tiny, networks)) for name, networks in NETWORKS.items()}
    patch.setattr(comparison, "NETWORKS", networks)
    patch.setenv("COURSE_DEVICE", "cpu")
    yield networks
    patch.undo()


@pytest.fixture(scope="module")
def records(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return {name: (METHODS[name]("omniglot", [0, 1], folder / name), folder / name) for name in lab}


@pytest.mark.parametrize("method", list(NETWORKS))
def test_a_record_has_every_cell_of_the_table(records, method):
    record, _ = records[method]
    found = {row["id"]: row for row in record["rows"]}
    wanted = {f"omniglot-{variant}-{n}w{k}s" for variant in ROWS[method] for n, k in TASKS}
    wanted |= {f"omniglot-{ROWS[method][0]}-{n}w{k}s-batch" for n, k in TASKS}
    assert set(found) == wanted
    for row in record["rows"]:
        assert (row["n"], row["over"], row["seeds"]) == (2, "seeds", [0, 1])
        assert row["statistics"] == ("batch" if row["id"].endswith("-batch") else "running")
        episodes = 3 if "finetuned" in row["id"] else 10 if row["statistics"] == "batch" else 20
        assert [part["episodes"] for part in row["per_seed"]] == [episodes] * 2
    assert record["command"] == f"course reproduce {method} --dataset omniglot --seeds 0 1"
    assert record["config"]["testing"]["episodes"] == 20
    assert all(row["title"].startswith(VARIANTS[row["method"]]) for row in record["rows"])


@pytest.mark.parametrize("method", list(NETWORKS))
def test_training_never_sees_test_classes(lab, method):
    """Every image carries its split: those of the test split are all white, and never reach a loss."""
    training = lab[method][0]
    white = ImageSet(
        torch.full((6, 8, 1, 16, 16), 255, dtype=torch.uint8), *(2 * (tuple("abcdef"),)), "omniglot", "test"
    )
    learner, loss_at = comparison.untrained(training, made("trainval", n_images=8), 0)
    seen = []
    embedding = learner.network.embedding
    embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean().item()))
    for step in range(3):
        assert loss_at(step).requires_grad
    assert seen and max(seen) < float(white.images.double().mean() / 255)


@pytest.mark.parametrize("method", ["baseline", "siamese", "matching", "relation"])
def test_stored_numbers_are_those_of_the_stored_network(lab, records, method):
    """The accuracy without fine-tuning, computed again from the checkpoint."""
    _, folder = records[method]
    training = lab[method][-1]
    images = made("test", n_images=8)
    stored = json.loads((folder / f"result_{method}_{training.k_shot}shot_seed1.json").read_text())
    learner, _ = comparison.untrained(training, made("trainval", n_images=8), 1)
    state = torch.load(folder / f"network_{method}_{training.k_shot}shot_seed1.pt", weights_only=True)
    learner.network.load_state_dict(state["network"])
    learner.network.eval()
    k_shot = training.k_shot or 1
    sampler = EpisodeSampler(images, 5, k_shot, 2, batch_size=10, rotations=True, seed=TINY.seed)
    bank = embed_images(learner.network.embedding, images, rotations=True)
    classify = classify_embedded if method == "baseline" else comparison.classify_embedded(method, learner)
    mean = 100 * episode_accuracies(classify, sampler, 20, bank=bank).mean().item()
    (row,) = [r for r in stored["rows"] if (r["variant"], r["n_way"], r["k_shot"], r["statistics"])
              == (ROWS[method][0], 5, k_shot, "running")]  # fmt: skip
    assert row["mean"] == pytest.approx(mean)


def test_finished_parts_are_read_and_not_repeated(lab, records, monkeypatch):
    record, folder = records["siamese"]
    monkeypatch.setattr(comparison, "train", lambda *a: pytest.fail("trained again"))
    assert METHODS["siamese"]("omniglot", [0, 1], folder)["rows"] == record["rows"]


def test_a_test_setting_changes_the_test_and_not_the_training(lab, records, monkeypatch):
    _, folder = records["siamese"]
    (training,) = lab["siamese"]
    steps = Counter()
    real = comparison.fit

    def fit(*arguments, **options):
        steps["fit"] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(comparison, "fit", fit)
    before = (folder / "network_siamese_0shot_seed0.pt").read_bytes()
    result = run_one(training, replace(TINY, episodes=10), 0, folder)
    assert result["settings"]["testing"]["episodes"] == 10 and steps["fit"] == 1
    assert (folder / "network_siamese_0shot_seed0.pt").read_bytes() == before  # resumed at its end: no step more


@pytest.mark.parametrize("method", [*NETWORKS, "one-shot-runs"])
def test_what_cannot_be_run_is_refused(tmp_path, method):
    with pytest.raises(ValueError, match="mnist"):
        METHODS[method]("mnist", [0], tmp_path)
    with pytest.raises(ValueError, match="at least one seed is needed"):
        METHODS[method]("omniglot", [], tmp_path)
    with pytest.raises(ValueError, match="at least 1 step"):
        METHODS[method]("omniglot", [0], tmp_path, 0)


def test_the_table_is_complete():
    """Each printed cell of the lecture's table has a method that records it, but for the memory network."""
    printed = json.loads((results_dir() / "published.json").read_text())
    ours = {f"omniglot-{variant}-{n}w{k}s" for variant in (*VARIANTS, "pixels", "prototypical") for n, k in TASKS}
    lecture = {row["id"] for row in printed if row["dataset"] == "omniglot" and row["source"] == "lecture"}
    assert {id for id in lecture - ours if "mann" not in id} == set()


# Lake's one-shot runs


def alphabets() -> ImageSet:
    images = made("background", n_classes=9)
    groups = ("Greek",) * 4 + ("Latin",) * 3 + ("Tagalog",) * 2
    return replace(images, group_names=groups)


def test_a_batch_holds_characters_of_few_alphabets():
    images = alphabets()
    batches = AlphabetBatches(images, n_alphabets=2, n_characters=3, n_images=4, seed=1)
    shares = Counter()
    for i in range(300):
        x, y = batches.sample(i)
        groups = [images.group_names[c] for c in y.tolist()]
        assert len(set(groups)) == 2 and set(Counter(y.tolist()).values()) == {4}
        assert max(Counter(images.group_names[c] for c in set(y.tolist())).values()) <= 3
        assert x.shape == (len(y), 1, 16, 16) and x.dtype == torch.float32
        shares.update(set(groups))
        for label in set(y.tolist()):  # four different images of that character
            mine = (x[y == label] * 255).round().to(torch.uint8)
            places = [(image == images.images[label]).flatten(1).all(1).nonzero().item() for image in mine]
            assert len(set(places)) == 4
    assert shares["Greek"] > shares["Latin"] > shares["Tagalog"] > 100
    again = AlphabetBatches(images, 2, 3, 4, seed=1).sample(7)
    assert all(torch.equal(a, b) for a, b in zip(again, batches.sample(7), strict=True))


def test_turned_and_mirrored_characters_are_new_ones_of_new_alphabets():
    images = alphabets()
    eight = turned(images)
    assert eight.n_classes == 72 and len(set(eight.group_names)) == 24 and len(set(eight.class_names)) == 72
    assert torch.equal(eight.images[:9], images.images)
    assert torch.equal(eight.images[9:18], torch.rot90(images.images, 1, (-2, -1)))
    assert torch.equal(eight.images[36:45], images.images.flip(-1))
    views = {tuple(eight.images[c, 0].flatten().tolist()) for c in range(0, 72, 9)}
    assert len(views) == 8


def copies() -> OneShotRuns:
    """Three runs in which each test item is its training item again, in another order."""
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(0, 255, (3, 20, 1, 16, 16), generator=generator).to(torch.uint8)
    target = torch.stack([torch.randperm(20, generator=generator) for _ in range(3)])
    return OneShotRuns(train, torch.stack([train[r, target[r]] for r in range(3)]), target)


def test_errors_are_counted_run_by_run(tmp_path):
    training = replace(Training("background", 2, size=16), width=32, n_characters=3)
    learner = one_shot_runs.train(training, alphabets(), 0, tmp_path)
    with torch.no_grad():
        learner.network.head.weight.fill_(-1.0)  # a distance: nothing is nearer than the same image
    runs = copies()
    assert siamese_errors(learner, training, runs, views=1).tolist() == [0, 0, 0]
    wrong = replace(runs, target=(runs.target + 1) % 20)
    assert siamese_errors(learner, training, wrong, views=1).tolist() == [1, 1, 1]
    one = replace(runs, target=torch.cat([runs.target[:1], wrong.target[1:]]))
    assert siamese_errors(learner, training, one, views=1).tolist() == [0, 1, 1]
    # more views of the same images cannot make identical pairs strangers, but they are drawn anew for each run
    assert float(siamese_errors(learner, training, runs, views=3).mean()) < 0.5


def test_a_record_of_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(one_shot_runs, "load", lambda name, split, size: alphabets())
    monkeypatch.setattr(one_shot_runs, "one_shot_runs", lambda size=16: copies())
    monkeypatch.setattr(one_shot_runs, "modified_hausdorff", lambda a, b: (a.double() - b.double()).abs().mean())
    small = tuple(replace(t, size=16, width=4, steps=2, n_characters=3) for t in one_shot_runs.NETWORKS)
    monkeypatch.setattr(one_shot_runs, "NETWORKS", small)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    record = METHODS["one-shot-runs"]("omniglot", [0, 1], tmp_path)
    rows = {row["id"].removeprefix("omniglot-one-shot-runs-"): row for row in record["rows"]}
    assert list(rows) == ["pixels", "hausdorff", "siamese-background", "siamese-small1", "siamese-small2"]
    assert rows["pixels"]["mean"] == rows["hausdorff"]["mean"] == 0
    for row in record["rows"]:
        assert (row["unit"], row["n"], row["over"], row["chance"]) == ("%", 3, "runs", 95.0)
        assert row["mean"] == pytest.approx(sum(s["mean"] for s in row["per_seed"]) / max(1, len(row["per_seed"])))
    assert rows["siamese-small1"]["setting"] == "5 alphabets, first set"
    monkeypatch.setattr(one_shot_runs, "train", lambda *a: pytest.fail("trained again"))
    assert METHODS["one-shot-runs"]("omniglot", [0, 1], tmp_path)["rows"] == record["rows"]
