"""Distillation: temperature, both forms of the loss, what teacher and student do in training, classes left out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.backbones import MLP
from utils.data.batches import ImageBatches
from utils.data.images import ImageSet, as_float
from utils.fewshot.classifier import ClassifierNetwork
from utils.functional.distillation import distillation_loss
from utils.training import Checkpoint
from utils.transfer.distillation import (
    Distillation,
    class_accuracies,
    few,
    lecture_loss,
    soft_targets,
    train,
    without,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 20, split: str = "train") -> ImageSet:
    """Four classes; the third lies between the first two and the fourth apart."""
    rng = generator(3)
    a, b, d = torch.randint(0, 200, (3, 1, 1, 4, 4), generator=rng)
    centres = torch.stack([a, b, (a + b) // 2, d])
    pixels = centres + torch.randint(0, 56, (4, n, 1, 4, 4), generator=generator(len(split)))
    return ImageSet(pixels.to(torch.uint8), tuple("abcd"), tuple("abcd"), "noise", split)


def network(width: int = 16, seed: int = 0, normalise: bool = False) -> ClassifierNetwork:
    torch.manual_seed(seed)
    return ClassifierNetwork(MLP(16, (width,), normalise), 4)


def fitted(teacher: nn.Module, steps: int = 60) -> nn.Module:
    train(teacher, ImageBatches(images(), 16), steps, torch.optim.Adam(teacher.parameters(), 0.02))
    return teacher


# ------------------------------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize(("temperature", "percent"), [(1, 0.0911), (5, 19.7816), (10, 33.1812)])
def test_the_example_of_the_lecture(temperature, percent):
    found = 100 * soft_targets(torch.tensor([3.0, 10.0], dtype=torch.float64), temperature)
    torch.testing.assert_close(found, torch.tensor([percent, 100 - percent], dtype=torch.float64), rtol=0, atol=5e-5)


def test_both_forms_are_the_same_but_for_the_rate():
    """soft + hard / T^2 against hard + T^2 soft: the lecture's is the paper's / T^2, plus the teacher's entropy."""
    student, teacher = torch.randn(2, 9, 5, generator=generator(), dtype=torch.float64)
    labels, student = torch.arange(9) % 5, student.requires_grad_()
    for temperature in (1.0, 3.0, 20.0):
        lecture = lecture_loss(student, teacher, labels, temperature)
        paper = 2 * distillation_loss(student, teacher, labels, temperature, weight=0.5)
        p = soft_targets(teacher, temperature)
        torch.testing.assert_close(lecture, paper / temperature**2 - (p * p.log()).sum(1).mean())
        slopes = [torch.autograd.grad(loss, student)[0] for loss in (lecture, paper / temperature**2)]
        assert float(slopes[0].abs().max()) > 1e-5
        torch.testing.assert_close(*slopes)


def test_the_soft_gradient_of_high_temperature_is_the_difference_of_logits():
    """T^2 (q - p) / T -> ((z - mean z) - (v - mean v)) / N (eq. 4), so T^2 keeps its size."""
    z, v = torch.randn(2, 6, 5, generator=generator(), dtype=torch.float64)
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    z.requires_grad_()
    loss = distillation_loss(z, v, torch.zeros(6, dtype=torch.int64), 1000.0, weight=1.0, reduction="sum")
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], (z - v).detach() / 5, rtol=0, atol=2e-3)


# --------------------------------------------------------------------------------------------------------- training


def test_the_loss_is_that_of_a_teacher_in_evaluation_mode():
    teacher, student = fitted(network(normalise=True)).train(), network(8, 1)
    x, y = ImageBatches(images(), 16).sample(0)
    found = Distillation(teacher, 3.0, 0.7).loss(student, x, y)
    assert not teacher.training
    with torch.no_grad():
        answers = torch.cat([teacher(one[None]) for one in x])
    p, log_q = (answers / 3).softmax(1), (student(x) / 3).log_softmax(1)
    expected = 0.3 * F.cross_entropy(student(x), y) + 0.7 * 9 * (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(found, expected)


def test_the_teacher_learns_nothing_and_the_student_becomes_like_it():
    teacher = fitted(network(normalise=True))
    before, far = copy.deepcopy(teacher.state_dict()), []
    x = as_float(images(10, "test").flat()[0])
    student = network(12, 1)
    for _ in range(2):
        with torch.no_grad():
            far.append(float((student(x).softmax(1) - teacher(x).softmax(1)).abs().mean()))
        optimizer = torch.optim.Adam(student.parameters(), 0.02)
        losses = train(student, ImageBatches(images(), 16), 100, optimizer, Distillation(teacher, 2.0, 1.0))
        assert len(losses) == 100 and losses[-1] < losses[0]
    assert far[1] < 0.3 * far[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_weight_zero_is_training_alone():
    alone, taught = network(8, 1), network(8, 1)
    for student, distillation in ((alone, None), (taught, Distillation(network(seed=2), weight=0.0))):
        optimizer = torch.optim.SGD(student.parameters(), 0.1)
        train(student, ImageBatches(images(), 16), 10, optimizer, distillation)
    for one, other in zip(alone.parameters(), taught.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_that_was_interrupted_goes_on(tmp_path):
    def run(steps: int, checkpoint: Checkpoint | None = None) -> Tensor:
        student = network(8, 1)
        optimizer = torch.optim.Adam(student.parameters(), 0.02)
        train(student, ImageBatches(images(), 16), steps, optimizer, Distillation(teacher), checkpoint=checkpoint)
        return torch.cat([value.detach().flatten() for value in student.parameters()])

    teacher = fitted(network())
    checkpoint = Checkpoint(tmp_path / "student.pt", {"student": 8}, every=5)
    run(10, checkpoint)
    assert torch.equal(run(20, checkpoint), run(20))


# --------------------------------------------------------------------------------------------------- transfer sets


def test_a_class_that_was_left_out_is_learned_from_the_teacher_alone():
    teacher, (some, kept) = fitted(network(64), 200), without(images(), [2])
    assert kept == [0, 1, 3] and some.class_names == ("a", "b", "d")
    reached = []
    for distillation in (None, Distillation(teacher, 3.0, 1.0)):
        student = network(32, 1)
        optimizer = torch.optim.Adam(student.parameters(), 0.02)
        train(student, ImageBatches(some, 12), 150, optimizer, distillation, classes=kept)
        found = class_accuracies(student, images(10, "test"))
        assert float(found[kept].min()) > 0.7
        reached.append(float(found[2]))
    assert reached[0] == 0 and reached[1] > 0.5


def test_labels_are_numbers_of_outputs():
    some, kept = without(images(), [0, 1])
    student = network(16, 1)
    train(student, ImageBatches(some, 10), 60, torch.optim.Adam(student.parameters(), 0.02), classes=kept)
    x, y = some.flat()
    assert float((student(as_float(x)).argmax(1) == torch.tensor(kept)[y]).double().mean()) > 0.9
    with pytest.raises(ValueError, match="the set has 2 classes; got 1"):
        train(student, ImageBatches(some, 10), 1, torch.optim.SGD(student.parameters(), 0.1), classes=[2])


def test_accuracies_of_classes_with_a_raised_output():
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.5, 0.0]).expand(len(x), 4)

    assert class_accuracies(Constant(), images()).tolist() == [0, 1, 0, 0]
    raised = torch.tensor([0.0, 0.0, 0.6, 0.0])
    assert class_accuracies(Constant(), images(), raised).tolist() == [0, 0, 1, 0]


def test_accuracies_are_of_real_images():
    data = images(6)
    some = ImageSet(data.images, data.class_names, data.group_names, "noise", "train", torch.tensor([6, 1, 3, 2]))
    student = network(8)
    with torch.no_grad():
        found = [
            float((student(as_float(some.images[k, :n])).argmax(1) == k).double().mean())
            for k, n in enumerate(some.counts.tolist())
        ]
    torch.testing.assert_close(class_accuracies(student, some), torch.tensor(found, dtype=torch.float64))


def test_few_images():
    assert few(images(), 3).images.shape[:2] == (4, 3)
    assert torch.equal(few(images(), 3).images, images().images[:, :3])
    for n in (0, 21):
        with pytest.raises(ValueError, match="at least 20 images"):
            few(images(), n)


def test_wrong_input():
    for temperature in (0.0, -2.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            soft_targets(torch.zeros(2), temperature)
        with pytest.raises(ValueError, match="temperature must be positive"):
            Distillation(network(), temperature)
    with pytest.raises(ValueError, match=r"weight lies in 0 \.\. 1"):
        Distillation(network(), weight=1.5)
    with pytest.raises(ValueError, match=r"classes 0 to 3; got \[4\]"):
        without(images(), [4])
    with pytest.raises(ValueError, match="at least one class"):
        without(images(), range(4))
