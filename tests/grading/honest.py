"""A class's worth of honest solutions of the lab on prototypical networks, none of them like another.

Seven ways of writing each of eight parts. Which way a student chose for which part follows an orthogonal array (Bush
1952): any two of the 49 students have one part in common, and so no two are copies of each other.

What each of them reaches with the budget ``smoke`` is recorded in ``honest_reached.json``, by
``python -m grading.honest solutions/03_prototypical`` run in ``tests`` (4 minutes on one core).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.grading.labs import Lab, read_lab

WAYS = 7
RECORD = Path(__file__).with_name("honest_reached.json")

MISTAKES = {
    35: "averaged_before_embedding",
    36: "classes_by_appearance",
    37: "distance_not_squared",
    38: "queries_not_embedded_alike",
    39: "loss_summed",
    40: "prototypes_are_medians",
    41: "prototypes_detached",
    42: "support_without_gradient",
    43: "nearest_example",
    44: "distance_averaged",
}
"""Students who make one of the lab's known mistakes, in a solution that is otherwise their own."""

PROTOTYPES = (
    """
def prototypes(embeddings, labels, n_way):
    return torch.stack([embeddings[labels == k].mean(0) for k in range(n_way)])
""",
    """
def prototypes(embeddings, labels, n_way):
    weights = (labels[:, None] == torch.arange(n_way)).to(embeddings.dtype)
    sums = torch.einsum("sk,sd->kd", weights, embeddings)
    return sums / torch.einsum("sk->k", weights)[:, None]
""",
    """
def prototypes(embeddings, labels, n_way):
    total = embeddings.new_zeros(n_way, embeddings.shape[1]).index_add(0, labels, embeddings)
    count = torch.bincount(labels, minlength=n_way)
    return total / count.unsqueeze(1)
""",
    """
def prototypes(embeddings, labels, n_way):
    index = labels.view(-1, 1).expand_as(embeddings)
    out = torch.zeros((n_way, embeddings.size(1)), dtype=embeddings.dtype)
    return out.scatter_reduce(0, index, embeddings, reduce="mean", include_self=False)
""",
    """
def prototypes(embeddings, labels, n_way):
    order = torch.argsort(labels)
    sizes = [int((labels == k).sum()) for k in range(n_way)]
    means = []
    for group in torch.split(embeddings[order], sizes):
        means.append(group.sum(dim=0, keepdim=True) / len(group))
    return torch.cat(means)
""",
    """
def prototypes(embeddings, labels, n_way):
    mask = labels.unsqueeze(0).eq(torch.arange(n_way).unsqueeze(1))
    spread = torch.where(mask[:, :, None], embeddings[None], torch.zeros_like(embeddings)[None])
    return spread.sum(1) / mask.sum(1, keepdim=True)
""",
    """
def prototypes(embeddings, labels, n_way):
    sums, seen = {}, {}
    for row, label in zip(embeddings, labels.tolist()):
        if label in sums:
            sums[label], seen[label] = sums[label] + row, seen[label] + 1
        else:
            sums[label], seen[label] = row, 1
    return torch.vstack([sums[k] / seen[k] for k in sorted(sums)])
""",
)

LOG_PROBABILITIES = (
    """
def log_probabilities(queries, prototypes):
    gap = torch.cdist(queries, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
    return F.log_softmax(-(gap**2), dim=1)
""",
    """
def log_probabilities(queries, prototypes):
    middle = prototypes.mean(0)
    a, b = queries - middle, prototypes - middle
    scores = 2 * a @ b.t() - a.pow(2).sum(1, keepdim=True) - b.pow(2).sum(1)
    return scores - torch.logsumexp(scores, dim=1, keepdim=True)
""",
    """
def log_probabilities(queries, prototypes):
    diff = queries.unsqueeze(1) - prototypes.unsqueeze(0)
    energy = torch.einsum("qkd,qkd->qk", diff, diff)
    return energy.neg().log_softmax(dim=-1)
""",
    """
def log_probabilities(queries, prototypes):
    columns = []
    for centre in prototypes:
        columns.append(((queries - centre) ** 2).sum(dim=1))
    return F.log_softmax(-torch.stack(columns, dim=1), 1)
""",
    """
def log_probabilities(queries, prototypes):
    rows = []
    for q in queries:
        s = -torch.sum(torch.square(prototypes - q), -1)
        s = s - s.max().detach()
        rows.append(s - s.exp().sum().log())
    return torch.stack(rows)
""",
    """
def log_probabilities(queries, prototypes):
    lengths = torch.linalg.vector_norm(queries[:, None, :] - prototypes[None], dim=2)
    return nn.LogSoftmax(dim=1)(lengths.square().neg())
""",
    """
def log_probabilities(queries, prototypes):
    # a normal density of variance 1/2 has exp(-d^2) in it
    normal = torch.distributions.Normal(prototypes, 0.5**0.5)
    density = normal.log_prob(queries.unsqueeze(1)).sum(dim=-1)
    return torch.distributions.Categorical(logits=density).logits
""",
)

EPISODE_LOSS = (
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    return F.nll_loss(log_probabilities(queries, prototypes(support, support_y, n_way)), query_y)
""",
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    log_p = log_probabilities(queries, prototypes(support, support_y, n_way))
    return -log_p.gather(1, query_y.view(-1, 1)).mean()
""",
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    log_p = log_probabilities(queries, prototypes(support, support_y, n_way))
    return nn.CrossEntropyLoss()(log_p, query_y)
""",
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    log_p = log_probabilities(queries, prototypes(support, support_y, n_way))
    hot = F.one_hot(query_y, n_way).to(log_p.dtype)
    return -(hot * log_p).sum() / len(query_y)
""",
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    total = 0
    for row, y in zip(log_probabilities(queries, prototypes(support, support_y, n_way)), query_y):
        total = total - row[y]
    return total / query_y.numel()
""",
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    log_p = log_probabilities(queries, prototypes(support, support_y, n_way))
    return log_p[torch.arange(len(query_y)), query_y].neg().mean()
""",
    """
def episode_loss(support, support_y, queries, query_y, n_way):
    log_p = log_probabilities(queries, prototypes(support, support_y, n_way))
    return log_p[:, query_y].diagonal().sum().div(-query_y.shape[0])
""",
)

PREDICT = (
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    def embed(x):
        return F.linear(x, weight, bias).relu()

    scores = log_probabilities(embed(query_x), prototypes(embed(support_x), support_y, n_way))
    return scores.argmax(dim=1)
""",
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    everything = torch.cat([support_x, query_x]) @ weight.t() + bias
    s, q = everything.clamp(min=0).split([len(support_x), len(query_x)])
    return torch.max(log_probabilities(q, prototypes(s, support_y, n_way)), 1).indices
""",
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    means = prototypes(torch.relu(torch.addmm(bias, support_x, weight.T)), support_y, n_way)
    labels = []
    for q in torch.relu(torch.addmm(bias, query_x, weight.T)):
        labels.append(int(((means - q) ** 2).sum(1).argmin()))
    return torch.tensor(labels)
""",
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    f = lambda x: torch.maximum(torch.einsum("sp,dp->sd", x, weight) + bias, torch.zeros(()))  # noqa: E731
    distance = torch.cdist(f(query_x), prototypes(f(support_x), support_y, n_way))
    return distance.sort(dim=1)[1][:, 0]
""",
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    with torch.no_grad():
        model = nn.Sequential(layer, nn.ReLU())
        p = log_probabilities(model(query_x), prototypes(model(support_x), support_y, n_way))
    return p.topk(1, dim=1).indices.squeeze(1)
""",
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    hidden = [torch.matmul(weight, x.unsqueeze(-1)).squeeze(-1) + bias for x in (support_x, query_x)]
    hidden = [h * (h > 0) for h in hidden]
    centres = prototypes(hidden[0], support_y, n_way)
    return torch.argmin((hidden[1][:, None] - centres[None]).norm(dim=-1), dim=-1)
""",
    """
def predict(support_x, support_y, query_x, n_way, weight, bias):
    affine = torch.cat([weight, bias[:, None]], dim=1)

    def lifted(x):
        return F.relu(F.pad(x, (0, 1), value=1.0).mm(affine.t()))

    centres = prototypes(lifted(support_x), support_y, n_way)
    best = torch.full((len(query_x),), -float("inf"))
    label = torch.zeros(len(query_x), dtype=torch.long)
    for k, column in enumerate(log_probabilities(lifted(query_x), centres).unbind(1)):
        label[column > best] = k
        best = torch.maximum(best, column)
    return label
""",
)

NETWORK = (
    """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, 32, 3, padding=1, bias=False) for i in (1, 32, 32))
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(3))

    def forward(self, x):
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = norm(conv(x)).relu()
            if number < 2:
                x = F.max_pool2d(x, 2)
        return x.flatten(1)


def make_net():
    return Encoder()
""",
    """
def make_net():
    layers = [nn.Conv2d(1, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(32, 40, 3, 1, 1), nn.BatchNorm2d(40), nn.ReLU(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(40, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(start_dim=1)]
    return nn.Sequential(*layers)
""",
    """
class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x):
        return F.relu(x + self.inner(x))


def make_net():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        Residual(32), nn.AvgPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
    )
""",
    """
class TwoScales(nn.Module):
    def __init__(self, n=32):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, n // 2, 3, padding=1), nn.Conv2d(1, n // 2, 5, padding=2)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(n) for _ in "abc")
        self.mix, self.end = nn.Conv2d(n, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x):
        both = torch.cat((self.fine(x), self.coarse(x)), dim=1)
        half = F.max_pool2d(F.relu(self.bn1(both)), kernel_size=2)
        quarter = F.avg_pool2d(F.relu(self.bn2(self.mix(half))), kernel_size=2)
        return F.relu(self.bn3(self.end(quarter))).reshape(x.shape[0], -1)


make_net = TwoScales
""",
    """
def block(i, o, pool):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.LeakyReLU(0.05), nn.AvgPool2d(pool))


def make_net():
    net = nn.Sequential()
    for number, (i, pool) in enumerate([(1, 2), (32, 2), (32, 1)]):
        net.add_module(f"block{number}", block(i, 32, pool))
    net.add_module("vector", nn.Flatten())
    return net
""",
    """
class Pyramid(torch.nn.Module):
    sizes = ((1, 32, 2), (32, 32, 2), (32, 40, 1))

    def __init__(self):
        super(Pyramid, self).__init__()
        for number, (a, b, _) in enumerate(self.sizes):
            setattr(self, f"conv{number}", nn.Conv2d(a, b, 3, padding=1))
            setattr(self, f"norm{number}", nn.BatchNorm2d(b))

    def forward(self, picture):
        hidden = picture
        for number in range(len(self.sizes)):
            hidden = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(hidden))
            hidden = torch.nn.functional.relu(hidden)
            hidden = torch.nn.functional.max_pool2d(hidden, self.sizes[number][2])
        return torch.flatten(hidden, start_dim=1)


def make_net():
    return Pyramid()
""",
    """
class Dense(nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding="same"), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.more = nn.Sequential(nn.Conv2d(16, 24, 3, padding="same"), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.last = nn.Sequential(nn.Conv2d(40, 32, 3, padding="same"), nn.BatchNorm2d(32), nn.ReLU(inplace=True))

    def forward(self, x):
        low = F.max_pool2d(self.stem(x), 2)
        high = torch.cat([low, self.more(low)], 1)
        return nn.Flatten()(self.last(F.avg_pool2d(high, 2)))


def make_net():
    return Dense()
""",
)

DRAW = (
    """
def draw(images, way, shot, n_query):
    sx, sy, qx, qy = [], [], [], []
    for new, old in enumerate(torch.randperm(len(images))[:way].tolist()):
        mixed = images[old][torch.randperm(images.shape[1])]
        sx.append(mixed[:shot])
        qx.append(mixed[shot : shot + n_query])
        sy += [new] * shot
        qy += [new] * n_query
    return torch.cat(sx) / 255, torch.tensor(sy), torch.cat(qx) / 255, torch.tensor(qy)
""",
    """
def draw(images, way, shot, n_query):
    who = torch.multinomial(torch.ones(images.size(0)), way)
    which = torch.multinomial(torch.ones(way, images.size(1)), shot + n_query)
    pixels = images[who.unsqueeze(1), which].float().div(255.0)
    names = torch.arange(way)[:, None].expand(way, shot + n_query)
    s, q = slice(None, shot), slice(shot, None)
    return (
        pixels[:, s].reshape(-1, 1, 14, 14), names[:, s].reshape(-1),
        pixels[:, q].reshape(-1, 1, 14, 14), names[:, q].reshape(-1),
    )
""",
    """
def draw(images, way, shot, n_query):
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    classes = rng.choice(images.shape[0], way, replace=False)
    pools = np.stack([rng.permutation(images.shape[1])[: shot + n_query] for _ in classes])
    rows = [(images[c, pools[i, j]], i, j < shot) for i, c in enumerate(classes) for j in range(shot + n_query)]
    result = []
    for wanted in (True, False):
        part = [(x, y) for x, y, is_support in rows if is_support is wanted]
        result += [torch.stack([x for x, _ in part]).float() * (1 / 255), torch.as_tensor([y for _, y in part])]
    return result
""",
    """
def draw(images, way, shot, n_query):
    classes = torch.rand(images.shape[0]).topk(way).indices
    per_class = shot + n_query
    pick = torch.rand(way, images.shape[1]).topk(per_class, dim=1)[1]
    chosen = torch.take_along_dim(images[classes], pick.view(way, per_class, 1, 1, 1), dim=1)
    support, queries = torch.tensor_split(chosen.to(torch.float32) / 255.0, [shot], dim=1)
    y = torch.arange(way)
    return support.flatten(0, 1), y.repeat_interleave(shot), queries.flatten(0, 1), y.repeat_interleave(n_query)
""",
    """
def draw(images, way, shot, n_query):
    dice = random.Random(int(torch.empty((), dtype=torch.int64).random_(1 << 31)))
    support, queries = [], []
    for label, name in enumerate(dice.sample(range(len(images)), way)):
        numbers = dice.sample(range(len(images[name])), shot + n_query)
        support.extend((images[name, n], label) for n in numbers[n_query:])
        queries.extend((images[name, n], label) for n in numbers[:n_query])
    dice.shuffle(queries)
    unpacked = []
    for pairs in (support, queries):
        x, y = zip(*pairs)
        unpacked.extend([torch.stack(x).true_divide(255), torch.LongTensor(y)])
    return tuple(unpacked)
""",
    """
def draw(images, way, shot, n_query):
    count = images.shape[1]
    flat = images.view(-1, 1, 14, 14)
    start = torch.randperm(images.shape[0]).narrow(0, 0, way) * count
    offset = torch.stack([torch.randperm(count) for _ in range(way)], dim=0)
    def part(a, b):
        where = (start.view(way, 1) + offset[:, a:b]).ravel()
        label = torch.div(torch.arange(len(where)), b - a, rounding_mode="floor")
        return flat.index_select(0, where).type(torch.float) / 255, label
    return (*part(0, shot), *part(shot, shot + n_query))
""",
    """
def draw(images, way, shot, n_query):
    order = torch.rand(len(images)).sort().indices
    episode = images[order[:way]].float()
    keys = torch.rand(episode.shape[:2])
    limit = keys.kthvalue(shot, dim=1, keepdim=True).values
    upper = keys.kthvalue(shot + n_query, dim=1, keepdim=True).values
    first = keys <= limit
    second = (keys > limit) & (keys <= upper)
    label = torch.arange(way).view(-1, 1).expand_as(keys)
    return episode[first] / 255, label[first], episode[second] / 255, label[second]
""",
)

FIT = (
    """
def fit(net, images, steps):
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        sx, sy, qx, qy = draw(images, 20, 1, 4)
        loss = episode_loss(net(sx), sy, net(qx), qy, 20)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
    """
def fit(net, images, steps):
    adam = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, eta_min=3e-4)
    history = []
    while len(history) < steps:
        support, support_y, queries, query_y = draw(images, 20, 1, 4)
        z = net(torch.cat([support, queries]))
        cost = episode_loss(z[: len(support)], support_y, z[len(support) :], query_y, 20)
        adam.zero_grad(set_to_none=True)
        cost.backward()
        adam.step()
        schedule.step()
        history.append(cost.item())
    return history
""",
    """
def fit(net, images, steps):
    weights = [p for p in net.parameters() if p.requires_grad]
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    for t in range(1, steps + 1):
        s, ys, q, yq = draw(images, 20, 1, 4)
        gradients = torch.autograd.grad(episode_loss(net(s), ys, net(q), yq, 20), weights)
        with torch.no_grad():
            for w, g, m, v in zip(weights, gradients, first, second):
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                w -= 0.003 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
""",
    """
def fit(net, images, steps):
    net.train()
    opt = torch.optim.NAdam(net.parameters(), 0.002)

    def closure():
        opt.zero_grad()
        x, y, u, v = draw(images, way=20, shot=1, n_query=4)
        value = episode_loss(net(x), y, net(u), v, n_way=20)
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        return value

    for step in range(steps):
        opt.step(closure)
""",
    """
def fit(net, images, steps):
    best, rate = None, 3e-3
    solver = torch.optim.Adam(net.parameters(), lr=rate, amsgrad=True)
    for step in range(steps):
        batch = draw(images, 20, 1, 4)
        features = [net(part) for part in batch[::2]]
        objective = episode_loss(features[0], batch[1], features[1], batch[3], 20)
        for group in solver.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps) + 0.05)
        solver.zero_grad()
        objective.backward()
        solver.step()
        best = objective.item() if best is None else min(best, objective.item())
    return best
""",
    """
class Trainer:
    way, shot, n_query = 20, 1, 4

    def __init__(self, net, images):
        self.net, self.images = net, images
        self.optimiser = torch.optim.Adam([{"params": list(net.parameters())}], lr=0.003, betas=(0.9, 0.99))

    def one_step(self):
        xs, ys, xq, yq = draw(self.images, self.way, self.shot, self.n_query)
        error = episode_loss(self.net(xs), ys, self.net(xq), yq, self.way)
        self.optimiser.zero_grad()
        error.backward()
        self.optimiser.step()
        return float(error)


def fit(net, images, steps):
    trainer = Trainer(net, images)
    return [trainer.one_step() for _ in range(steps)]
""",
    """
def fit(net, images, steps):
    parameters = dict(net.named_parameters())
    inner = torch.optim.Adam(parameters.values(), lr=0.004, eps=1e-7)
    sizes = {name: value.numel() for name, value in parameters.items()}
    for n in range(steps):
        task = draw(images, 20, 1, 4)
        penalty = sum(value.square().sum() for value in parameters.values())
        total = episode_loss(net(task[0]), task[1], net(task[2]), task[3], 20) + 1e-6 * penalty
        inner.zero_grad()
        total.backward()
        inner.step()
    return None if sum(sizes.values()) else net
""",
)

ANSWER = (
    """
def answer(net, tasks):
    net.eval()
    results = []
    with torch.no_grad():
        for sx, sy, qx, way in tasks:
            per_task = []
            for i in range(len(sx)):
                c = prototypes(net(sx[i] / 255), sy[i], way)
                per_task.append(log_probabilities(net(qx[i] / 255), c).argmax(1))
            results.append(torch.stack(per_task))
    return results
""",
    """
@torch.no_grad()
def answer(net, tasks):
    net.train(False)
    out = []
    for support, names, queries, n in tasks:
        e, s, q = len(support), support.shape[1], queries.shape[1]
        z = net(torch.cat([support, queries], 1).flatten(0, 1).float() / 255).view(e, s + q, -1)
        guess = torch.empty(e, q, dtype=torch.long)
        for k in range(e):
            guess[k] = log_probabilities(z[k, s:], prototypes(z[k, :s], names[k], n)).max(1)[1]
        out.append(guess)
    return out
""",
    """
def classify(net, x, y, u, way):
    z = net(torch.cat((x, u)).to(torch.float32).mul(1 / 255))
    return log_probabilities(z[len(x) :], prototypes(z[: len(x)], y, way)).exp().argmax(dim=-1)


def answer(net, tasks):
    net = net.eval()
    with torch.inference_mode():
        return [torch.stack([classify(net, x, y, u, t[3]) for x, y, u in zip(*t[:3])]) for t in tasks]
""",
    """
def answer(net, tasks):
    was = net.training
    net.eval()
    predictions = []
    torch.set_grad_enabled(False)
    try:
        for task in tasks:
            images_s, labels_s, images_q, ways = task
            embedded_s = net(images_s.reshape(-1, 1, 14, 14).float().div(255)).unflatten(0, images_s.shape[:2])
            embedded_q = net(images_q.reshape(-1, 1, 14, 14).float().div(255)).unflatten(0, images_q.shape[:2])
            hot = F.one_hot(labels_s, ways).float()
            centres = hot.transpose(1, 2) @ embedded_s / hot.sum(1).unsqueeze(-1)
            predictions.append(torch.cdist(embedded_q, centres).argmin(-1))
    finally:
        torch.set_grad_enabled(True)
        net.train(was)
    return predictions
""",
    """
def answer(net, tasks):
    net.eval()
    def embedded(batch):
        pieces = [net(piece.float() / 255.0) for piece in batch.flatten(0, 1).split(500)]
        return torch.cat(pieces).view(batch.shape[0], batch.shape[1], -1)
    found = []
    with torch.no_grad():
        for a, labels, b, ways in tasks:
            a, b = embedded(a), embedded(b)
            index = labels.unsqueeze(-1).expand_as(a)
            sums = torch.zeros(len(a), ways, a.shape[-1]).scatter_add(1, index, a)
            counts = torch.zeros(len(a), ways).scatter_add(1, labels, torch.ones(labels.shape))
            d = (b.unsqueeze(2) - (sums / counts.unsqueeze(2)).unsqueeze(1)).pow(2).sum(3)
            found.append(d.min(dim=2).indices)
    return found
""",
    """
class Judge:
    def __init__(self, net):
        self.net = net.eval()

    def embed(self, x):
        with torch.no_grad():
            return self.net(x.type(torch.float32) / 255)

    def episode(self, x, y, u, n):
        means = prototypes(self.embed(x), y, n)
        return torch.tensor([int(log_probabilities(z[None], means).argmax()) for z in self.embed(u)])


def answer(net, tasks):
    judge = Judge(net)
    answers = []
    for x, y, u, n in tasks:
        answers.append(torch.stack([judge.episode(*each, n) for each in zip(x, y, u)], 0))
    return answers
""",
    """
def answer(net, tasks):
    net.requires_grad_(False).eval()
    everything = []
    for number in range(len(tasks)):
        shots, truth, unknown, how_many = tasks[number]
        labels = map(
            lambda n: log_probabilities(
                net(unknown[n].true_divide(255)), prototypes(net(shots[n].true_divide(255)), truth[n], how_many)
            ).sort(dim=1, descending=True).indices[:, 0],
            range(shots.shape[0]),
        )
        everything.append(torch.cat([row.view(1, -1) for row in labels]))
    return everything
""",
)

EXPERIMENT = (
    """
def experiment(images, tasks, steps, seed):
    torch.manual_seed(seed)
    net = make_net()
    fit(net, images, steps)
    return answer(net, tasks)
""",
    """
def experiment(images, tasks, steps, seed):
    torch.random.manual_seed(seed)
    trained = make_net()
    losses = fit(trained, images, steps)
    assert len(losses) == steps
    return list(answer(trained, tasks))
""",
    """
def experiment(images, tasks, steps, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make_net().train()
        fit(model, images, steps)
        return answer(model, tasks)
""",
    """
def experiment(images, tasks, steps, seed):
    generator = torch.manual_seed(seed)
    network = make_net()
    if steps > 0:
        fit(network, images, steps)
    return [guess.clone() for guess in answer(network, tasks)]
""",
    """
def experiment(images, tasks, steps, seed):
    torch.manual_seed(int(seed) + 1)
    model = make_net()
    lowest = fit(model, images, steps)
    print(f"{steps} steps, lowest loss {lowest:.3f}")
    return answer(model, tuple(tasks))
""",
    """
def experiment(images, tasks, steps, seed):
    torch.manual_seed(seed)
    encoder = make_net()
    history = fit(encoder, images, steps)
    print("first and last loss", history[0], history[-1])
    predictions = answer(encoder, tasks)
    return [predictions[number].long() for number in range(len(tasks))]
""",
    """
def experiment(images, tasks, steps, seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    f = make_net()
    return fit(f, images, steps) or answer(f, tasks)
""",
)

HEAD = "import random\n\nimport numpy as np\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
PARTS = (PROTOTYPES, LOG_PROBABILITIES, EPISODE_LOSS, PREDICT, NETWORK, DRAW, FIT, ANSWER)


def ways(student: int) -> tuple[int, ...]:
    """Which way of each part the student chose, for students 0 .. 48."""
    if not 0 <= student < WAYS**2:
        raise ValueError(f"there are {WAYS**2} honest students who differ, from 0 on; got {student}")
    i, j = divmod(student, WAYS)
    # lines with different slopes meet once; how all is put together goes with how it is trained
    return (i, *((slope * i + j) % WAYS for slope in range(WAYS)))


def solution(student: int) -> str:
    """The student's ``lab.py`` without any mistake."""
    numbers = ways(student)
    chosen = [part[way] for part, way in zip(PARTS, numbers, strict=True)]
    return "\n\n\n".join(text.strip("\n") for text in (HEAD, *chosen, EXPERIMENT[numbers[6]])) + "\n"


def handed_in(lab: Lab, student: int) -> str:
    """The student's ``lab.py`` with the mistake of ``MISTAKES``, if there is one."""
    if student not in MISTAKES:
        return solution(student)
    # a mutant brings its own definitions, which take the place of the student's
    return f"{solution(student)}\n\n{lab.mutants[MISTAKES[student]].read_text(encoding='utf-8')}"


# ------------------------------------------------------------------------------------------------------ what they reach


def reached() -> dict[str, dict[str, float]]:
    """Student (or ``"reference"``) -> setting -> accuracy in per cent at the budget ``smoke``."""
    return json.loads(RECORD.read_text(encoding="utf-8"))["reached"]


def main(folder: str) -> None:
    """Train all of them once, each with a seed of its own, and the reference four times; write the record."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    lab = read_lab(folder)
    numbers = dict(lab.experiment.budgets["smoke"].numbers)

    def tensors(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(tensors, value))
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    def trained(text: str, seeds: Sequence[int]) -> dict[str, float]:
        module: dict = {}
        exec(text, module)  # written by ourselves
        found: dict[str, list[float]] = {}
        for seed in seeds:
            (trial,) = lab.inputs.trials(numbers, seed)
            answers = module[lab.experiment.function](*map(tensors, trial.arguments))
            for (name, labels), answer in zip(trial.labels.items(), answers, strict=True):
                found.setdefault(name, []).append(100 * float((answer.numpy() == labels).mean()))
        return {name: round(sum(values) / len(values), 2) for name, values in found.items()}

    results = {"reference": trained(lab.text_of(), range(7000, 7004))}
    for student in range(WAYS**2):
        results[str(student)] = trained(handed_in(lab, student), [7100 + student])
        print(student, results[str(student)], flush=True)
    RECORD.write_text(json.dumps({"numbers": numbers, "reached": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
