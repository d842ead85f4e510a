"""Networks: the three kinds of batch-norm statistics, sizes, and plain ``nn.Sequential`` twins."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from utils.backbones import MLP, STATISTICS, Conv4, EpisodeNorm2d, ResNet


def images(n: int, channels: int = 1, size: int = 28, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)


def worn(norm: nn.BatchNorm2d, seed: int = 0) -> nn.BatchNorm2d:
    """With weights and running statistics as after some training, so that none of them can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor, centre in ((norm.weight, 1), (norm.bias, 0.5), (norm.running_mean, 0.2), (norm.running_var, 1)):
            tensor.copy_(centre + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return norm


def pair(channels: int = 3) -> tuple[EpisodeNorm2d, nn.BatchNorm2d]:
    """Ours and PyTorch's with the same numbers in them."""
    ours, theirs = EpisodeNorm2d(channels).double(), nn.BatchNorm2d(channels).double()
    theirs.load_state_dict(worn(ours).state_dict())
    return ours, theirs


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in module.named_buffers())


# ------------------------------------------------------------------------------------------------------------- norm


@pytest.mark.parametrize("training", [True, False])
def test_without_a_choice_the_norm_is_that_of_pytorch(training):
    ours, theirs = (norm.train(training) for norm in pair())
    for seed in range(3):
        x = images(6, 3, 4, seed)
        assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(value, buffers(theirs)[name]) for name, value in ours.named_buffers())


@pytest.mark.parametrize("training", [True, False])
def test_running_is_pytorch_in_evaluation_mode(training):
    ours, theirs = pair()
    before = buffers(ours)
    x = images(6, 3, 4)
    assert torch.equal(ours.train(training)(x, "running"), theirs.eval()(x))
    assert not changed(ours, before)


@pytest.mark.parametrize("training", [True, False])
def test_batch_is_pytorch_in_training_mode_and_averages_only_there(training):
    ours, theirs = pair()
    before = buffers(ours)
    x = images(6, 3, 4)
    assert torch.equal(ours.train(training)(x, "batch", n_support=2), theirs.train()(x))
    assert changed(ours, before) == training
    if training:
        assert all(torch.equal(value, buffers(theirs)[name]) for name, value in ours.named_buffers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("n_support", [1, 4, 6])
def test_support_is_the_formula(n_support, training):
    norm, _ = pair()
    before = buffers(norm)
    x = images(6, 3, 4)
    result = norm.train(training)(x, "support", n_support)
    for c in range(3):
        values = x[:n_support, c].flatten()
        mean = values.sum() / len(values)
        var = ((values - mean) ** 2).sum() / len(values)
        expected = (x[:, c] - mean) / (var + norm.eps).sqrt() * norm.weight[c] + norm.bias[c]
        torch.testing.assert_close(result[:, c], expected)
    assert not changed(norm, before)


def test_support_of_all_images_is_batch():
    norm, _ = pair()
    x = images(6, 3, 4)
    torch.testing.assert_close(norm.eval()(x, "support", 6), norm(x, "batch"))


@pytest.mark.parametrize("statistics", [*STATISTICS, None])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_norm_are_finite_differences(statistics, training):
    """Those through the mean and the variance of the support too, in first and second order."""
    norm = pair(2)[0].train(training)
    x = images(5, 2, 2).requires_grad_()

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options = {"statistics": statistics, "n_support": 3}
        return functional_call(norm, {"weight": weight, "bias": bias, **fixed}, (x,), options)

    fixed = {name: value.clone() for name, value in norm.named_buffers()}
    inputs = (x, norm.weight.detach().clone().requires_grad_(), norm.bias.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(forward, inputs)
    assert torch.autograd.gradgradcheck(forward, inputs)


def test_queries_feel_the_support_and_not_each_other():
    norm = pair()[0].eval()
    x = images(6, 3, 4)
    moved = x.clone()
    moved[5] += 1
    assert torch.equal(norm(moved, "support", 4)[:5], norm(x, "support", 4)[:5])
    assert not torch.allclose(norm(moved, "batch")[:5], norm(x, "batch")[:5])
    moved = x.clone()
    moved[0] += 1
    assert not torch.allclose(norm(moved, "support", 4)[5], norm(x, "support", 4)[5])


@pytest.mark.parametrize("n_support", [None, 0, -1, 7])
def test_support_statistics_need_a_support(n_support):
    with pytest.raises(ValueError, match=f"needs n_support between 1 and 6, the images of the batch; got {n_support}"):
        pair()[0](images(6, 3, 4), "support", n_support)


@pytest.mark.parametrize("statistics", ["query", "Batch", "", True])
def test_other_statistics_do_not_exist(statistics):
    with pytest.raises(ValueError, match=r"statistics must be one of \('batch', 'support', 'running'\); got"):
        pair()[0](images(6, 3, 4), statistics, 2)


# ------------------------------------------------------------------------------------------------------------ Conv4


@pytest.mark.parametrize(
    ("size", "downsample", "width", "out_features"),
    [
        (28, "pool", 8, 8),
        (84, "pool", 8, 200),
        (32, "pool", 4, 16),
        (16, "pool", 4, 4),
        (28, "stride", 8, 8),
        (84, "stride", 8, 8),
        (16, "stride", 4, 4),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_of_the_embedding(size, downsample, width, out_features, channels):
    network = Conv4(channels, width, size, downsample).eval()
    assert network.out_features == out_features
    assert network(images(2, channels, size, dtype=torch.float32)).shape == (2, out_features)


def test_the_standard_networks_of_the_papers():
    """Snell et al.: 64 numbers from 28 x 28, 1,600 from 84 x 84. Convolutions have no bias, norms have two numbers."""
    assert Conv4().out_features == 64 and Conv4(3, size=84).out_features == 1600
    assert sum(p.numel() for p in Conv4().parameters()) == 9 * 64 + 3 * 9 * 64**2 + 4 * 2 * 64


def twin(network: Conv4) -> nn.Sequential:
    """The network as papers describe it, in the order convolution, norm, ReLU, pool, with the same weights."""
    layers: list[nn.Module] = []
    stride = 2 if network.downsample == "stride" else 1
    for conv, norm in zip(network.convs, network.norms, strict=True):
        plain_conv = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=stride, padding=1, bias=False).double()
        plain_norm = nn.BatchNorm2d(conv.out_channels).double()
        plain_conv.load_state_dict(conv.state_dict())
        plain_norm.load_state_dict(norm.state_dict())
        layers += [plain_conv, plain_norm, nn.ReLU()] + ([nn.MaxPool2d(2)] if stride == 1 else [])
    layers += [nn.AdaptiveAvgPool2d(1)] if stride == 2 else []
    return nn.Sequential(*layers, nn.Flatten())


def seasoned(*arguments, **options) -> Conv4:
    torch.manual_seed(0)
    network = Conv4(*arguments, **options).double()
    for seed, norm in enumerate(network.norms):
        worn(norm, seed)
    return network


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("size", [28, 36])
@pytest.mark.parametrize("training", [True, False])
def test_conv4_is_the_network_of_the_papers(downsample, size, training):
    network = seasoned(3, 6, size, downsample).train(training)
    plain = twin(network).train(training)
    x = images(5, 3, size)
    torch.testing.assert_close(network(x), plain(x))
    weights = torch.randn(network.out_features, dtype=torch.float64)
    (network(x) @ weights).sum().backward()
    (plain(x) @ weights).sum().backward()
    for conv, other in zip(network.convs, [m for m in plain if isinstance(m, nn.Conv2d)], strict=True):
        torch.testing.assert_close(conv.weight.grad, other.weight.grad)
    for norm, other in zip(network.norms, [m for m in plain if isinstance(m, nn.BatchNorm2d)], strict=True):
        torch.testing.assert_close(norm.weight.grad, other.weight.grad)
        torch.testing.assert_close(norm.running_var, other.running_var)


@pytest.mark.parametrize("statistics", [*STATISTICS, None])
def test_the_memory_layout_does_not_change_the_numbers(statistics):
    network = seasoned(3, 6).eval()
    assert network.convs[1].weight.is_contiguous(memory_format=torch.channels_last)
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    x = images(5, 3)
    expected = network(x, statistics, 3)
    torch.testing.assert_close(contiguous(x, statistics, 3), expected)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last), statistics, 3), expected)


def naive(network: Conv4, x: torch.Tensor, choices: list[str], n_support: int) -> torch.Tensor:
    for conv, norm, statistics in zip(network.convs, network.norms, choices, strict=True):
        x = F.max_pool2d(F.relu(norm(conv(x), statistics, n_support)), 2)
    return x.flatten(1)


@pytest.mark.parametrize(
    ("statistics", "another"), [("batch", "running"), ("support", "running"), ("running", "batch")]
)
def test_all_four_norms_use_the_declared_statistics(statistics, another):
    network = seasoned(1, 4).eval()
    x = images(6)
    found = network(x, statistics, 3)
    torch.testing.assert_close(found, naive(network, x, [statistics] * 4, 3))
    for position in range(4):
        choices = [another if i == position else statistics for i in range(4)]
        assert not torch.allclose(naive(network, x, choices, 3), found)


def small_and_plain(dtype: torch.dtype, n: int = 90) -> tuple[Conv4, nn.Sequential, torch.Tensor]:
    """A network with weights of both signs, the same of plain modules in the default layout, images with background."""
    network = Conv4(1, 8, 28).to(dtype)
    for norm in network.norms:
        nn.init.normal_(norm.weight)
    assert all((norm.weight < 0).any() and (norm.weight > 0).any() for norm in network.norms)
    blocks = []
    for conv, norm in zip(network.convs, network.norms, strict=True):
        other = nn.BatchNorm2d(8).to(dtype)
        other.load_state_dict(norm.state_dict())
        blocks += [copy.deepcopy(conv).to(memory_format=torch.contiguous_format), other, nn.ReLU(), nn.MaxPool2d(2)]
    x = torch.rand(n, 1, 28, 28, dtype=dtype)
    x[:, :, :, 14:] = 1
    return network, nn.Sequential(*blocks, nn.Flatten()), x


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_both_signs_of_the_weights(training, monkeypatch):
    """In parts of a few images too."""
    torch.manual_seed(1)
    network, plain, x = small_and_plain(torch.float64, 20)
    monkeypatch.setattr("utils.backbones.CHUNK", 3 * 8 * 28 * 28)
    monkeypatch.setattr("utils.backbones.EXACT_FROM", 0)
    for module in (network, plain):
        module.train()(x + 1)
        module.train(training)
    torch.testing.assert_close(network(x), plain(x))
    weights = torch.randn(8, dtype=torch.float64)
    (network(x) @ weights).sum().backward()
    (plain(x) @ weights).sum().backward()
    for (name, value), other in zip(network.named_parameters(), ordered(plain), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)
    for norm, other in zip(network.norms, plain[1::4], strict=True):
        torch.testing.assert_close(norm.running_mean, other.running_mean)
        torch.testing.assert_close(norm.running_var, other.running_var)
        assert norm.num_batches_tracked == other.num_batches_tracked


def ordered(plain: nn.Sequential) -> list[torch.Tensor]:
    convs, norms = plain[:-1:4], plain[1::4]
    return [*convs.parameters(), *norms.parameters()]


def test_batch_statistics_are_exact_in_float32():
    """``F.batch_norm`` in channels_last leaves means of 0.06 standard deviations here."""
    torch.manual_seed(0)
    x = (0.05 * torch.rand(400, 3, 28, 28) + 2.0).contiguous(memory_format=torch.channels_last)
    norm = EpisodeNorm2d(3)
    norm.momentum = 1.0
    y = norm(x)
    exact = x.double()
    torch.testing.assert_close(norm.running_mean.double(), exact.mean((0, 2, 3)), rtol=3e-7, atol=0)
    torch.testing.assert_close(norm.running_var.double(), exact.var((0, 2, 3)), rtol=3e-6, atol=0)
    assert y.mean((0, 2, 3)).abs().max() < 1e-4


@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_the_gradient_in_float32_is_that_in_float64(downsample):
    """By ``F.batch_norm`` in channels_last it is off by a hundredth."""
    torch.manual_seed(1)
    network = Conv4(1, 8, 28, downsample)
    x = torch.rand(300, 1, 28, 28)
    x[:, :, :, 14:] = 1
    weights = torch.randn(network.out_features)

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        network.to(dtype)
        loss = (network(x.to(dtype), "batch") @ weights.to(dtype)).square().mean()
        return torch.cat([slope.flatten().double() for slope in torch.autograd.grad(loss, network.parameters())])

    exact = gradient(torch.float64)
    assert (gradient(torch.float32) - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("exact_from", [0, 2**16])
def test_the_second_order_gradient_is_a_finite_difference(downsample, exact_from, monkeypatch):
    """As MAML takes it: through a gradient step and the statistics."""
    monkeypatch.setattr("utils.backbones.EXACT_FROM", exact_from)
    network = seasoned(1, 3, 16, downsample).eval()
    params = {name: value.detach() for name, value in network.named_parameters()}
    x, target = images(6, 1, 16), torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = {name: torch.randn_like(value) for name, value in params.items()}

    for statistics in STATISTICS:
        options = {"statistics": statistics, "n_support": 4}

        def loss(params, options=options):
            return (functional_call(network, params, (x,), options) - target).square().mean()

        def meta(params, loss=loss):
            slope = grad(loss)(params)
            return loss({name: value - 0.4 * slope[name] for name, value in params.items()})

        def along(step, meta=meta):
            return meta({name: value + step * direction[name] for name, value in params.items()})

        slope = sum((value * direction[name]).sum() for name, value in grad(meta)(params).items())
        finite = (along(1e-7) - along(-1e-7)) / 2e-7
        torch.testing.assert_close(slope, finite, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- torch.vmap

NETWORKS = {
    "stride": lambda: Conv4(2, 3, 16, "stride"),
    "pool": lambda: Conv4(2, 3, 16),
    "maps": lambda: Conv4(2, 3, 16, maps=True),
    "mlp": lambda: MLP(512, (5, 4), normalise=True),
    "linear": lambda: MLP(512, (5, 4), normalise=True, activate_last=False),
    "plain": lambda: MLP(512, (5, 4)),
}
WAYS = ("loop", "outside", "inside")


class Tasks:
    """Four tasks for a network: MAML's loss after inner steps, with the derivatives taken in three ways."""

    def __init__(self, kind: str, statistics: str | None, training: bool, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.network = NETWORKS[kind]().double().train(training)
        for seed, norm in enumerate(module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)):
            worn(norm, seed)
        self.network.to(dtype)
        self.options = {"statistics": statistics, "n_support": 3}
        self.params = {name: value.detach() for name, value in self.network.named_parameters()}
        self.direction = {name: torch.randn_like(value) for name, value in self.params.items()}
        self.x = images(4 * 5, 2, 16, dtype=dtype).reshape(4, 5, 2, 16, 16)
        generator = torch.Generator().manual_seed(0)
        shape = self.one(self.params, self.x[0]).shape
        self.target = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def one(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        buffers = {name: value.clone() for name, value in self.network.named_buffers()}
        return functional_call(self.network, {**buffers, **params}, (x,), self.options)

    def loss(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return (self.one(params, x) - self.target).square().mean()

    def together(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
            return (functional_call(self.network, params, (x,), self.options) - self.target).square().mean()

        return vmap(loss)(params, x)

    def meta(self, params: dict[str, Tensor], way: str, steps: int = 2, rate: float = 0.02) -> Tensor:
        """Sum over the tasks of the loss on flipped images, after ``steps`` on the images."""
        flipped = self.x.flip(-1)
        if way == "outside":
            own = {name: value.expand(len(self.x), *value.shape) for name, value in params.items()}
            for _ in range(steps):
                slopes = torch.autograd.grad(self.together(own, self.x).sum(), list(own.values()), create_graph=True)
                own = {name: value - rate * by for (name, value), by in zip(own.items(), slopes, strict=True)}
            return self.together(own, flipped).sum()

        def task(params: dict[str, Tensor], x: Tensor, flipped: Tensor) -> Tensor:
            for _ in range(steps):
                slope = grad(self.loss)(params, x)
                params = {name: value - rate * slope[name] for name, value in params.items()}
            return self.loss(params, flipped)

        if way == "inside":
            return vmap(task, (None, 0, 0))(params, self.x, flipped).sum()
        total = torch.zeros((), dtype=self.x.dtype)
        for x, other in zip(self.x, flipped, strict=True):
            own = params
            for _ in range(steps):
                slopes = torch.autograd.grad(self.loss(own, x), list(own.values()), create_graph=True)
                own = {name: value - rate * by for (name, value), by in zip(own.items(), slopes, strict=True)}
            total = total + self.loss(own, other)
        return total

    def moved(self, step: float) -> dict[str, Tensor]:
        return {name: (value + step * self.direction[name]).requires_grad_() for name, value in self.params.items()}

    def gradient(self, way: str, steps: int = 2, rate: float = 0.02) -> dict[str, Tensor]:
        params = self.moved(0)
        slopes = torch.autograd.grad(self.meta(params, way, steps, rate), list(params.values()))
        return dict(zip(params, slopes, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", [*STATISTICS, None])
@pytest.mark.parametrize("kind", NETWORKS)
def test_under_vmap_the_second_order_gradient_is_a_finite_difference(kind, statistics, training):
    """In a loop, with the derivatives outside of ``torch.vmap`` and with those of ``torch.func`` inside."""
    tasks = Tasks(kind, statistics, training)
    before = buffers(tasks.network)
    gradients = {way: tasks.gradient(way) for way in WAYS}
    for way in ("outside", "inside"):
        for name, value in gradients["loop"].items():
            torch.testing.assert_close(gradients[way][name], value, msg=f"{way} {name}")
    along = sum((value * tasks.direction[name]).sum() for name, value in gradients["outside"].items())
    finite = (tasks.meta(tasks.moved(1e-8), "loop") - tasks.meta(tasks.moved(-1e-8), "loop")) / 2e-8
    torch.testing.assert_close(along, finite.detach(), rtol=1e-5, atol=1e-5)
    assert not changed(tasks.network, before)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("steps", [0, 5])
def test_more_steps_and_none(kind, steps):
    tasks = Tasks(kind, "batch", True)
    loop, outside = tasks.gradient("loop", steps), tasks.gradient("outside", steps)
    for name, value in loop.items():
        torch.testing.assert_close(outside[name], value)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("statistics", STATISTICS)
def test_everything_of_a_task_or_shared(kind, statistics):
    """Parameters and running averages with a task axis, without one, on another place; one task; the same images."""
    tasks = Tasks(kind, statistics, False)
    state = {**tasks.params, **buffers(tasks.network)}
    own = {name: torch.stack([value + 0.01 * i * value for i in range(4)]) for name, value in state.items()}

    def call(state: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(tasks.network, state, (x,), tasks.options)

    expected = torch.stack([call({name: value[i] for name, value in own.items()}, tasks.x[i]) for i in range(4)])
    torch.testing.assert_close(vmap(call)(own, tasks.x), expected)
    torch.testing.assert_close(vmap(call, (0, 1))(own, tasks.x.movedim(0, 1)), expected)
    torch.testing.assert_close(vmap(call, out_dims=1)(own, tasks.x), expected.movedim(0, 1))
    torch.testing.assert_close(vmap(call)({n: v[:1] for n, v in own.items()}, tasks.x[:1]), expected[:1])
    shared = torch.stack([call(state, x) for x in tasks.x])
    torch.testing.assert_close(vmap(call, (None, 0))(state, tasks.x), shared)
    same = torch.stack([call({name: value[i] for name, value in own.items()}, tasks.x[0]) for i in range(4)])
    torch.testing.assert_close(vmap(call, (0, None))(own, tasks.x[0]), same)


@pytest.mark.parametrize("kind", ["stride", "pool"])
@pytest.mark.parametrize("chunk", [1, 2 * 5 * 3 * 8 * 8])
def test_a_few_tasks_at_a_time(kind, chunk, monkeypatch):
    tasks = Tasks(kind, "batch", False)
    expected = tasks.gradient("outside")
    monkeypatch.setattr("utils.backbones.CHUNK", chunk)
    for way in ("outside", "inside"):
        for name, value in tasks.gradient(way).items():
            torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("kind", ["stride", "pool", "mlp"])
def test_under_vmap_the_gradient_in_float32_is_that_in_float64(kind):
    exact = Tasks(kind, "batch", False).gradient("outside", 1)
    rough = Tasks(kind, "batch", False, torch.float32).gradient("outside", 1)
    largest = max(value.abs().max() for value in exact.values())
    for name, value in exact.items():
        assert (rough[name] - value).abs().max() < 1e-4 * largest


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_norm_alone_under_vmap(statistics):
    norm = worn(EpisodeNorm2d(3).double()).train()
    before = buffers(norm)
    x = images(8, 3, 4).reshape(2, 4, 3, 4, 4)
    found = vmap(lambda x: norm(x, statistics, 3))(x)
    assert not changed(norm, before)
    torch.testing.assert_close(found, torch.stack([norm.eval()(task, statistics, 3) for task in x]))


def test_statistics_are_checked_under_vmap():
    for network in (EpisodeNorm2d(2), Conv4(2, 3, 16), MLP(512, (5,), normalise=True)):
        with pytest.raises(ValueError, match="needs n_support between 1 and 5, the images of the batch; got 6"):
            vmap(lambda x, network=network: network(x, "support", 6))(torch.rand(4, 5, 2, 16, 16))
        with pytest.raises(ValueError, match="statistics must be one of"):
            vmap(lambda x, network=network: network(x, "query"))(torch.rand(4, 5, 2, 16, 16))


def test_mixed_precision_under_vmap_is_full_precision():
    from utils.backbones import MixedPrecision

    body = Conv4(1, 4, 16).train()
    x = torch.rand(3, 5, 1, 16, 16)
    found = vmap(lambda x: MixedPrecision(body).train()(x, "batch"))(x)
    torch.testing.assert_close(found, vmap(lambda x: body(x, "batch"))(x))


def test_running_averages_of_small_and_large_maps(monkeypatch):
    """One after the other, then one gradient: neither way may spoil what the other saved."""
    monkeypatch.setattr("utils.backbones.EXACT_FROM", 6 * 3 * 16 * 16)
    for downsample in ("pool", "stride"):
        network = seasoned(1, 3, 32, downsample).train()
        total = network(images(2, 1, 32)).square().sum() + network(images(20, 1, 32)).square().sum()
        total.backward()
        assert all(norm.num_batches_tracked == 2 for norm in network.norms)


def test_what_conv4_refuses():
    with pytest.raises(ValueError, match='downsample must be "pool" or "stride"; got \'max\''):
        Conv4(downsample="max")
    with pytest.raises(ValueError, match="at least 16 x 16; got 15 x 15"):
        Conv4(size=15)


# -------------------------------------------------------------------------------------------------------------- MLP


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("activate_last", [True, False])
def test_mlp_is_a_sequence_of_layers(normalise, activate_last):
    torch.manual_seed(0)
    network = MLP(12, (7, 5), normalise, activate_last).double().train()
    layers: list[nn.Module] = [nn.Flatten()]
    for i, linear in enumerate(network.linears):
        layers += [linear] + ([nn.BatchNorm1d(linear.out_features).double()] if normalise else [])
        layers += [nn.ReLU()] if activate_last or i == 0 else []
    x = images(6, 3, 2)
    assert network.out_features == 5
    torch.testing.assert_close(network(x), nn.Sequential(*layers)(x))


def test_mlp_with_the_statistics_of_the_support():
    torch.manual_seed(0)
    network = MLP(12, (7,), normalise=True, activate_last=False).double()
    x = images(6, 3, 2)
    hidden = network.linears[0](x.flatten(1))
    expected = (hidden - hidden[:4].mean(0)) / (hidden[:4].var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(network(x, "support", 4), expected)


def test_the_residual_network_is_that_of_the_paper():
    """32 layers; with a last one for ten classes, the 464,154 parameters of ResNet-32 for CIFAR-10."""
    network = ResNet()
    assert len(network.convs) == 31 and network.out_features == 64
    assert sum(value.numel() for value in network.parameters()) + 64 * 10 + 10 == 464_154
    assert network.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 64)
    assert ResNet(1, 2, 4).eval()(torch.rand(3, 1, 20, 12)).shape == (3, 16)
    with pytest.raises(ValueError, match="at least one block; got 0"):
        ResNet(3, 0)


@pytest.mark.parametrize("statistics", [*STATISTICS, None])
def test_the_residual_network_is_its_formula(statistics):
    torch.manual_seed(0)
    network = ResNet(2, 2, 3).double()
    for i, norm in enumerate(network.norms):
        worn(norm, i)
    x = images(5, 2, 8)
    layers = iter(zip(network.convs, network.norms, strict=True))

    def layer(x: Tensor) -> Tensor:
        conv, norm = next(layers)
        y = F.conv2d(x, conv.weight, None, conv.stride, 1)
        if statistics == "running":
            return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        of = y[:3] if statistics == "support" else y
        var, mean = torch.var_mean(of, (0, 2, 3), correction=0, keepdim=True)
        return (y - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]

    y, sizes = layer(x).relu(), []
    for _ in range(6):
        inner = layer(layer(y).relu())
        lacking = inner.shape[1] - y.shape[1]
        short = F.avg_pool2d(y, 1, 2) if lacking else y
        y = (inner + torch.cat([short, short.new_zeros(5, lacking, *inner.shape[2:])], 1)).relu()
        sizes.append(tuple(y.shape[1:]))
    assert sizes == [(3, 8, 8)] * 2 + [(6, 4, 4)] * 2 + [(12, 2, 2)] * 2
    torch.testing.assert_close(network(x, statistics, 3), y.mean((2, 3)))


def test_mlp_needs_a_layer():
    assert [linear.out_features for linear in MLP(784).linears] == [256, 128, 64, 64]
    with pytest.raises(ValueError, match="at least one layer width"):
        MLP(784, ())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("statistics", [*STATISTICS, None])
def test_a_gpu_computes_the_same(statistics):
    network = seasoned(3, 6).eval()
    expected = network(images(5, 3), statistics, 3)
    torch.testing.assert_close(network.cuda()(images(5, 3).cuda(), statistics, 3).cpu(), expected)


def test_mixed_precision_only_while_training():
    from utils.backbones import MixedPrecision

    torch.manual_seed(0)
    body = Conv4(1, 8, 16)
    mixed = MixedPrecision(body)
    images = torch.rand(6, 1, 16, 16)
    body.eval()
    seen = []
    body.convs[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    mixed.train()
    rough = mixed(images, "batch")
    assert rough.dtype == torch.float32 and seen == [torch.bfloat16]
    rough.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in body.parameters())
    mixed.eval()
    exact = mixed(images, "batch")
    assert torch.equal(exact, body(images, "batch"))
    assert not torch.equal(exact, rough) and torch.allclose(exact, rough, atol=0.1)
    assert mixed.out_features == body.out_features
