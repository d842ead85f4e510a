"""Graph networks: the paper's layers node by node and edge by edge, and what may be permuted."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from comparison_fixtures import noise_episode, parameters
from torch import Tensor, nn
from torch.func import grad

from utils.backbones import STATISTICS, Conv4
from utils.data.episodes import Episode
from utils.fewshot import graph as graph_module
from utils.fewshot.graph import Edges, Graph, GraphLayer, GraphNetwork, classify_embedded

N_TASKS, N_WAY, K_SHOT, N_QUERY = 2, 3, 2, 1


@pytest.fixture(scope="module")
def episode() -> Episode:
    """Noise with a common part a class, in float64."""
    return noise_episode(N_WAY, K_SHOT, N_QUERY, N_TASKS)


def graph_network(n_way: int = N_WAY, widths: tuple[int, ...] = (4, 3)) -> GraphNetwork:
    torch.manual_seed(0)
    network = GraphNetwork(Conv4(1, 5, 16), n_way, widths, edge_widths=(6, 4)).double()
    for _ in range(5):  # running statistics as after some training
        network.embedding(torch.rand(10, 1, 16, 16, dtype=torch.float64))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "norm" in name:
                value.add_(0.3 * torch.randn_like(value))
        for layer in network.layers:
            layer.edges.output.weight.mul_(5)  # neighbours that matter differently
    return network.eval()


@pytest.fixture
def network() -> GraphNetwork:
    return graph_network()


def embedded(n_way: int = N_WAY, k_shot: int = K_SHOT, n_query: int = 2, d: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n_way).repeat(N_TASKS, k_shot)
    sizes = (y.shape[1], n_query)
    support, query = (torch.randn(N_TASKS, n, d, generator=generator, dtype=torch.float64) for n in sizes)
    return support, y, query


def layer_normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return (x - x.mean()) / ((x - x.mean()).square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def edge(edges: Edges, a: Tensor, b: Tensor) -> Tensor:
    x = torch.abs(a - b)
    for linear, norm in ((edges.first, edges.norms[0]), (edges.second, edges.norms[1])):
        x = F.leaky_relu(layer_normalised(norm, linear.weight @ x + linear.bias))
    return edges.output.weight[0] @ x


def row(layer: GraphLayer, nodes: list[Tensor], i: int) -> Tensor:
    """theta [x_i; sum_j A_ij x_j] + b, where A_ij is a softmax over all nodes j but i."""
    others = [j for j in range(len(nodes)) if j != i]
    similarity = torch.stack([torch.exp(edge(layer.edges, nodes[i], nodes[j])) for j in others])
    neighbours = sum(a * nodes[j] for a, j in zip(similarity / similarity.sum(), others, strict=True))
    return layer.linear.weight @ torch.cat([nodes[i], neighbours]) + layer.linear.bias


def paper(network: GraphNetwork, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """Garcia and Bruna (2018), sections 4.1 and 4.2, one query a graph: scores of the queries of one task."""
    n_way = network.n_way
    scores = []
    for x in query:
        nodes = [torch.cat([h, torch.eye(n_way, dtype=h.dtype)[y]]) for h, y in zip(support, labels, strict=True)]
        nodes.append(torch.cat([x, torch.full((n_way,), 1 / n_way, dtype=x.dtype)]))
        for layer, norm in zip(network.layers[:-1], network.norms, strict=True):
            new = [F.leaky_relu(layer_normalised(norm, row(layer, nodes, i))) for i in range(len(nodes))]
            nodes = [torch.cat(pair) for pair in zip(nodes, new, strict=True)]
        scores.append(row(network.layers[-1], nodes, len(nodes) - 1))
    return torch.stack(scores)


def all_tasks(network: GraphNetwork, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    return torch.stack([paper(network, *task) for task in zip(support, labels, query, strict=True)])


@pytest.mark.parametrize("widths", [(), (4,), (4, 3), (4, 3, 2)])
def test_scores_and_gradients_are_those_of_the_paper(widths):
    network = graph_network(widths=widths)
    support, y, query = (x.requires_grad_() if x.is_floating_point() else x for x in embedded())
    scores, expected = network(support, y, query), all_tasks(network, support, y, query)
    assert scores.shape == (N_TASKS, 2, N_WAY) and scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-12)
    assert scores.std(dim=1).min() > 1e-3
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    inputs = [support, query, *network.layers.parameters(), *network.norms.parameters()]
    slopes = torch.autograd.grad((scores * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_the_loss_is_the_papers_on_the_embeddings(network, episode, statistics):
    learner = Graph(network, statistics)
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    expected = all_tasks(network, support, episode.support_y, query)
    torch.testing.assert_close(learner.logits(None, episode), expected, rtol=1e-10, atol=1e-12)
    total, n = 0.0, 0
    for task in range(N_TASKS):
        for j, y in enumerate(episode.query_y[task].tolist()):
            total = total - torch.log(torch.exp(expected[task, j, y]) / torch.exp(expected[task, j]).sum())
            n += 1
    loss = learner.loss(None, episode)
    assert loss.shape == ()
    torch.testing.assert_close(loss, total / n, rtol=1e-10, atol=0)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    wanted = torch.autograd.grad(total / n, list(network.parameters()))
    for slope, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(("n_way", "k_shot"), [(1, 1), (1, 3), (4, 1)])
def test_one_class_and_one_shot(n_way, k_shot):
    network = graph_network(n_way)
    parts = embedded(n_way, k_shot)
    torch.testing.assert_close(network(*parts), all_tasks(network, *parts))


def test_shots_may_be_unequal(network):
    support, _, query = embedded()
    y = torch.tensor([[0, 0, 0, 0, 2, 1], [1, 2, 2, 0, 1, 1]])
    torch.testing.assert_close(network(support, y, query), all_tasks(network, support, y, query))


@pytest.mark.parametrize("chunk", [1, 200, 2**22])
def test_queries_may_come_in_any_pieces(network, monkeypatch, chunk):
    parts = embedded(n_query=7)
    expected = network(*parts)
    monkeypatch.setattr(graph_module, "CHUNK", chunk)
    torch.testing.assert_close(network(*parts), expected)


# ----------------------------------------------------------------------------------------------------------- symmetries


def test_the_order_of_the_support_does_not_matter(network):
    support, y, query = embedded()
    order = torch.randperm(support.shape[1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(support[:, order], y[:, order], query), network(support, y, query))


def test_the_order_of_the_queries_is_that_of_the_scores(network):
    support, y, query = embedded()
    torch.testing.assert_close(network(support, y, query.flip(1)), network(support, y, query).flip(1))


def test_an_edge_is_the_same_from_both_ends_and_rows_sum_to_one(network):
    pairs, to_query = torch.randn(2, 1, 6).double(), torch.randn(2, 3, 4).double()
    adjacency = graph_module._adjacency(pairs, to_query)
    assert adjacency.shape == (2, 3, 5, 5)
    torch.testing.assert_close(adjacency.sum(-1), torch.ones(2, 3, 5).double())
    assert (adjacency.diagonal(dim1=-2, dim2=-1) == 0).all()
    logs = adjacency.log()
    for i, j, pair in ((0, 1, 0), (0, 3, 2), (1, 2, 3), (2, 3, 5)):
        for a, b in ((i, j), (j, i)):
            torch.testing.assert_close(logs[..., a, b] - logs[..., a, 4], pairs[..., pair] - to_query[..., a])


def test_renaming_the_classes_is_no_symmetry_unless_the_weights_are_renamed_too(network):
    """Each label channel has its own weights: with those permuted as well, scores are permuted exactly."""
    support, y, query = embedded()
    new = torch.tensor([2, 0, 1])
    scores = network(support, y, query)
    assert not torch.allclose(network(support, new[y], query)[..., new], scores, atol=1e-3)
    channels = torch.arange(5 + N_WAY)
    channels[5 + new] = 5 + torch.arange(N_WAY)
    with torch.no_grad():
        for layer in network.layers:
            half = layer.linear.in_features // 2
            layer.edges.first.weight[:, : len(channels)] = layer.edges.first.weight[:, channels]
            for first in (0, half):
                place = slice(first, first + len(channels))
                layer.linear.weight[:, place] = layer.linear.weight[:, first + channels]
        last = network.layers[-1].linear
        for value in (last.weight, last.bias):
            value[new] = value.clone()
    torch.testing.assert_close(network(support, new[y], query)[..., new], scores)


@pytest.mark.parametrize("statistics", ["running", "support"])
def test_without_transduction_queries_can_come_one_by_one(network, episode, statistics):
    learner = Graph(network, statistics)
    queries = range(N_WAY * N_QUERY)
    alone = [learner.logits(None, replace(episode, query_x=episode.query_x[:, q : q + 1])) for q in queries]
    torch.testing.assert_close(torch.cat(alone, dim=1), learner.logits(None, episode))


def test_in_training_too_a_graph_is_a_query_of_its_own(network):
    support, y, query = embedded()
    network.train()
    alone = torch.cat([network(support, y, query[:, q : q + 1]) for q in range(query.shape[1])], dim=1)
    torch.testing.assert_close(network(support, y, query), alone)


def test_tasks_do_not_influence_each_other(network):
    parts = embedded()
    together = network(*parts)
    for task in range(N_TASKS):
        torch.testing.assert_close(together[task : task + 1], network(*(x[task : task + 1] for x in parts)))


# ---------------------------------------------------------------------------------------------------------- the learner


@pytest.mark.parametrize("statistics", STATISTICS)
def test_given_parameters_are_used_instead_of_the_networks_own(network, episode, statistics):
    learner = Graph(network, statistics)
    own = learner.loss(None, episode)
    params = parameters(network)
    assert torch.equal(learner.loss(params, episode), own)
    other = {name: 1.3 * value for name, value in params.items()}
    result = learner.loss(other, episode)
    assert not torch.allclose(result, own)
    network.load_state_dict({**network.state_dict(), **other})
    torch.testing.assert_close(learner.loss(None, episode), result)


def test_the_loss_can_be_differentiated_as_a_function_of_the_parameters(network, episode):
    learner = Graph(network, "running")
    slopes = grad(learner.loss)(parameters(network), episode)
    wanted = torch.autograd.grad(learner.loss(None, episode), list(network.parameters()))
    for slope, other in zip(slopes.values(), wanted, strict=True):
        torch.testing.assert_close(slope, other)


def test_entries_of_a_bank_are_classified_as_their_images(network, episode):
    learner = Graph(network, "running")
    support, query = learner.embed(None, episode.support_x, episode.query_x)
    banked = replace(episode, support_x=support, query_x=query)
    torch.testing.assert_close(classify_embedded(network, banked), learner.logits(None, episode))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_network_decides_the_precision(network, dtype):
    support, y, query = embedded()
    assert network.to(dtype)(support.to(dtype), y, query.to(dtype)).dtype == dtype


def test_another_number_of_classes_is_refused(network, episode):
    message = "this graph network was built for 3 classes; the episode has 4: labels are part of its nodes"
    with pytest.raises(ValueError, match=message):
        Graph(network).logits(None, replace(episode, n_way=4))


@pytest.mark.parametrize(
    ("label", "message"),
    [(-1, "labels must lie in 0 .. 2; got -1"), (3, "labels must lie in 0 .. 2; got 0 .. 3"), (0, "class 1 of task 1")],
)
def test_labels_that_do_not_fit_are_refused(network, label, message):
    support, y, query = embedded()
    y = y.clone()
    y[1, y[1] == 1] = label
    with pytest.raises(ValueError, match=message):
        network(support, y, query)


def test_shapes_that_do_not_fit_are_shown(network):
    support, y, query = embedded()
    for wrong in ((support[0], y, query), (support, y[:, 1:], query), (support, y, query[:1])):
        with pytest.raises(ValueError, match=r"expected embeddings \[B, S, D\] and \[B, Q, D\] and labels \[B, S\]"):
            network(*wrong)


def test_an_empty_support_is_refused(network, episode):
    empty = replace(episode, support_x=episode.support_x[:, :0], support_y=episode.support_y[:, :0])
    with pytest.raises(ValueError, match="the support set is empty"):
        Graph(network).logits(None, empty)


def test_images_of_another_precision_are_torchs_error(network, episode):
    single = replace(episode, support_x=episode.support_x.float(), query_x=episode.query_x.float())
    with pytest.raises(RuntimeError, match="type"):
        Graph(network).logits(None, single)


def test_impossible_options_are_refused(network):
    with pytest.raises(ValueError, match="n_way must be at least 1; got 0"):
        GraphNetwork(Conv4(1, 5, 16), 0)
    with pytest.raises(ValueError, match=r"an edge has two hidden layers; got widths \(4,\)"):
        GraphNetwork(Conv4(1, 5, 16), 3, edge_widths=(4,))
    with pytest.raises(ValueError, match="statistics must be one of"):
        Graph(network, "query")


def test_a_learner_is_frozen(network):
    with pytest.raises(FrozenInstanceError):
        Graph(network).statistics = "running"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_gpu_computes_the_same_loss(network, episode, statistics):
    expected = Graph(network, statistics).loss(None, episode)
    there = replace(
        episode, **{name: getattr(episode, name).cuda() for name in ("support_x", "support_y", "query_x", "query_y")}
    )
    torch.testing.assert_close(Graph(network.cuda(), statistics).loss(None, there).cpu(), expected)
