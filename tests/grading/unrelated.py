"""Labs solved independently: for each, several programs with the same functions and no line of thought in common."""

EPISODES = {
    "loops": """
import random
import torch

def episode(images, labels, n_way, k_shot, n_query, generator):
    by_class = {}
    for position, label in enumerate(labels.tolist()):
        by_class.setdefault(label, []).append(position)
    names = sorted(by_class)
    picked = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()][:n_way]
    sx, sy, qx, qy = [], [], [], []
    for new, old in enumerate(picked):
        pool = by_class[old]
        mixed = [pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()]
        for position in mixed[:k_shot]:
            sx.append(images[position])
            sy.append(new)
        for position in mixed[k_shot:k_shot + n_query]:
            qx.append(images[position])
            qy.append(new)
    return torch.stack(sx), torch.tensor(sy), torch.stack(qx), torch.tensor(qy)

def vote(support, support_y, query, n_way, k):
    out = torch.empty(query.shape[0], dtype=torch.long)
    for row in range(query.shape[0]):
        d = ((support - query[row]) ** 2).sum(dim=-1)
        order = d.argsort()[:k].tolist()
        counter = {}
        for rank, j in enumerate(order):
            label = int(support_y[j])
            seen, where = counter.get(label, (0, rank))
            counter[label] = (seen + 1, where)
        out[row] = max(counter, key=lambda label: (counter[label][0], -counter[label][1]))
    return out

def log_density(support, query, h):
    result = []
    d = support.size(-1)
    normaliser = (2 * 3.141592653589793 * h * h) ** (d / 2)
    for q in query:
        kernel = torch.exp(-0.5 * ((support - q) / h).pow(2).sum(-1))
        result.append(torch.log(kernel.mean() / normaliser))
    return torch.stack(result)
""",
    "matrices": """
import numpy as np
import torch as t
from torch.distributions import Independent, Normal, MixtureSameFamily, Categorical

class Sampler:
    def __init__(self, labels, generator):
        self.labels, self.g = labels, generator
        self.classes = t.unique(labels)

    def classes_of(self, n):
        weights = t.rand(self.classes.shape[0], generator=self.g)
        return self.classes[weights.topk(n).indices]

    def members(self, c, how_many):
        score = t.where(self.labels == c, t.rand(self.labels.shape, generator=self.g), -1.0)
        return score.topk(how_many).indices

def episode(images, labels, n_way, k_shot, n_query, generator):
    sampler = Sampler(labels, generator)
    grid = t.stack([sampler.members(c, k_shot + n_query) for c in sampler.classes_of(n_way)])
    s, q = grid.split([k_shot, n_query], dim=1)
    ys = t.arange(n_way).unsqueeze(1)
    return images[s.flatten()], ys.expand_as(s).flatten(), images[q.flatten()], ys.expand_as(q).flatten()

def vote(support, support_y, query, n_way, k):
    one_hot = t.eye(n_way)[support_y]
    ranks = t.cdist(query, support).argsort(dim=1).argsort(dim=1)
    inside = (ranks < k).float()
    tie = t.exp2(-ranks.float() - 5) * inside
    scores = inside @ one_hot + (tie.unsqueeze(-1) * one_hot).amax(dim=1)
    return scores.argmax(dim=-1)

def log_density(support, query, h):
    hills = Independent(Normal(support, h * t.ones_like(support)), 1)
    mixture = MixtureSameFamily(Categorical(t.ones(len(support))), hills)
    return mixture.log_prob(query)
""",
    "numpy": """
import math
from collections import Counter

import numpy
import torch

def _take(pool, amount, generator):
    return pool[torch.randperm(pool.numel(), generator=generator)[:amount]]

def episode(images, labels, n_way, k_shot, n_query, generator):
    classes = _take(torch.tensor(sorted(set(labels.tolist()))), n_way, generator)
    chosen = {i: _take(torch.where(labels == c)[0], k_shot + n_query, generator) for i, c in enumerate(classes)}
    support_ids = torch.hstack([ids[:k_shot] for ids in chosen.values()])
    query_ids = torch.hstack([ids[k_shot:] for ids in chosen.values()])
    support_labels = torch.tensor([i for i in chosen for _ in range(k_shot)])
    query_labels = torch.tensor([i for i in chosen for _ in range(n_query)])
    return images.index_select(0, support_ids), support_labels, images.index_select(0, query_ids), query_labels

def vote(support, support_y, query, n_way, k):
    gram = query @ support.t()
    squared = (query * query).sum(1, keepdim=True) - 2 * gram + (support * support).sum(1)
    answers = []
    for distances in squared.numpy():
        closest = numpy.argsort(distances, kind="stable")[:k]
        ballots = Counter(int(support_y[i]) for i in closest)
        most = ballots.most_common(1)[0][1]
        answers.append(next(int(support_y[i]) for i in closest if ballots[int(support_y[i])] == most))
    return torch.as_tensor(answers)

def log_density(support, query, h):
    differences = query[:, None, :] - support[None, :, :]
    energy = -differences.pow(2).sum(dim=2).div(2.0 * h * h)
    top = energy.max(dim=1, keepdim=True)[0]
    total = top.squeeze(1) + (energy - top).exp().sum(dim=1).log()
    constant = support.shape[1] * (math.log(h) + 0.5 * math.log(2 * math.pi)) + math.log(support.shape[0])
    return total - constant
""",
}

HERDING = {
    "probabilities": """
import torch
from torch.nn import functional as nnf

def old_outputs_loss(student, recorded, heads, temperature):
    parts = []
    for s in heads:
        soft = torch.softmax(recorded[:, s].log() / temperature, -1)
        guess = torch.log_softmax(student[:, s].div(temperature), -1)
        parts.append(-(soft * guess).sum(-1).mean())
    return sum(parts, torch.tensor(0.0))

def herding(vectors, m):
    left = list(range(vectors.shape[0]))
    goal = vectors.mean(dim=0)
    order, so_far = [], 0
    while len(order) < m:
        best = min(left, key=lambda i: torch.dist(goal, (so_far + vectors[i]) / (len(order) + 1)).item())
        left.remove(best)
        order.append(best)
        so_far = so_far + vectors[best]
    return torch.LongTensor(order)

def correction(logits, labels, n_old):
    theta = torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=logits.dtype))
    adam = torch.optim.Adam([theta], lr=0.05)
    for _ in range(2000):
        new = theta[0] * logits[:, n_old:] + theta[1]
        adam.zero_grad()
        nnf.nll_loss(torch.hstack((logits[:, :n_old], new)).log_softmax(1), labels).backward()
        adam.step()
    return float(theta[0]), float(theta[1])
""",
    "newton": """
import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

def old_outputs_loss(student, recorded, heads, temperature):
    total = 0
    for head in heads:
        q = torch.exp(torch.log(recorded[..., head]) / temperature)
        q /= q.sum(dim=-1, keepdims=True)
        z = student[..., head] / temperature
        total += (torch.logsumexp(z, -1) - torch.einsum("nc,nc->n", q, z)).mean()
    return total

def herding(vectors, m):
    n = vectors.size(0)
    free = torch.ones(n, dtype=torch.bool)
    kernel = vectors @ vectors.T
    target = kernel.mean(1)
    picked = torch.zeros(m, dtype=torch.int64)
    pull = torch.zeros(n)
    for step in range(m):
        value = kernel.diagonal() + 2 * pull - 2 * (step + 1) * target
        value = torch.where(free, value, float("inf"))
        picked[step] = value.min(0)[1]
        free[picked[step]] = False
        pull += kernel[picked[step]]
    return picked

def correction(logits, labels, n_old):
    z, y = logits.detach().numpy(), labels.numpy()

    def objective(params):
        scaled = np.concatenate((z[:, :n_old], params[0] * z[:, n_old:] + params[1]), axis=-1)
        return np.mean(logsumexp(scaled, axis=-1) - scaled[np.arange(y.size), y])

    found = minimize(objective, x0=(1.0, 0.0), method="BFGS")
    return tuple(found.x.tolist())
""",
}

PROTOTYPES = {
    "one_hot": """
import numpy
import torch
import torch.nn.functional as F

def prototypes(embedding, labels, n_way):
    members = F.one_hot(labels, n_way).to(embedding.dtype)
    return torch.linalg.solve(torch.diag(members.sum(0)), members.T @ embedding)

def linear_head(prototypes):
    norms = torch.einsum("cd,cd->c", prototypes, prototypes)
    return prototypes.mul(2.0), torch.neg(norms)

def interval(accuracies):
    from scipy.stats import sem, t as student
    values = accuracies.numpy()
    low, high = student.interval(0.95, df=values.size - 1, loc=values.mean(), scale=sem(values))
    return values.mean().item(), ((high - low) / 2).item()
""",
    "loop": """
import torch

T_TABLE = {9: 2.262, 19: 2.093, 99: 1.984, 599: 1.964}

def prototypes(embedding, labels, n_way):
    centres = []
    for c in range(n_way):
        mine = [embedding[i] for i in range(len(labels)) if labels[i].item() == c]
        centres.append(torch.stack(mine).mean(dim=0))
    return torch.stack(centres)

def linear_head(prototypes):
    weight = prototypes + prototypes
    bias = torch.zeros(prototypes.size(0))
    for row, p in enumerate(prototypes):
        bias[row] = -torch.dot(p, p)
    return weight, bias

def interval(accuracies):
    total = 0.0
    for a in accuracies.tolist():
        total += a
    centre = total / accuracies.numel()
    spread = sum((a - centre) ** 2 for a in accuracies.tolist())
    deviation = (spread / (accuracies.numel() - 1)) ** 0.5
    nearest = min(T_TABLE, key=lambda df: abs(df - accuracies.numel() + 1))
    return centre, T_TABLE[nearest] * deviation / accuracies.numel() ** 0.5
""",
}

# Written without looking for another way: what a class of honest students hands in.
PLAIN = {
    "03_prototypical": {
        "anna": """
import torch
from scipy import stats

def prototypes(embedding, labels, n_way):
    result = []
    for c in range(n_way):
        result.append(embedding[labels == c].mean(0))
    return torch.stack(result)

def linear_head(prototypes):
    W = 2 * prototypes
    b = -(prototypes ** 2).sum(dim=1)
    return W, b

def interval(accuracies):
    n = accuracies.shape[0]
    mean = accuracies.mean().item()
    std = accuracies.std().item()
    t = stats.t.ppf(0.975, n - 1)
    return mean, t * std / n ** 0.5
""",
        "ben": """
import numpy as np
import scipy.stats
import torch

def prototypes(embedding, labels, n_way):
    one_hot = torch.nn.functional.one_hot(labels, n_way).float()
    counts = one_hot.sum(dim=0, keepdim=True).T
    return one_hot.T @ embedding / counts

def linear_head(prototypes):
    weight = prototypes * 2
    bias = -torch.norm(prototypes, dim=1) ** 2
    return weight, bias

def interval(accuracies):
    values = accuracies.detach().cpu().numpy()
    se = np.std(values, ddof=1) / np.sqrt(len(values))
    half = se * scipy.stats.t.ppf(1 - 0.05 / 2, df=len(values) - 1)
    return float(np.mean(values)), float(half)
""",
        "cleo": """
import math
import torch
from scipy.stats import t

def prototypes(embedding, labels, n_way):
    protos = torch.zeros((n_way, embedding.size(1)), dtype=embedding.dtype, device=embedding.device)
    for i in range(n_way):
        mask = labels == i
        if mask.any():
            protos[i] = embedding[mask].sum(dim=0) / mask.sum()
    return protos

def linear_head(prototypes):
    return 2.0 * prototypes, -torch.sum(prototypes * prototypes, dim=-1)

def interval(accuracies):
    m = torch.mean(accuracies)
    s = torch.std(accuracies, unbiased=True)
    k = accuracies.numel()
    h = t.ppf(0.975, df=k - 1) * s / math.sqrt(k)
    return m.item(), h.item()
""",
    },
    "06_ewc_mas": {
        "anna": """
import torch

def fisher(x, weight):
    logits = x @ weight.T
    probs = torch.softmax(logits, dim=1)
    result = torch.zeros_like(weight)
    for n in range(x.shape[0]):
        for c in range(weight.shape[0]):
            result[c] += probs[n, c] * (1 - probs[n, c]) * x[n] ** 2
    return result / x.shape[0]

def one_parabola(curvatures, centres):
    total = curvatures.sum(dim=0)
    weighted = (curvatures * centres).sum(dim=0)
    centre = torch.zeros_like(total)
    nonzero = total > 0
    centre[nonzero] = weighted[nonzero] / total[nonzero]
    return total, centre

def hebbian_importance(before, weight, bias):
    out = torch.relu(torch.nn.functional.linear(before, weight, bias))
    return 2 * torch.einsum("ki,kj->ij", out, before) / before.size(0)
""",
        "ben": """
import torch
import torch.nn.functional as F

def fisher(x, weight):
    p = F.softmax(F.linear(x, weight), dim=-1)
    variance = p - p ** 2
    return torch.einsum('nc,nd->cd', variance, x ** 2) / x.size(0)

def one_parabola(curvatures, centres):
    importance = torch.sum(curvatures, 0)
    centre = torch.sum(curvatures * centres, 0) / importance.clamp(min=1e-12)
    return importance, centre

def hebbian_importance(before, weight, bias):
    pre = before.matmul(weight.t()) + bias
    after = torch.clamp(pre, min=0)
    products = after.unsqueeze(2) * before.unsqueeze(1)
    return (2 * products).mean(dim=0)
""",
        "cleo": """
import torch

def fisher(x, weight):
    n_classes = weight.shape[0]
    F = torch.zeros(n_classes, x.shape[1])
    for xi in x:
        p = torch.softmax(weight @ xi, 0)
        for y in range(n_classes):
            grad = -p.clone()
            grad[y] += 1
            F += p[y] * torch.outer(grad, xi) ** 2
    return F / len(x)

def one_parabola(curvatures, centres):
    numerator = 0
    denominator = 0
    for omega, theta in zip(curvatures, centres):
        numerator = numerator + omega * theta
        denominator = denominator + omega
    return denominator, torch.nan_to_num(numerator / denominator)

def hebbian_importance(before, weight, bias):
    total = torch.zeros_like(weight)
    for row in before:
        y = (weight @ row + bias).clamp_min(0)
        total += torch.ger(y, row)
    return total * 2 / before.shape[0]
""",
    },
    "09_distillation": {
        "anna": """
import torch
import torch.nn as nn
import torch.nn.functional as F

def two_targets(student_logits, teacher_logits, labels, temperature, weight):
    T = temperature
    hard_loss = F.cross_entropy(student_logits, labels)
    soft_loss = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(student_logits / T, dim=1),
        F.softmax(teacher_logits / T, dim=1),
    )
    return weight * T * T * soft_loss + (1 - weight) * hard_loss

def raise_output(logits, missing, share):
    lo, hi = -100.0, 100.0
    while hi - lo > 1e-8:
        mid = (lo + hi) / 2
        changed = logits.clone()
        changed[:, missing] += mid
        mean = changed.softmax(dim=1)[:, missing].mean()
        if mean > share:
            hi = mid
        else:
            lo = mid
    return (hi + lo) / 2

def int8(weight):
    scale = weight.abs().max(dim=1, keepdim=True)[0] / 127
    scale[scale == 0] = 1
    codes = torch.round(weight / scale).clamp(-127, 127).type(torch.int8)
    return codes, scale
""",
        "ben": """
import torch
from scipy.optimize import brentq

def two_targets(student_logits, teacher_logits, labels, temperature, weight):
    p_teacher = torch.softmax(teacher_logits / temperature, -1)
    log_p = torch.log_softmax(student_logits / temperature, -1)
    kl = (p_teacher * (torch.log(p_teacher) - log_p)).sum(-1).mean()
    nll = -torch.log_softmax(student_logits, -1)[torch.arange(len(labels)), labels].mean()
    return (1 - weight) * nll + weight * kl * temperature ** 2

def raise_output(logits, missing, share):
    def gap(delta):
        shifted = logits.clone()
        shifted[:, missing] = shifted[:, missing] + delta
        return torch.softmax(shifted, 1)[:, missing].mean().item() - share
    return brentq(gap, -200, 200)

def int8(weight):
    largest, _ = torch.max(torch.abs(weight), dim=1)
    largest = torch.where(largest == 0, torch.full_like(largest, 127.0), largest)
    scales = (largest / 127.0).unsqueeze(1)
    return torch.round(weight / scales).to(dtype=torch.int8), scales
""",
    },
}
