"""Sequence: a row judged beside the same entity's rows before it, by one layer of attention and a small network.

A feature becomes 32 numbers by piecewise-linear encoding (Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular
Deep Learning", NeurIPS 2022), so that a network can bend at amounts and rates as trees do. All of a row's numbers together become its
token. A row attends to the tokens of the last 32 rows, itself among them, the less the longer ago they were: softplus(a) * log1p(hours) is
taken off the logits, with an `a` for each head (a learnt, continuous form of Press, Smith, Lewis, "Train Short, Test Long", ICLR 2022).

Between stretches, a training's state is weights, the optimiser's two means, and the dice (of dropout) of each process. Learning rate and
order of windows are functions of the step. With deterministic kernels the resumed model is the undisturbed one to the byte, on the same
kind of device and with the same number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from include.nightshift.errors import TrainingFailedError
from include.nightshift.train import reasons
from include.nightshift.train.ranks import Order, Ranks
from include.nightshift.train.recipes import Attention
from include.nightshift.train.rows import Context, Rows, as_matrix, seconds

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import nn
    from typing_extensions import Buffer

STRETCHES = 100
"""A training has about so many: a checkpoint, or a leave in time, costs at most a hundredth of it."""

BLOCK = 2048
"""Rows that are scored at a time."""

HEAD = "nightshift"
"""The one entry of a model file's metadata, JSON. One, because safetensors writes several in any order."""


# The network


@dataclass(frozen=True)
class Shape:
    """What the network's tensors are shaped by, and how far it looks."""

    features: int
    bins: int
    width: int
    heads: int
    blocks: int
    past_rows: int
    past_days: int

    @classmethod
    def of(cls, recipe: Attention, features: int) -> Shape:
        return cls(features, recipe.bins, recipe.width, recipe.heads, recipe.blocks, recipe.past_rows, recipe.past_days)


@cache
def network_type() -> type[nn.Module]:
    """The network's class, made when first asked for: a module that is only looked through must not pay for torch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Network(nn.Module):
        """Log-odds of rows from where their features, and those of the rows before them, lie among the edges of bins."""

        def __init__(self, shape: Shape, dropout: float = 0.0, log_odds: float = 0.0) -> None:
            super().__init__()
            self.shape, width = shape, shape.width
            self.token = nn.Linear(shape.features * (shape.bins + 1), width)
            self.before = nn.LayerNorm(width)
            self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
            self.fade = nn.Parameter(torch.zeros(shape.heads))
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))
                for _ in range(shape.blocks)
            )
            self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
            nn.init.zeros_(self.head[1].weight)
            # Nobody learns in the first hundred steps what the base rate says at once.
            nn.init.constant_(self.head[1].bias, log_odds)

        def forward(self, places: torch.Tensor, hours: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            """Log-odds of the last rows of each window: (windows, rows, features), (windows, asked, rows) twice -> (windows, asked)."""
            tokens = self.encode(places)
            return self.judge(tokens[:, -hours.shape[1] :], *self.looked_at(tokens), hours, seen)

        def encode(self, places: torch.Tensor) -> torch.Tensor:
            """Tokens of rows, (..., features) -> (..., width)."""
            return self.token(self._pieces(places).flatten(-2))

        def pushes(self, places: torch.Tensor) -> torch.Tensor:
            """What each feature adds to the token, (..., features) -> (..., features, width)."""
            weight = self.token.weight.view(-1, self.shape.features, self.shape.bins + 1)
            return torch.einsum("...ft,wft->...fw", self._pieces(places), weight)

        def _pieces(self, places: torch.Tensor) -> torch.Tensor:
            missing = torch.isnan(places)
            steps = torch.arange(self.shape.bins, device=places.device, dtype=places.dtype)
            # Full bins are 1, the one that the value lies in is the share of it below the value, and a missing value has a bin of its own.
            pieces = (torch.nan_to_num(places)[..., None] - steps).clamp(0, 1)
            return torch.cat([pieces, missing[..., None].to(pieces.dtype)], dim=-1)

        def looked_at(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Keys and values of rows, (..., width) each."""
            tokens = self.before(tokens)
            return self.key(tokens), self.value(tokens)

        def judge(
            self, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, hours: torch.Tensor, seen: torch.Tensor
        ) -> torch.Tensor:
            """Log-odds of rows, each of which looks at those rows of its window that it has `seen`, so many `hours` before it."""
            heads = self.shape.heads
            query = self.query(self.before(tokens)).unflatten(-1, (heads, -1))
            keys, values = keys.unflatten(-1, (heads, -1)), values.unflatten(-1, (heads, -1))
            logits = torch.einsum("bqhd,bkhd->bhqk", query, keys).float() / math.sqrt(query.shape[-1])
            logits = logits - F.softplus(self.fade)[:, None, None] * torch.log1p(hours)[:, None]
            weight = logits.masked_fill(~seen[:, None], -math.inf).softmax(-1)
            state = tokens + self.out(torch.einsum("bhqk,bkhd->bqhd", weight.to(values.dtype), values).flatten(-2))
            for block in self.blocks:
                state = state + block(state)
            return self.head(state).squeeze(-1).float()

    return Network


def edges_of(rows: Rows, bins: int) -> list[np.ndarray]:
    """Edges of the bins of each feature, ascending: half of them quantiles of the rows that are told, half of the positive ones.

    Frauds lie where few rows do, and quantiles of all rows alone would leave them one bin. Edges are values that occur, so that a
    feature of few values has a bin for each; a feature that is missing everywhere has one edge and no bins.
    """
    found = []
    for values in rows.matrix.T:
        known = rows.told & ~np.isnan(values)
        edges = [np.quantile(values[known], np.linspace(0, 1, bins // 2 + 1), method="inverted_cdf")] if known.any() else [np.zeros(1)]
        if (positive := known & (rows.target == 1)).any():
            edges.append(np.quantile(values[positive], np.linspace(0, 1, bins - bins // 2), method="inverted_cdf"))
        found.append(np.unique(np.concatenate(edges).astype("float32")).astype("float64"))
    return found


def places_of(matrix: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Where values lie among the edges, float32: 2.25 is a quarter into the third bin; NaN stays."""
    places = np.empty(matrix.shape, dtype="float32")
    for column, steps in enumerate(edges):
        # What a table holds as a double, training saw as a 32-bit number.
        values = matrix[:, column].astype("float32")
        # Told apart, because among one edge alone NaN has a place too.
        places[:, column] = np.where(np.isnan(values), np.nan, np.interp(values, steps, np.arange(len(steps))))
    return places


@dataclass(frozen=True)
class Histories:
    """Rows by entity, each entity's in the order in which they happened; the smaller key first where that is the same."""

    order: np.ndarray
    """Which row stands at each place of this order."""
    first: np.ndarray
    """For each place, the place at which its entity's rows begin."""

    @classmethod
    def of(cls, entity: np.ndarray, when: np.ndarray, key: np.ndarray) -> Histories:
        order = np.lexsort((key, when, entity))
        begins = np.flatnonzero(np.append(True, np.diff(entity[order]) != 0)) if len(order) else np.zeros(0, "int64")
        return cls(order, np.repeat(begins, np.diff(np.append(begins, len(order)))))

    def windows(self, asked: np.ndarray, window: int, past: int) -> np.ndarray:
        """Places of windows, (windows, past + window), -1 where there is none: cut so that each place is asked in one of them.

        A window in which no row is `asked` (by its place) is left out.
        """
        starts = np.flatnonzero((np.arange(len(self.first)) - self.first) % window == 0)
        places = starts[:, None] + np.arange(-past, window)
        ends = np.append(np.flatnonzero(np.diff(self.first)) + 1, len(self.first))
        end = ends[np.searchsorted(ends, starts, side="right")]
        places[(places < self.first[starts][:, None]) | (places >= end[:, None])] = -1
        told = ((places[:, past:] >= 0) & asked[places[:, past:]]).any(axis=1)
        return places[told]


# Training


def machine() -> dict[str, str | int]:
    """What the arithmetic of a training that begins here will depend on."""
    import torch

    ranks = Ranks.here()
    device = _device(ranks)
    here: dict[str, str | int] = {"threads": max(1, (os.cpu_count() or 1) // ranks.size), "processes": ranks.size}
    if device.type == "cuda":
        return here | {"device": torch.cuda.get_device_name(device)}
    # One with wider registers adds up in another order.
    return here | {"device": "cpu", "instructions": torch.backends.cpu.get_cpu_capability()}


def _device(ranks: Ranks) -> torch.device:
    # Read when cuBLAS starts: with its default workspace two runs may add up in different orders.
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", ranks.local) if torch.cuda.is_available() else torch.device("cpu")


class Training:
    """The learner (`train.learner`) of the sequence model: a stretch is a hundredth of the steps, a step one batch of windows."""

    def __init__(self, rows: Rows, features: Sequence[str], recipe: Attention, asked: Mapping[str, str | int]) -> None:
        """`asked`: the machine (see `machine`) on which the training began, which was like this one."""
        import torch
        from torch import nn

        self._ranks, self._recipe, self._features, self._step = Ranks.here(), recipe, tuple(features), 0
        self._device = _device(self._ranks)
        self._ranks.join(self._device.type)
        torch.set_num_threads(self._ranks.agree(int(asked["threads"])))
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False

        self._edges = edges_of(rows, recipe.bins)
        self._typical = places_of(np.array([_medians(rows)]), self._edges)[0]
        history = Histories.of(rows.entity, rows.seconds, np.arange(len(rows)))
        windows = history.windows(rows.told[history.order], recipe.window, recipe.past_rows)
        self._count = len(windows)
        # One more of padding only, to fill the last batch of an epoch with.
        windows = np.concatenate([windows, np.full((1, windows.shape[1]), -1)])
        self._windows = torch.from_numpy(windows).to(self._device)
        self._places = torch.from_numpy(places_of(rows.matrix[history.order], self._edges)).to(self._device)
        self._seconds = torch.from_numpy(rows.seconds[history.order]).to(self._device)
        self._target = torch.from_numpy(rows.target[history.order]).to(self._device)

        share = float(rows.target[rows.told].mean(dtype="float64"))
        torch.manual_seed(_seed(recipe.seed, "weights"))
        shape = Shape.of(recipe, len(features))
        self._network = network_type()(shape, recipe.dropout, math.log(share / (1 - share))).to(self._device)
        self._wrapped: Callable[..., torch.Tensor] = self._network
        if self._ranks.size > 1:
            gpus = [self._device] if self._device.type == "cuda" else None
            self._wrapped = nn.parallel.DistributedDataParallel(self._network, device_ids=gpus)
        if recipe.compiled and self._device.type == "cuda":
            self._wrapped = torch.compile(self._wrapped)
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.999)
        )
        torch.manual_seed(_seed(recipe.seed, f"dropout {self._ranks.rank}"))
        self._dice = dice(self._device)

    @property
    def steps(self) -> int:
        return self._recipe.epochs * self._batches

    @property
    def step(self) -> int:
        return self._step

    @property
    def _batches(self) -> int:
        return math.ceil(self._count / self._recipe.batch)

    def advance(self, after_step: Callable[[int], None]) -> float:
        self._tell(Order.ADVANCE)
        return self._stretch(after_step)

    def follow(self, after_step: Callable[[int], None]) -> None:
        """Do what rank 0 orders, until it says that all is done."""
        while (order := self._ranks.agree(None)) != Order.END:
            if order == Order.ADVANCE:
                self._stretch(after_step)
            elif order == Order.STATE:
                self._ranks.gather(self._dice)
            else:
                self._restore(*self._ranks.agree(None))

    def _tell(self, order: Order) -> None:
        self._ranks.agree(order)

    def _stretch(self, after_step: Callable[[int], None]) -> float:
        """The training loop."""
        import torch
        from torch import nn

        todo = min(math.ceil(self.steps / STRETCHES), self.steps - self._step)
        losses = torch.zeros(todo, device=self._device)
        rows = torch.zeros(todo, device=self._device)
        self._network.train()
        throw(self._dice, self._device)
        for number in range(todo):
            for group in self._optimiser.param_groups:
                group["lr"] = self._recipe.learning_rate * rate(self._step, self.steps, self._recipe.warm_up)
            loss, rows[number] = self._loss(self._batch(self._step))
            self._optimiser.zero_grad(set_to_none=True)
            (loss * self._ranks.size).backward()  # the ranks' gradients are averaged, and shall be added
            nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip)
            self._optimiser.step()
            losses[number] = loss.detach()
            self._step += 1
            after_step(todo - number - 1)
        self._dice = dice(self._device)
        return self._checked(losses, rows)

    def _batch(self, step: int) -> torch.Tensor:
        """Windows of a step, (windows, places): the epoch's order hangs on seed and epoch alone."""
        import torch
        from torch.nn import functional as F

        epoch, batch = divmod(step, self._batches)
        order = torch.randperm(self._count, generator=torch.Generator().manual_seed(_seed(self._recipe.seed, f"epoch {epoch}")))
        chosen = order[batch * self._recipe.batch : (batch + 1) * self._recipe.batch]
        chosen = F.pad(chosen, (0, self._recipe.batch - len(chosen)), value=self._count)
        return self._windows[chosen.to(self._device)]

    def _loss(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's part of the batch's mean log-loss, and the rows that the batch has, over all ranks."""
        import torch
        from torch.nn import functional as F

        past = self._recipe.past_rows
        told = (windows >= 0) & ~torch.isnan(self._target[windows.clamp(min=0)])
        everywhere = told[:, past:].sum().clamp(min=1)
        windows, told = windows[self._ranks.rank :: self._ranks.size], told[self._ranks.rank :: self._ranks.size, past:]
        real, at = windows >= 0, windows.clamp(min=0)
        hours, seen = self._sight(self._seconds[at], real)
        half = self._recipe.bfloat16 and self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            logits = self._wrapped(self._places[at], hours, seen)
        target = torch.where(told, self._target[at[:, past:]], 0.0)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (losses * told).sum() / everywhere, everywhere

    def _sight(self, when: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How many hours before each asked row of a window each row of it was, and which of them it looks at."""
        import torch

        past, rows = self._recipe.past_rows, when.shape[1]
        behind = torch.arange(past, rows, device=when.device)[:, None] - torch.arange(rows, device=when.device)
        apart = when[:, past:, None] - when[:, None, :]
        seen = (behind >= 0) & (behind < past) & real[:, None, :] & (apart <= self._recipe.past_days * 86_400)
        # Padding looks at itself, for a softmax over nothing is not a number.
        return (apart / 3600).clamp(min=0).float(), seen | (behind == 0)

    def _checked(self, losses: torch.Tensor, rows: torch.Tensor) -> float:
        import torch

        if self._ranks.size > 1:
            torch.distributed.all_reduce(losses)
        # Looked at once a stretch: asking after every step would have the GPU wait for the question.
        wrong = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if wrong:
            raise TrainingFailedError(
                f"the training loss is {losses[wrong[0]].item()} after step {self._step - len(losses) + wrong[0] + 1}: lower learning_rate "
                f"({self._recipe.learning_rate}) or clip ({self._recipe.clip}), or raise warm_up ({self._recipe.warm_up}) "
                f"in recipe {self._recipe.name}"
            )
        return float((losses * rows).sum() / rows.sum())

    def state(self) -> Sequence[Buffer]:
        """A safetensors file: weights, the optimiser's means, and each process's dice."""
        from safetensors.torch import save as bytes_of

        self._tell(Order.STATE)
        tensors: dict[str, torch.Tensor] = {}
        for name, weight in self._network.named_parameters():
            kept = self._optimiser.state[weight]
            tensors |= {f"weight {name}": weight, f"mean {name}": kept["exp_avg"], f"square {name}": kept["exp_avg_sq"]}
        for rank, thrown in enumerate(self._ranks.gather(self._dice)):
            tensors |= {f"dice {rank} {kind}": state for kind, state in thrown.items()}
        return [bytes_of({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})]

    def restore(self, step: int, state: bytes) -> None:
        self._tell(Order.RESTORE)
        self._restore(*self._ranks.agree((step, state)))

    def _restore(self, step: int, state: bytes) -> None:
        import torch
        from safetensors.torch import load as tensors_of

        self._step, tensors = step, tensors_of(state)
        with torch.no_grad():
            for name, weight in self._network.named_parameters():
                weight.copy_(tensors[f"weight {name}"])
                self._optimiser.state[weight] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": tensors[f"mean {name}"].to(self._device),
                    "exp_avg_sq": tensors[f"square {name}"].to(self._device),
                }
        mine = f"dice {self._ranks.rank} "
        self._dice = {name.removeprefix(mine): thrown for name, thrown in tensors.items() if name.startswith(mine)}

    def model(self) -> bytes:
        import torch
        from safetensors.torch import save as bytes_of

        self._tell(Order.END)
        self._ranks.leave()
        edges = np.full((len(self._edges), self._recipe.bins + 1), np.nan)
        for row, steps in zip(edges, self._edges, strict=True):
            row[: len(steps)] = steps
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in self._network.state_dict().items()}
        tensors |= {"edges": torch.from_numpy(edges), "typical": torch.from_numpy(self._typical)}
        told = json.dumps({"features": self._features, "shape": asdict(self._network.shape)})
        return bytes_of(tensors, {HEAD: told})


def rate(step: int, steps: int, warm_up: float) -> float:
    """Share of the learning rate at a step (from 0): rising over the first ones, then falling as a cosine does."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def dice(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the generators that dropout throws with."""
    import torch

    return {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def throw(thrown: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Go on with these dice, not with those that somebody else of this process threw."""
    import torch

    torch.set_rng_state(thrown["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(thrown["cuda"], device)


def _seed(seed: int, what: str) -> int:
    """A seed for each use: unrelated to the others, and nothing but these two decide it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{what}".encode()).digest()[:8], "big") >> 1


def _medians(rows: Rows) -> list[float]:
    known = [values[rows.told & ~np.isnan(values)] for values in rows.matrix.T]
    return [float(np.median(values)) if len(values) else math.nan for values in known]


# The finished model


class Reader:
    """The finished model (`train.models`), on the CPU, in 32-bit numbers."""

    def __init__(
        self, network: nn.Module, features: Sequence[str], edges: Sequence[np.ndarray], typical: torch.Tensor, columns: Sequence[str]
    ) -> None:
        """`columns`: key, entity and event time of the rows that it will be given; `typical`: places of a row of medians."""
        self._network, self._edges, self._typical = network.eval().requires_grad_(False), edges, typical
        self.features = tuple(features)
        self._key, self._entity, self._event_time = columns

    @classmethod
    def loads(cls, content: bytes, described: Mapping[str, Any]) -> Reader:
        """From the bytes of `model.safetensors`, and what `features.json` says of columns.

        Raises:
            TrainingFailedError: these bytes are no model.
        """
        from safetensors.torch import load as tensors_of

        try:
            told = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"][HEAD])
            tensors = tensors_of(content)
            edges, typical = tensors.pop("edges").numpy(), tensors.pop("typical")
            network = network_type()(Shape(**told["shape"]))
            network.load_state_dict(tensors)
            columns = [described[name] for name in ("key", "entity", "event_time")]
        except Exception as error:
            raise TrainingFailedError(
                f"{len(content)} bytes cannot be read as a sequence model ({error!r}): take it from its MLflow run again"
            ) from error
        return cls(network, told["features"], [steps[~np.isnan(steps)] for steps in edges], typical, columns)

    @property
    def context(self) -> Context:
        return Context(self._network.shape.past_rows, self._network.shape.past_days)

    @property
    def rounding(self) -> float:
        return 1e-5

    def score(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        scores = np.empty(rows.num_rows)
        for block in self._blocks(rows, asked, threads):
            logits = self._network.judge(block.tokens[:, None], block.keys, block.values, block.hours, block.seen)
            scores[block.rows] = logits[:, 0].double().sigmoid().numpy()
        return scores if asked is None else scores[asked]

    def reasons(self, rows: pa.Table | pa.RecordBatch, k: int, asked: np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        """A feature's push is what the log-odds lose when it takes its median in this row, the rows before it staying as they were."""
        import torch

        pushes = np.empty((rows.num_rows, len(self.features)))
        for block in self._blocks(rows, asked, threads):
            whole = self._network.judge(block.tokens[:, None], block.keys, block.values, block.hours, block.seen)
            change = self._network.pushes(self._typical) - self._network.pushes(block.places)
            for place in range(len(self.features)):
                tokens = (block.tokens + change[:, place])[:, None]
                key, value = self._network.looked_at(tokens)
                # A row stands last among those that it looks at.
                keys, values = torch.cat([block.keys[:, :-1], key], 1), torch.cat([block.values[:, :-1], value], 1)
                pushes[block.rows, place] = (whole - self._network.judge(tokens, keys, values, block.hours, block.seen))[:, 0].numpy()
        return reasons.strongest(pushes if asked is None else pushes[asked], self.features, k)

    def _blocks(self, rows: pa.Table | pa.RecordBatch, asked: np.ndarray | None, threads: int) -> Iterator[_Block]:
        """The rows that are asked for, with what they look at; neighbours of one entity together, for they look at the same rows."""
        import torch

        torch.set_num_threads(threads)
        matrix = as_matrix(rows, self.features)
        key, entity = (rows.column(name).to_numpy() for name in (self._key, self._entity))
        when = seconds(rows.column(self._event_time))
        history = Histories.of(entity, when, key)
        when = when[history.order]
        wanted = np.arange(len(when)) if asked is None else np.flatnonzero(asked[history.order])
        reach = self._network.shape.past_rows
        for begin in range(0, len(wanted), BLOCK):
            own = wanted[begin : begin + BLOCK]
            looked = own[:, None] + np.arange(1 - reach, 1)
            apart = when[own][:, None] - when[looked.clip(min=0)]
            seen = (looked >= history.first[own][:, None]) & (apart <= self._network.shape.past_days * 86_400)
            needed, among = np.unique(np.where(seen, looked, own[:, None]), return_inverse=True)
            places = torch.from_numpy(places_of(matrix[history.order[needed]], self._edges))
            tokens = self._network.encode(places)
            keys, values = self._network.looked_at(tokens)
            among = torch.from_numpy(among.reshape(seen.shape))
            hours = torch.from_numpy((apart / 3600).clip(min=0).astype("float32"))[:, None]
            mine = among[:, -1]
            yield _Block(history.order[own], places[mine], tokens[mine], keys[among], values[among], hours, torch.from_numpy(seen)[:, None])


@dataclass(frozen=True)
class _Block:
    """Rows to judge at once, and what each of them looks at, the oldest first and itself last."""

    rows: np.ndarray
    places: torch.Tensor
    tokens: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    hours: torch.Tensor
    seen: torch.Tensor
