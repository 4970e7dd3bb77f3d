"""Train each tower alone, on the cue values of its modality, with a linear head per cue.

A small vision tower that is trained only through the LM learns nothing: the LM relies on the sound.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_rlvr.data.synthetic import emotions
from omni_rlvr.training.schedule import make_schedule


def train_tower(
    key: str, tower: nn.Module, names: list[str], train: dict, steps: int
) -> nn.ModuleList:
    """Trains one tower on the named cues; returns its heads."""
    columns = [list(emotions.CUES).index(name) for name in names]
    with torch.no_grad():
        width = tower_states(key, tower, train[key][:1]).shape[-1]
    heads = nn.ModuleList(nn.Linear(width, len(emotions.CUES[name])) for name in names)
    weights = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.05)
    schedule = make_schedule(optimizer, num_steps=steps, warmup_ratio=0.05, kind="cosine")
    tower.train()
    for step in range(steps):
        rows = torch.randint(len(train["cues"]), (64,))
        outs = tower_logits(key, tower, heads, augment(key, train[key][rows]))
        loss = sum(
            F.cross_entropy(o, train["cues"][rows, c]) for o, c in zip(outs, columns, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"tower {key} step {step} loss {loss.item() / len(names):.3f}", flush=True)
    tower.eval()
    return heads


def tower_states(key: str, tower: nn.Module, x: Tensor) -> Tensor:
    """Reads a face place by place (brows sit above eyes), a voice by its average over time.

    Returns:
        [N, frames, D] for faces, [N, 1, D] for voices.
    """
    if key == "pixels":
        hidden = tower(x.float().flatten(0, 1)).last_hidden_state
        return hidden.flatten(1).unflatten(0, (len(x), -1))
    return tower(x.float()).last_hidden_state.mean(dim=1, keepdim=True)


def tower_logits(key: str, tower: nn.Module, heads: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Computes each cue's logits ([N, values]), averaged over frames."""
    hidden = tower_states(key, tower, x)
    return [head(hidden).mean(dim=1) for head in heads]


@torch.no_grad()
def tower_accuracy(
    key: str, tower: nn.Module, heads: nn.ModuleList, names: list[str], data: dict
) -> dict[str, float]:
    """Measures the share of right values of each cue on a split."""
    parts = [tower_logits(key, tower, heads, x) for x in data[key].split(50)]
    accuracy = {}
    for name, outs in zip(names, zip(*parts, strict=True), strict=True):
        gold = data["cues"][:, list(emotions.CUES).index(name)]
        accuracy[name] = round((torch.cat(outs).argmax(1) == gold).float().mean().item(), 3)
    return accuracy


def augment(key: str, x: Tensor) -> Tensor:
    """Mirrors pictures, changes their light; shifts sounds in time and in level."""
    x = x.float()
    if key == "pixels":
        x = torch.where(torch.rand(len(x), 1, 1, 1, 1) < 0.5, x.flip(-1), x)
        contrast = 1 + 0.2 * torch.randn(len(x), 1, 1, 1, 1)
        return x * contrast + 0.15 * torch.randn(len(x), 1, 1, 1, 1)
    shift = int(torch.randint(-40, 41, ()))
    return x.roll(shift, dims=-1) + 0.05 * torch.randn(len(x), 1, 1)
