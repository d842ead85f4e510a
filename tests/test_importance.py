"""Importance of a layer's weights: gradients of one example after the other, closed forms, hooks, memory, systems."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from utils import kernels
from utils.bench.memory import peak_bytes
from utils.functional import bias_fisher_diagonal, conv_fisher_diagonal, linear_fisher_diagonal
from utils.functional import importance as module

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]

# C_in, C_out, (height, width), kernel, stride, padding, dilation, groups
CONVOLUTIONS = {
    "plain": (3, 4, (6, 7), 3, 1, 0, 1, 1),
    "same size": (3, 4, (6, 5), 3, 1, 1, 1, 1),
    "1 x 1": (3, 4, (4, 5), 1, 1, 0, 1, 1),
    "1 x 1, strided": (3, 4, (5, 6), 1, 2, 0, 1, 1),
    "nothing alike": (2, 3, (9, 11), (3, 2), (2, 1), (1, 0), (1, 3), 1),
    "stride that leaves a rest": (2, 3, (8, 10), 3, (2, 3), 1, 1, 1),
    "wide padding, dilated": (2, 3, (6, 5), 5, 1, 4, 2, 1),
    "two groups": (4, 6, (5, 6), 3, 1, 1, 1, 2),
    "depthwise": (5, 5, (5, 6), 3, 2, 1, 1, 5),
    "depthwise, twice the channels": (3, 6, (6, 6), (1, 3), 1, (0, 1), 1, 3),
    "one pixel": (3, 2, (1, 1), 3, 1, 1, 1, 1),
}


def made(name: str = "same size", n: int = 7, dtype: torch.dtype = torch.float64, device: str = "cpu"):
    """Inputs and output gradients of a convolution and what its importance needs besides."""
    channels, out_channels, size, *settings = CONVOLUTIONS[name]
    layer = nn.Conv2d(channels, out_channels, *settings[:4], groups=settings[4], dtype=torch.float64)
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randn(n, channels, *size, generator=generator, dtype=torch.float64)
    gradients = torch.randn(layer(inputs).shape, generator=generator, dtype=torch.float64)
    return inputs.to(dtype).to(device), gradients.to(dtype).to(device), settings


def one_by_one(layer: nn.Module, inputs: Tensor, gradients: Tensor, absolute: bool = False) -> list[Tensor]:
    """Sums over the examples of the squared gradients of weight and bias: one backward pass an example, in float64."""
    layer, inputs, gradients = copy.deepcopy(layer).double().cpu(), inputs.double().cpu(), gradients.double().cpu()
    total = [torch.zeros_like(p) for p in layer.parameters()]
    for a, g in zip(inputs, gradients, strict=True):
        slopes = torch.autograd.grad((layer(a[None])[0] * g).sum(), list(layer.parameters()))
        for sum_, slope in zip(total, slopes, strict=True):
            sum_ += slope.abs() if absolute else slope.square()
    return total


def conv_one_by_one(inputs: Tensor, gradients: Tensor, settings: tuple, absolute: bool = False) -> list[Tensor]:
    layer = nn.Conv2d(inputs.shape[1], gradients.shape[1], *settings[:4], groups=settings[4])
    return one_by_one(layer, inputs, gradients, absolute)


def close(x: Tensor, exact: Tensor, tolerance: float = 1e-12) -> None:
    assert x.shape == exact.shape
    torch.testing.assert_close(x.double().cpu(), exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))


@pytest.fixture(params=[2**18, 400, 1], ids=["one piece", "some examples a piece", "an example a piece"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", request.param)
    monkeypatch.setattr(module, "GPU_CHUNK", request.param)


# The gradients of one example after the other


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_the_sum_over_single_examples(chunk, name, absolute, device):
    inputs, gradients, settings = made(name, device=device)
    weight, bias = conv_one_by_one(inputs, gradients, settings, absolute)
    close(conv_fisher_diagonal(inputs, gradients, *settings, absolute=absolute), weight)
    close(bias_fisher_diagonal(gradients, absolute), bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_linear_layer_is_the_sum_over_single_examples(absolute, device):
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = (torch.randn(33, n, generator=generator).to(device) for n in (65, 17))
    weight, bias = one_by_one(nn.Linear(65, 17), inputs, gradients, absolute)
    close(linear_fisher_diagonal(inputs, gradients, absolute), weight, 1e-6)
    close(bias_fisher_diagonal(gradients, absolute), bias, 1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_in_float32_at_least(dtype, device):
    inputs, gradients, settings = made("two groups", 40, dtype, device)
    weight, bias = conv_one_by_one(inputs, gradients, settings)
    found = conv_fisher_diagonal(inputs, gradients, *settings), bias_fisher_diagonal(gradients)
    rows, slopes = inputs.flatten(1), gradients.flatten(1)
    linear = linear_fisher_diagonal(rows, slopes)
    assert {x.dtype for x in (*found, linear)} == {torch.float32}
    close(found[0], weight, 1e-6)
    close(found[1], bias, 1e-6)
    close(linear, one_by_one(nn.Linear(rows.shape[1], slopes.shape[1]), rows, slopes)[0], 1e-6)


def test_small_gradients_of_half_precision_do_not_vanish():
    inputs = torch.full((3, 1, 1, 1), 2.0, dtype=torch.float16)
    gradients = torch.full((3, 1, 1, 1), 2.0**-20, dtype=torch.float16)  # whose square is 0 in float16
    exact = torch.tensor(3 * 2.0**-38)
    assert torch.equal(conv_fisher_diagonal(inputs, gradients, 1)[0, 0, 0, 0], exact)
    assert torch.equal(linear_fisher_diagonal(inputs[..., 0, 0], gradients[..., 0, 0])[0, 0], exact)
    assert torch.equal(bias_fisher_diagonal(gradients)[0], exact / 4)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, (3, 2), stride=2, padding=(1, 0), groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
        nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    )
    net[1].running_mean.normal_()
    return net.double().eval()


def log_likelihood(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="sum")


def squared_norm(output: Tensor, labels: Tensor) -> Tensor:
    return output.square().sum()


def by_hooks(net: nn.Module, images: Tensor, labels: Tensor, loss, absolute: bool) -> dict[str, Tensor]:
    """As EWC and MAS do it: one pass over the batch, every layer adds what the hooks have seen of it."""
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        def meet(gradient: Tensor) -> None:
            if isinstance(layer, nn.Linear):
                found[f"{name}.weight"] = linear_fisher_diagonal(inputs, gradient, absolute)
            else:
                geometry = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups
                found[f"{name}.weight"] = conv_fisher_diagonal(inputs, gradient, *geometry, absolute=absolute)
            if layer.bias is not None:
                found[f"{name}.bias"] = bias_fisher_diagonal(gradient, absolute)

        output.register_hook(meet)

    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: watch(name, layer, inputs[0], output))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    loss(net(images), labels).backward()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("loss", "absolute"), [(log_likelihood, False), (squared_norm, True)], ids=["EWC", "MAS"])
def test_hooks_on_a_network_see_what_single_gradients_say(loss, absolute):
    net = network()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(9, 2, 7, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (9,), generator=generator)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def of_one(parameters, image, label):
        return loss(functional_call(net, parameters, (image[None],)), label[None])

    single = vmap(grad(of_one), in_dims=(None, 0, 0))(parameters, images, labels)
    found = by_hooks(net, images, labels, loss, absolute)
    layers = {name for name in parameters if not name.startswith("1.")}
    assert set(found) == layers
    for name in layers:
        assert found[name].shape == parameters[name].shape and not found[name].requires_grad
        close(found[name], (single[name].abs() if absolute else single[name].square()).sum(0))


# Closed forms


def test_products_of_two_positions_count_in_a_convolution():
    # One weight, used at four positions: (1 + 1 + 1 + 1)^2, and not 1^2 + 1^2 + 1^2 + 1^2.
    inputs, gradients = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert conv_fisher_diagonal(inputs, gradients, 1).item() == 16
    assert bias_fisher_diagonal(gradients).item() == 16
    by_position = linear_fisher_diagonal(inputs.movedim(1, -1).reshape(4, 1), gradients.movedim(1, -1).reshape(4, 1))
    assert by_position.item() == 4
    # Where positions pull in opposite directions, what is left of them is squared, or its absolute value taken.
    gradients = torch.tensor([[[[1.0, -1.0], [2.0, -5.0]]]])
    assert conv_fisher_diagonal(inputs, gradients, 1).item() == 9
    assert conv_fisher_diagonal(inputs, gradients, 1, absolute=True).item() == 3
    assert bias_fisher_diagonal(gradients, absolute=True).item() == 3


def test_a_convolution_of_one_position_is_a_linear_layer():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 3, 4, 5, generator=generator, dtype=torch.float64)
    gradients = torch.randn(20, 6, 1, 1, generator=generator, dtype=torch.float64)
    for absolute in (False, True):
        expected = linear_fisher_diagonal(inputs.flatten(1), gradients.flatten(1), absolute)
        close(conv_fisher_diagonal(inputs, gradients, (4, 5), absolute=absolute).flatten(1), expected)


def test_the_fisher_information_of_logistic_regression():
    # Over both labels, weighted by their probabilities: F_i = sum_b p_b (1 - p_b) x_bi^2.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    p = (x @ torch.randn(4, 1, generator=generator, dtype=torch.float64)).sigmoid()
    fisher = linear_fisher_diagonal(x, p.sqrt() * (p - 1)) + linear_fisher_diagonal(x, (1 - p).sqrt() * p)
    close(fisher, (p * (1 - p) * x.square()).sum(0, keepdim=True))


def test_importance_of_mas_in_one_relu_layer_is_hebbian():
    # ||y||^2 with y = relu(W x), x >= 0: the gradient by W_oi is 2 y_o x_i.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 4, generator=generator, dtype=torch.float64)
    z = (x @ torch.randn(4, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    y = z.relu()
    (gradients,) = torch.autograd.grad(y.square().sum(), z)
    close(linear_fisher_diagonal(x, gradients, absolute=True), (2 * y.T @ x).detach())


def test_the_gradients_of_a_mean_are_too_small():
    inputs, _, settings = made(n=8)
    outputs = F.conv2d(inputs, torch.ones(4, 3, 3, 3, dtype=torch.float64), padding=1).requires_grad_()
    losses = outputs.square().sum((1, 2, 3))
    of_sum, of_mean = (torch.autograd.grad(x, outputs, retain_graph=True)[0] for x in (losses.sum(), losses.mean()))
    exact = conv_one_by_one(inputs, 2 * outputs.detach(), settings)[0]
    close(conv_fisher_diagonal(inputs, of_sum, *settings), exact)
    close(conv_fisher_diagonal(inputs, of_mean, *settings) * 64, exact)


# Batches


def test_a_batch_is_the_sum_of_its_parts_in_any_order(chunk):
    inputs, gradients, settings = made(n=11)
    whole = conv_fisher_diagonal(inputs, gradients, *settings)
    halves = [conv_fisher_diagonal(inputs[part], gradients[part], *settings) for part in (slice(4), slice(4, None))]
    close(halves[0] + halves[1], whole)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    close(conv_fisher_diagonal(inputs[order], gradients[order], *settings), whole)


def test_without_examples_nothing_mattered():
    inputs, gradients, settings = made("two groups", n=0)
    fisher = conv_fisher_diagonal(inputs, gradients, *settings)
    assert fisher.shape == (6, 2, 3, 3) and (fisher == 0).all()
    assert torch.equal(linear_fisher_diagonal(inputs[:, :, 0, 0], gradients[:, :, 0, 0]), torch.zeros(6, 4).double())
    assert torch.equal(bias_fisher_diagonal(gradients), torch.zeros(6).double())


@pytest.mark.parametrize("device", DEVICES)
def test_any_order_of_memory(chunk, device):
    inputs, gradients, settings = made("nothing alike", device=device)
    expected = conv_fisher_diagonal(inputs, gradients, *settings)
    close(expected, conv_one_by_one(inputs, gradients, settings)[0])
    last = {"memory_format": torch.channels_last}
    close(conv_fisher_diagonal(inputs.contiguous(**last), gradients.contiguous(**last), *settings), expected.cpu())
    wide = torch.full((14, 4, 9, 22), torch.nan, dtype=torch.float64, device=device)
    wide[::2, 1:3, :, ::2] = inputs
    turned = gradients.mT.contiguous().mT
    close(conv_fisher_diagonal(wide[::2, 1:3, :, ::2], turned, *settings), expected.cpu())


def test_gradients_of_stride_zero():
    # As a sum's backward pass makes them.
    inputs, gradients, settings = made()
    ones = torch.ones((), dtype=torch.float64).expand_as(gradients)
    close(conv_fisher_diagonal(inputs, ones, *settings), conv_one_by_one(inputs, ones, settings)[0])
    same = inputs[:1].expand_as(inputs)
    close(conv_fisher_diagonal(same, ones, *settings), conv_one_by_one(same, ones, settings)[0])
    close(linear_fisher_diagonal(inputs.flatten(1), ones[:, :, 0, 0]), inputs.flatten(1).square().sum(0).expand(4, -1))


def test_not_a_number_stays_where_it_matters():
    inputs, gradients, settings = made()
    expected = conv_fisher_diagonal(inputs, gradients, *settings)
    inputs[2, 1, 3, 3] = gradients[4, 3, 2, 2] = torch.nan
    nan = conv_fisher_diagonal(inputs, gradients, *settings).isnan()
    assert nan[3].all() and nan[:, 1].all() and not nan[:3, [0, 2]].any()
    inputs, gradients, _ = made()
    gradients[4, 3, 2, 2] = torch.nan
    found = conv_fisher_diagonal(inputs, gradients, *settings)
    assert found[3].isnan().all()
    close(found[:3], expected[:3])
    assert bias_fisher_diagonal(gradients).isnan().tolist() == [False, False, False, True]


def test_the_same_bits_every_time_and_inputs_are_left_alone(chunk):
    inputs, gradients, settings = made(n=20, dtype=torch.float32)
    before = inputs.clone(), gradients.clone()
    first = conv_fisher_diagonal(inputs, gradients, *settings)
    rows, slopes = inputs.flatten(1), gradients.flatten(1)
    linear = linear_fisher_diagonal(rows, slopes)
    for _ in range(4):
        assert torch.equal(conv_fisher_diagonal(inputs, gradients, *settings), first)
        assert torch.equal(linear_fisher_diagonal(rows, slopes), linear)
    bias_fisher_diagonal(gradients, absolute=True)
    conv_fisher_diagonal(inputs, gradients, *settings, absolute=True)
    linear_fisher_diagonal(rows, slopes, absolute=True)
    assert torch.equal(inputs, before[0]) and torch.equal(gradients, before[1])


def test_memory_does_not_grow_with_the_batch():
    # 16 -> 32 channels, 3 x 3: 18 kB of weights. Gradients of 1024 examples, one by one, would be 19 MB.
    inputs, gradients = torch.randn(1024, 16, 8, 8), torch.randn(1024, 32, 8, 8)

    def peak(n: int) -> int:
        return peak_bytes(lambda: conv_fisher_diagonal(inputs[:n], gradients[:n], 3, padding=1))

    weights = 4 * 32 * 16 * 9
    assert peak(1024) == peak(512) < 1024 * weights / 8
    rows, slopes = torch.randn(1024, 256), torch.randn(1024, 128)
    assert peak_bytes(lambda: linear_fisher_diagonal(rows, slopes)) <= 1.1 * 4 * (1024 * (256 + 128) + 256 * 128)


# PyTorch's own machinery


def test_results_are_constants():
    inputs, gradients, settings = made()
    inputs.requires_grad_(), gradients.requires_grad_()
    rows, slopes = inputs.flatten(1), gradients.flatten(1)
    results = (
        conv_fisher_diagonal(inputs, gradients, *settings),
        linear_fisher_diagonal(rows, slopes),
        bias_fisher_diagonal(gradients),
    )
    assert not any(x.requires_grad for x in results)

    # d/dt t^2 f(t x) with f held constant: 2 t f.
    def penalty(t: Tensor) -> Tensor:
        x = t * inputs.detach()
        return t.square() * (
            conv_fisher_diagonal(x, gradients, *settings).sum()
            + linear_fisher_diagonal(x.flatten(1), slopes).sum()
            + bias_fisher_diagonal(t * gradients).sum()
        )

    close(grad(penalty)(torch.ones((), dtype=torch.float64)), 2 * sum(x.sum() for x in results).detach())


@pytest.mark.parametrize("name", ["same size", "two groups", "depthwise"])
def test_it_is_a_function_for_torch_func(name):
    _, _, settings = made(name)
    batches = [made(name, n=4)[:2]] + [[torch.randn_like(x) for x in made(name, n=4)[:2]] for _ in range(2)]
    inputs, gradients = (torch.stack(x) for x in zip(*batches, strict=True))

    def f(a: Tensor, g: Tensor) -> Tensor:
        return conv_fisher_diagonal(a, g, *settings)

    expected = torch.stack([f(a, g) for a, g in zip(inputs, gradients, strict=True)])
    close(vmap(f)(inputs, gradients), expected)
    close(vmap(f, in_dims=(3, 1))(inputs.movedim(0, 3), gradients.movedim(0, 1)), expected)
    shared = torch.stack([f(inputs[0], g) for g in gradients])
    close(vmap(f, in_dims=(None, 0))(inputs[0], gradients), shared)
    close(vmap(vmap(f, in_dims=(None, 0)), in_dims=(0, None))(inputs, gradients)[0], shared)
    rows, slopes = inputs.flatten(2), gradients.flatten(2)
    linear = torch.stack([linear_fisher_diagonal(a, g) for a, g in zip(rows, slopes, strict=True)])
    close(vmap(linear_fisher_diagonal)(rows, slopes), linear)
    close(vmap(bias_fisher_diagonal)(gradients), torch.stack([bias_fisher_diagonal(g) for g in gradients]))


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_whole(dynamic):
    def everything(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, ...]:
        return (
            conv_fisher_diagonal(inputs, gradients, 3, (2, 1), 1, groups=2),
            linear_fisher_diagonal(inputs.flatten(1), gradients.flatten(1), absolute=True),
            bias_fisher_diagonal(gradients),
        )

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (5, 6):
        inputs, gradients = torch.randn(n, 4, 7, 6, requires_grad=True), torch.randn(n, 2, 4, 6)
        for x, other in zip(compiled(inputs, gradients), everything(inputs, gradients), strict=True):
            assert not x.requires_grad
            torch.testing.assert_close(x, other)


def test_pytorch_finds_no_fault_with_the_operation():
    for name in ("nothing alike", "two groups"):
        inputs, gradients, (*geometry, groups) = made(name, dtype=torch.bfloat16)
        pairs = [[n, n] if isinstance(n, int) else list(n) for n in geometry]
        torch.library.opcheck(module._conv, (inputs, gradients, *pairs, groups, False))


def test_autocast_rounds_nothing():
    inputs, gradients, settings = made(dtype=torch.float32)
    rows, slopes = inputs.flatten(1), gradients.flatten(1)

    def everything() -> list[Tensor]:
        conv = conv_fisher_diagonal(inputs, gradients, *settings)
        return [conv, linear_fisher_diagonal(rows, slopes), bias_fisher_diagonal(gradients)]

    expected = everything()
    with torch.autocast("cpu", torch.bfloat16):
        found = everything()
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("capability", "dtype", "kernel"),
    [
        ((9, 0), torch.float32, True),
        ((8, 0), torch.bfloat16, True),
        ((7, 5), torch.float32, False),
        ((7, 5), torch.float16, False),
        ((9, 0), torch.float64, False),
    ],
)
def test_which_gpus_run_the_kernel(monkeypatch, capability, dtype, kernel):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(kernels, "_enabled", True)
    on_gpu = SimpleNamespace(is_cuda=True, device="cuda:0", dtype=dtype, is_floating_point=lambda: True)
    assert module._launches(on_gpu, on_gpu) is kernel
    monkeypatch.setattr(kernels, "_enabled", False)
    assert not module._launches(on_gpu, on_gpu)


# What does not fit


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": torch.zeros(4, 6, 6)}, r"expected inputs \[B, C_in, H, W\].*got \[4, 6, 6\] and \[2, 6, 4, 4\]"),
        ({"inputs": torch.zeros(3, 4, 6, 6)}, r"of the same examples; got \[3, 4, 6, 6\] and \[2, 6, 4, 4\]"),
        ({"output_gradients": torch.zeros(2, 6, 4)}, "expected inputs"),
        ({"padding": 1}, "padding 1 x 1 and dilation 1 x 1 makes 6 x 6 outputs of 6 x 6 inputs; got gradients of 4 x"),
        ({"stride": (2, 1)}, "a 3 x 3 kernel with stride 2 x 1.*makes 2 x 4 outputs"),
        ({"dilation": 2}, "makes 2 x 2 outputs"),
        ({"kernel_size": 9}, "makes 0 x 0 outputs of 6 x 6 inputs"),
        ({"kernel_size": 7, "output_gradients": torch.zeros(2, 6, 0, 0)}, "makes 0 x 0 outputs of 6 x 6 inputs"),
        ({"groups": 3}, "groups must divide the channels, 4 in and 6 out; got 3"),
        ({"groups": 4}, "groups must divide the channels, 4 in and 6 out; got 4"),
        ({"groups": 0}, "groups must divide"),
        ({"kernel_size": 0}, r"kernel_size must be at least 1, one number or two \(height, width\); got 0"),
        ({"stride": (1, 0)}, r"stride must be at least 1.*got \(1, 0\)"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"dilation": (1, 1, 1)}, r"one number or two.*got \(1, 1, 1\)"),
    ],
)
def test_shapes_and_settings_that_do_not_fit_are_refused(changed, said):
    fits = {"inputs": torch.zeros(2, 4, 6, 6), "output_gradients": torch.zeros(2, 6, 4, 4), "kernel_size": 3}
    assert conv_fisher_diagonal(**fits).shape == (6, 4, 3, 3)
    with pytest.raises(ValueError, match=said):
        conv_fisher_diagonal(**{**fits, **changed})


def test_other_kinds_are_refused():
    inputs, gradients = torch.zeros(2, 4, 6, 6), torch.zeros(2, 6, 4, 4)
    with pytest.raises(TypeError, match=r"one floating-point dtype; got torch\.float64 and torch\.float32"):
        conv_fisher_diagonal(inputs.double(), gradients, 3)
    with pytest.raises(TypeError, match="one floating-point dtype"):
        conv_fisher_diagonal(inputs.long(), gradients.long(), 3)
    with pytest.raises(TypeError, match=r"padding must be a whole number or two.*got 'same'; pad the inputs instead"):
        conv_fisher_diagonal(inputs, gradients, 3, padding="same")
    with pytest.raises(TypeError, match=r"stride must be a whole number or two, \(height, width\); got 1\.0"):
        conv_fisher_diagonal(inputs, gradients, 3, stride=1.0)
    with pytest.raises(TypeError, match=r"got \(3, 3\.0\)"):
        conv_fisher_diagonal(inputs, gradients, (3, 3.0))
    with pytest.raises(TypeError, match=r"got torch\.float32 and torch\.bfloat16"):
        linear_fisher_diagonal(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"one floating-point dtype; got torch\.int64"):
        bias_fisher_diagonal(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("inputs", "gradients"), [((2, 3), (3, 4)), ((2, 5, 3), (2, 5, 4)), ((2, 3), (2, 4, 1)), ((3,), (4,))]
)
def test_linear_layers_are_of_rows(inputs, gradients):
    with pytest.raises(ValueError, match=r"expected inputs \[B, I\].*1 x 1 convolution.*got \["):
        linear_fisher_diagonal(torch.zeros(inputs), torch.zeros(gradients))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_biases_are_of_rows_or_images(shape):
    with pytest.raises(ValueError, match=r"expected output_gradients \[B, O\] or \[B, O, H, W\]; got \["):
        bias_fisher_diagonal(torch.zeros(shape))
