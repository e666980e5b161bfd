"""Fits a head to supervision sets. The only file here that uses torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.reward.head import (
    CLIP,
    LABELS,
    Head,
    HeadCard,
    HeadWeights,
)
from toolprm_lite.tasks.problem import SPLITS, Split
from toolprm_lite.training.calibration import calibrate
from toolprm_lite.training.data import Examples

_CHUNK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """How to fit.

    Attributes:
        width: units of the hidden layer.
        weight_decay: AdamW's, on weights only.
        learning_rate: at the start; it falls by a cosine over `epochs`.
        dropout: of inputs and units.
        batch: steps a gradient is taken of.
        epochs: at most.
        patience: epochs without a better validation loss before it stops.
        rank_weight: of the pairwise loss among right and wrong steps of a problem and kind.
        members: networks whose mean logit the head is; they differ by their seeds alone.
        blind: the weight, 0 .. 1, that one more network has in that mean, which is shown the
            features alone. States also separate the topics of the training problems, and on others
            they may mislead. All are together one network of as many times the units.
        seed: of the first weights, the order and the dropout.
    """

    width: int = 128
    weight_decay: float = 0.1
    learning_rate: float = 1e-3
    dropout: float = 0.2
    batch: int = 1024
    epochs: int = 30
    patience: int = 4
    rank_weight: float = 0.0
    members: int = 1
    blind: float = 0.0
    seed: int = 0


OnEpoch = Callable[[int, float], None]
"""Called with each epoch's number, from 1, and its validation loss."""


class _Network(nn.Module):
    """`Head.logits` as torch computes it, on standardised inputs."""

    def __init__(self, inputs: int, settings: HeadSettings) -> None:
        super().__init__()
        kinds, labels = len(STEP_KINDS), len(LABELS)
        self.weight = nn.Parameter(torch.randn(settings.width, inputs) * inputs**-0.5)
        self.kind_bias = nn.Parameter(torch.zeros(kinds, settings.width))
        self.readout = nn.Parameter(
            torch.randn(labels, kinds, settings.width) * settings.width**-0.5
        )
        self.readout_bias = nn.Parameter(torch.zeros(labels, kinds))
        self.dropout = settings.dropout

    def forward(self, inputs: Tensor, kinds: Tensor) -> Tensor:
        """Logits [steps, labels] of inputs [steps, inputs] and one-hot kinds [steps, kinds]."""
        # an input is dropped for the whole batch: one draw for each step takes longer than the rest
        kept = functional.dropout(
            self.weight.new_ones(inputs.shape[1]), self.dropout, self.training
        )
        units = inputs @ (self.weight * kept).T + kinds @ self.kind_bias
        units = functional.gelu(units, approximate="tanh")
        units = functional.dropout(units, self.dropout, self.training)
        logits = torch.einsum("su,lku->slk", units, self.readout) + self.readout_bias
        # by product, not by index: the gradient of an index is summed in any order on a GPU
        return (logits * kinds[:, None, :]).sum(dim=2)


def fit_head(
    examples: Examples,
    card: HeadCard,
    settings: HeadSettings,
    on_epoch: OnEpoch | None = None,
) -> Head:
    """Fit a head to the training split of `examples`, for the kinds that `card` names.

    The weights are those of the epoch with the least validation loss (the cross-entropy of both
    labels, in nats; it is put into the card's notes), calibrated for each kind on the validation
    split. Every problem weighs the square root of its steps. One seed gives one head on one
    machine with one number of threads.

    Raises `TrainingError` when a split has no such step.
    """
    train, validation = (_rows_of(examples, card, split) for split in ("train", "validation"))
    shift, scale = _moments(examples, train)
    if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
        raise TrainingError(
            f"{card.name}: the set's states or features hold numbers that are not finite; collect "
            "it again with other layers"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learn = _Rows(examples, train, shift, scale, device)
    check = _Rows(examples, validation, shift, scale, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network, loss, epoch = _fitted(learn, check, examples.hidden.shape[1], settings, on_epoch)
    parameters = {
        name: value.detach().cpu().numpy().astype(np.float32)
        for name, value in network.named_parameters()
    }
    calibration = np.zeros((len(LABELS), len(STEP_KINDS), 2), np.float32)
    calibration[..., 0] = 1
    tensors = HeadWeights(shift=shift, scale=scale, calibration=calibration, **parameters)
    head = Head(card, tensors)
    calibration = calibrate(head, examples, validation)
    notes = {
        **card.notes,
        "settings": asdict(settings),
        "validation_loss": round(loss, 6),
        "epoch": epoch,
    }
    return Head(replace(card, notes=notes), replace(tensors, calibration=calibration))


def _fitted(
    learn: _Rows, check: _Rows, states: int, settings: HeadSettings, on_epoch: OnEpoch | None
) -> tuple[_Network, float, int]:
    """All members and the blind network as one, its validation loss, and the last one's epoch.

    `states`: how many of the inputs, the first ones, are hidden states.
    """
    networks: list[_Network] = []
    weights: list[float] = []

    def add(learn: _Rows, check: _Rows, seed: int, weight: float) -> tuple[float, int]:
        torch.manual_seed(seed)
        networks.append(_Network(learn.inputs.shape[1], settings).to(learn.device))
        weights.append(weight)
        return _descend(networks[-1], learn, check, replace(settings, seed=seed), on_epoch)

    if settings.blind < 1:
        for member in range(settings.members):
            share = (1 - settings.blind) / settings.members
            loss, epoch = add(learn, check, settings.seed + member, share)
    if settings.blind > 0:
        loss, epoch = add(
            learn.features(states), check.features(states), settings.seed, settings.blind
        )
    network = _joined(networks, weights, learn.inputs.shape[1])
    if len(networks) > 1:
        loss = _validation_loss(network, check)
    return network, loss, epoch


def _rows_of(examples: Examples, card: HeadCard, split: Split) -> npt.NDArray[np.int64]:
    """The rows of a split that the head judges. Raises `TrainingError` where there are none."""
    judged = np.isin(examples.kinds, [STEP_KINDS.index(kind) for kind in card.kinds])
    rows = np.flatnonzero(judged & (examples.split == SPLITS.index(split)))
    if not len(rows):
        raise TrainingError(
            f"{card.name}: no {'/'.join(card.kinds)} steps of the {split} split; collect more of "
            "the plan"
        )
    return rows


def _joined(networks: Sequence[_Network], weights: Sequence[float], inputs: int) -> _Network:
    """One network whose logits are the weighted mean of theirs. Those with fewer than `inputs` see
    the last ones."""
    units = sum(len(network.weight) for network in networks)
    whole = _Network(inputs, HeadSettings(width=units)).to(networks[0].weight.device)

    def all_of(values: Sequence[Tensor], dim: int) -> Tensor:
        scaled = zip(values, weights, strict=True)
        return torch.cat([value * weight for value, weight in scaled], dim=dim)

    with torch.no_grad():
        padded = [
            functional.pad(network.weight, (inputs - network.weight.shape[1], 0))
            for network in networks
        ]
        whole.weight.copy_(torch.cat(padded))
        whole.kind_bias.copy_(torch.cat([network.kind_bias for network in networks], dim=1))
        whole.readout.copy_(all_of([network.readout for network in networks], 2))
        biases = all_of([network.readout_bias[None] for network in networks], 0)
        whole.readout_bias.copy_(biases.sum(dim=0))
    return whole


class _Rows:
    """The steps of a split on the device. Inputs are half-precision: states are collected so."""

    def __init__(
        self,
        examples: Examples,
        rows: npt.NDArray[np.int64],
        shift: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        device: torch.device,
    ) -> None:
        self.device = device
        width = examples.hidden.shape[1]
        inputs = torch.empty(len(rows), len(shift), dtype=torch.float16)
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            hidden = (examples.hidden[some] - shift[:width]) / scale[:width]
            features = (examples.features[some] - shift[width:]) / scale[width:]
            both = np.concatenate([hidden, features], axis=1).clip(-CLIP, CLIP)
            inputs[start : start + _CHUNK] = torch.from_numpy(both).to(torch.float16)
        kinds = torch.from_numpy(examples.kinds[rows].astype(np.int64))
        problem = examples.problem[rows]
        _, place, count = np.unique(problem, return_inverse=True, return_counts=True)
        weight = 1 / np.sqrt(count[place])
        self.inputs = inputs.to(device)
        self.kinds = functional.one_hot(kinds, len(STEP_KINDS)).float().to(device)
        self.labels = torch.from_numpy(examples.labels[rows].astype(np.float32)).to(device)
        self.weight = torch.from_numpy((weight / weight.mean()).astype(np.float32)).to(device)
        self.problem = place
        self.group = torch.from_numpy(place * len(STEP_KINDS) + examples.kinds[rows]).to(device)

    def __len__(self) -> int:
        return len(self.inputs)

    def features(self, states: int) -> _Rows:
        """The same without the states, the first inputs."""
        blind = copy.copy(self)
        blind.inputs = self.inputs[:, states:].contiguous()
        return blind

    def order(self, seed: int, epoch: int, together: bool) -> Tensor:
        """All rows in random order; `together` keeps a problem's rows together."""
        random = np.random.default_rng([seed, epoch])
        if not together:
            return torch.from_numpy(random.permutation(len(self))).to(self.device)
        turn = random.permutation(int(self.problem.max()) + 1)[self.problem]
        return torch.from_numpy(np.argsort(turn, kind="stable")).to(self.device)


def _descend(
    network: _Network,
    learn: _Rows,
    check: _Rows,
    settings: HeadSettings,
    on_epoch: OnEpoch | None,
) -> tuple[float, int]:
    """Leave the network with its best weights; the validation loss and the epoch of them."""
    decayed = [network.weight, network.readout]
    free = [network.kind_bias, network.readout_bias]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, settings.epochs, eta_min=settings.learning_rate / 20
    )
    best, best_epoch, state = float("inf"), 0, {}
    for epoch in range(1, settings.epochs + 1):
        network.train()
        order = learn.order(settings.seed, epoch, settings.rank_weight > 0)
        for start in range(0, len(order), settings.batch):
            rows = order[start : start + settings.batch]
            logits = network(learn.inputs[rows].float(), learn.kinds[rows])
            labels = learn.labels[rows]
            loss = _cross_entropy(logits, labels, learn.weight[rows])
            if settings.rank_weight > 0:
                loss = loss + settings.rank_weight * _rank_loss(logits, labels, learn.group[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        loss_now = _validation_loss(network, check)
        if on_epoch is not None:
            on_epoch(epoch, loss_now)
        if not np.isfinite(loss_now):
            raise TrainingError(
                f"the validation loss is {loss_now} after epoch {epoch}; give a lower learning rate"
            )
        if loss_now < best:
            best, best_epoch = loss_now, epoch
            state = {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(state)
    return best, best_epoch


def _cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (each.mean(dim=1) * weight).mean()


def _rank_loss(logits: Tensor, labels: Tensor, group: Tensor) -> Tensor:
    """Mean of log(1 + exp(wrong - right)) over a group's pairs, in nats."""
    together = group[:, None] == group[None, :]
    total = logits.new_zeros(())
    for place in range(len(LABELS)):
        right = labels[:, place] > 0.5
        pairs = (together & right[:, None] & ~right[None, :]).float()
        loss = functional.softplus(logits[None, :, place] - logits[:, None, place])
        total = total + (loss * pairs).sum() / pairs.sum().clamp(min=1)
    return total / len(LABELS)


@torch.no_grad()
def _validation_loss(network: _Network, check: _Rows) -> float:
    network.eval()
    total = 0.0
    for start in range(0, len(check), _CHUNK):
        part = slice(start, start + _CHUNK)
        logits = network(check.inputs[part].float(), check.kinds[part])
        loss = _cross_entropy(logits, check.labels[part], check.weight[part])
        total += float(loss) * len(logits)
    return total / len(check)


def _moments(
    examples: Examples, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and deviation of the inputs over some rows; 1 where an input never changes."""
    sums: list[npt.NDArray[np.float32]] = []
    scales: list[npt.NDArray[np.float32]] = []
    for columns in (examples.hidden, examples.features):
        total = np.zeros(columns.shape[1])
        square = np.zeros(columns.shape[1])
        origin = columns[rows[0]].astype(np.float64)  # squares of differences keep their digits
        for start in range(0, len(rows), _CHUNK):
            with np.errstate(invalid="ignore", over="ignore"):  # the caller looks at the result
                part = columns[rows[start : start + _CHUNK]] - origin
                total += part.sum(axis=0)
                square += (part * part).sum(axis=0)
        mean = total / len(rows)
        deviation = np.sqrt(np.maximum(square / len(rows) - mean * mean, 0))
        sums.append((mean + origin).astype(np.float32))
        scales.append(np.where(deviation > 1e-6, deviation, 1).astype(np.float32))
    return np.concatenate(sums), np.concatenate(scales)
