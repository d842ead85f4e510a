"""Training loops that show their progress, remember where they were, and measure what they reached."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.data.cache import write_atomically
from utils.data.episodes import Episode, EpisodeSampler
from utils.data.images import ImageSet, as_float

with warnings.catch_warnings():  # tqdm warns where a notebook has no widgets, and then falls back to text all the same
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU (``COURSE_DEVICE`` overrides)."""
    chosen = os.environ.get("COURSE_DEVICE")
    if chosen:
        try:
            return torch.device(chosen)
        except RuntimeError as error:
            raise ValueError(f'COURSE_DEVICE must name a device such as "cpu" or "cuda"; got {chosen!r}') from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def progress(total: int, label: str) -> tqdm:
    """A progress bar on stderr; silent where ``COURSE_QUIET`` is set, as it is under test."""
    return tqdm(total=total, desc=label, leave=False, disable=bool(os.environ.get("COURSE_QUIET")))


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state: ``path``, rewritten atomically ``every`` so many steps.

    ``fingerprint`` describes the run (hyper-parameters, data, seed). A file of another run is refused, not resumed.
    """

    path: Path
    fingerprint: Mapping[str, object]
    every: int = 500

    def save(self, state: Mapping[str, object]) -> None:
        whole = {"fingerprint": dict(self.fingerprint), **state}
        write_atomically(self.path, lambda file: torch.save(whole, file))

    def load(self) -> dict | None:
        """The stored state, on the CPU; ``None`` if there is none.

        ``ValueError`` if it belongs to another run or is damaged.
        """
        path = Path(self.path)
        if not path.exists():
            return None
        content = path.read_bytes()
        try:
            # To the CPU: optimizers keep their step counts there, and would wait for a GPU at each of them.
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # of any kind, depending on where the bytes first make no sense
            raise ValueError(f"{path} is damaged or no checkpoint: delete it to start afresh") from error
        if not isinstance(state, dict) or "fingerprint" not in state:
            raise ValueError(f"{path} is no checkpoint of this course: delete it to start afresh")
        if state["fingerprint"] != dict(self.fingerprint):
            differing = sorted(
                key
                for key in state["fingerprint"].keys() | self.fingerprint.keys()
                if state["fingerprint"].get(key) != self.fingerprint.get(key)
            )
            raise ValueError(
                f"{path} was written by a run with another {', '.join(differing)}: "
                "delete it to start afresh, or repeat that run's settings"
            )
        return state


def fit(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    steps: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    checkpoint: Checkpoint | None = None,
    label: str = "training",
) -> list[float]:
    """Minimise ``loss_at(step)`` over ``network``'s parameters; returns the loss of every step.

    ``loss_at`` must depend on the step alone (an episode sampler does: ``sampler.sample(step)``); a run that was
    interrupted then goes on from its checkpoint as if nothing had happened, to the bit.
    The network is in training mode meanwhile and in evaluation mode afterwards.
    """
    device = next(network.parameters()).device
    losses = torch.zeros(steps, device=device)  # read once at the end: a float() a step would stop a GPU each time
    first = 0
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        if state["step"] > steps:
            raise ValueError(
                f"{checkpoint.path} holds {state['step']} steps, more than the {steps} asked for: "
                "delete it to start afresh, or ask for as many"
            )
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        first = state["step"]
        losses[:first] = state["losses"][:first]
    network.train()
    with progress(steps, label) as bar:
        bar.update(first)
        for step in range(first, steps):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_at(step)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses[step] = loss.detach()
            bar.update()
            done = step + 1
            if checkpoint is not None and (done % checkpoint.every == 0 or done == steps):
                if not bool(losses[:done].isfinite().all()):
                    raise FloatingPointError(f"the loss of {label} is not finite by step {done}; nothing was saved")
                checkpoint.save(
                    {
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scheduler": None if scheduler is None else scheduler.state_dict(),
                        "step": done,
                        "losses": losses,
                    }
                )
    network.eval()
    if not bool(losses.isfinite().all()):
        raise FloatingPointError(f"the loss of {label} is not finite: lower the learning rate, check the input")
    return losses.tolist()


@torch.no_grad()
def embed_images(network: nn.Module, images: ImageSet, rotations: bool = False, chunk: int = 256) -> Tensor:
    """Embedding of every image of a set with running batch-norm statistics: ``[n_classes, image, D]``.

    Without transduction an embedding depends on its image alone, so each is computed once, however many episodes
    are drawn from them. With ``rotations``, the classes turned by 90, 180 and 270 degrees follow in blocks.
    """
    bank = []
    turns = (0, 1, 2, 3) if rotations else (0,)
    with progress(len(turns) * images.n_classes, "embedding") as bar:
        for turn in turns:
            for some in images.images.flatten(0, 1).split(chunk):
                pixels = as_float(torch.rot90(some, turn, (-2, -1)))
                bank.append(network(pixels, statistics="running"))
            bar.update(images.n_classes)
    return torch.cat(bank).unflatten(0, (len(turns) * images.n_classes, -1))


@torch.no_grad()
def episode_accuracies(
    predict: Callable[[Episode], Tensor],
    sampler: EpisodeSampler,
    n_episodes: int,
    start: int = 0,
    bank: Tensor | None = None,
) -> Tensor:
    """Accuracy of each of ``n_episodes`` episodes, float64 ``[n_episodes]`` in [0, 1].

    ``predict`` returns scores ``[B, Q, n_way]`` or labels ``[B, Q]``; with ``bank`` it is given episodes of the bank's
    entries (:func:`embed_images`) instead of images. The same sampler and ``start`` give the same
    episodes to every method, so that methods can be compared episode by episode.
    """
    n_batches, rest = divmod(n_episodes, sampler.batch_size)
    if rest:
        raise ValueError(f"{n_episodes} episodes are no multiple of the sampler's batch of {sampler.batch_size}")
    accuracies = []
    with progress(n_episodes, "evaluating") as bar:
        for episode in sampler.batches(n_batches, start, bank):
            predicted = predict(episode)
            if predicted.ndim == 3:
                predicted = predicted.argmax(-1)
            if predicted.shape != episode.query_y.shape:
                raise ValueError(
                    "predict must return scores [B, Q, n_way] or labels [B, Q] with "
                    f"[B, Q] = {list(episode.query_y.shape)}; its labels are {list(predicted.shape)}"
                )
            accuracies.append((predicted == episode.query_y).double().mean(-1))
            bar.update(sampler.batch_size)
    return torch.cat(accuracies).cpu()
