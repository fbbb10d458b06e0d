"""A prompt read once for all of its rollouts, and so is a beginning that some of them share.

A row holds one prompt or two and, behind them, the tree of the completions of each. A mask lets each token see the
prompt and the tokens before it in its own completion; its position is that in the sequence alone. Where prompts are no
shorter than completions, packing halves the work of a pass; more where a policy is sure of its first tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.checks import check_integers, check_mask, check_same_states
from jackpot_sim.environments.language_models.library import Model, logits, takes_any_mask

if TYPE_CHECKING:
    from torch import Tensor

_CLOSE = 3e-5
"""The largest difference of logits between the two ways that counts as rounding, relative to their range."""


def packs(model: Model) -> bool:
    """True where the model takes such a mask and gives the same logits with it.

    A trial decides, since architectures treat a mask differently. Models are refused without a trial if their attention
    is not torch's sdpa, if they take no positions, or if they have a window, which may be longer than the trial.
    """
    import torch

    if not takes_any_mask(model):
        return False
    last = min(3, int(model.config.get_text_config().vocab_size) - 1)
    prompts = torch.tensor([[last, 0, last, 1, 0, last, 0, 1], [last, 0, last, 0, 0, 1, last, 1]]).repeat_interleave(
        2, 0
    )
    completions = torch.tensor([[0, last, 1], [0, 1, 0], [last, last, 0], [1, last, 1]])
    ids = torch.cat([prompts, completions], 1).to(model.device)
    places = torch.arange(7, 10, device=model.device).expand(4, -1)
    with torch.no_grad():
        alone = logits(model, ids[:, :-1], slice(-3, None))
        try:
            together = packed_logits(model, ids, places, torch.ones_like(places, dtype=torch.bool), 2)
        except (RuntimeError, ValueError, TypeError, IndexError):  # of an architecture that cannot use such a mask
            return False
    return bool((alone - together).abs().max() <= _CLOSE * (alone.max() - alone.min()))


def packed_logits(model: Model, ids: Tensor, places: Tensor, mask: Tensor, samples: int) -> Tensor:
    """The logits before every token of the completions, (n, length, vocab); any at padding.

    Args:
        model: one that `packs`.
        ids: prompts with their completions, padded on the right, (n, longest); the `samples` rows of a prompt lie side
            by side.
        places: the index at which the law of each token of the completions is read, (n, length).
        mask: True on tokens, which come before all padding, (n, length).
        samples: the number of completions of each prompt.

    Raises:
        TypeError: ids or places are no integers, or the mask is not boolean.
        ValueError: a shape differs, or the rows are no whole groups.
    """
    import torch

    check_integers(ids, "ids", "n", "longest")
    check_integers(places, "places", "n", "length")
    check_same_states(ids, places, "ids", "places")
    check_mask(mask, places, "places")
    if len(ids) % samples:
        raise ValueError(f"samples must divide the rows of ids, got {samples} and {len(ids)}")
    start = to_numpy(places[::samples, 0]) + 1
    if int(start.max()) + places.shape[1] > ids.shape[1]:
        raise ValueError(f"places lead beyond ids, which has shape {tuple(ids.shape)}: it must hold every token")
    tokens = to_numpy(ids.gather(1, places[:, 1:]))  # the last token is predicted, not read
    trees = Trees.of(tokens, to_numpy(mask)[:, 1:], samples)
    width = int(model.config.get_text_config().hidden_size)
    packed = Packed.of(to_numpy(ids[::samples, : start.max()]), start, trees, width)
    read, seen, positions = (
        torch.as_tensor(each, device=ids.device) for each in (packed.ids, packed.seen[:, None], packed.positions)
    )
    out = logits(model, read, slice(packed.first, None), mask=seen, positions=positions)
    row = np.repeat(np.arange(len(start)), samples)[:, None]
    at = packed.at(np.concatenate([row, trees.node + len(start)], axis=1))
    laws: Tensor = out.flatten(0, 1).index_select(0, torch.as_tensor(at.ravel(), device=ids.device))
    return laws.reshape(*at.shape, out.shape[-1])


@dataclass(frozen=True, eq=False)
class Trees:
    """The distinct beginnings of the completions of each prompt: a node for the last token of each.

    Attributes:
        node: that of each token of the completions, (n, new); at padding one of the same prompt, or its root.
        token: the id of each node, (nodes,).
        depth: the number of tokens before it in its completion, (nodes,), in ascending order.
        parent: the node before it, (nodes,); −groups to −1 are the roots, the ends of the prompts.
        group: the prompt of each, (nodes,).
        roots: the number of prompts.
    """

    node: Ints
    token: Ints
    depth: Ints
    parent: Ints
    group: Ints
    roots: int

    @classmethod
    def of(cls, tokens: Ints, live: Flags, samples: int) -> Trees:
        """The trees of completions, each shape (n, new), of which `samples` side by side follow the same prompt."""
        roots, new = len(tokens) // samples, tokens.shape[1]
        row = np.repeat(np.arange(roots), samples)
        before, vocab, count = row - roots, int(tokens.max(initial=0)) + 1, 0
        node: Ints = np.empty((len(tokens), new), dtype=np.int64)
        found: list[Ints] = [np.empty((4, 0), dtype=np.int64)]  # token, depth, parent and group
        for step in range(new):
            rows = np.flatnonzero(live[:, step])
            keys = (before[rows] + roots) * vocab + tokens[rows, step]
            _, one, which = np.unique(keys, return_index=True, return_inverse=True)
            one = rows[one]
            found.append(np.stack([tokens[one, step], np.full(len(one), step), before[one], row[one]]))
            before[rows] = count + which
            node[:, step] = before
            count += len(one)
        token, depth, parent, group = np.concatenate(found, axis=1)
        return cls(node, token, depth, parent, group, roots)


@dataclass(frozen=True, eq=False)
class Packed:
    """Prompts and trees in rows: what a model reads.

    Attributes:
        ids: (rows, longest).
        positions: those in the sequences, (rows, longest).
        seen: True where a token sees another, (rows, longest, longest).
        first: the first column whose logits are needed.
        row: the row of each root and then of each node, (roots + nodes,).
        column: its column, likewise.
    """

    ids: Ints
    positions: Ints
    seen: Flags
    first: int
    row: Ints
    column: Ints

    @classmethod
    def of(cls, prompts: Ints, start: Ints, trees: Trees, width: int) -> Packed:
        """Rows of prompts (groups, longest) of these lengths (groups,), two in each if the model is so wide.

        A row begins with all tokens of its prompts but the last ones, whose logits are needed; so are all after them.
        """
        size = start + np.bincount(trees.group, minlength=len(start))
        row: Ints = np.arange(len(start))
        if 2 * int(size.max()) <= width:  # what attention then looks past costs less than a tenth of a token
            order = np.argsort(-size, kind="stable")
            row[order] = np.minimum(row, row[::-1])  # the longest with the shortest
            row = np.unique(row, return_inverse=True)[1].ravel()
        rows = int(row.max()) + 1
        behind: Ints = np.zeros(len(start), dtype=np.int64)  # the columns before a prompt in its row
        taken: Ints = np.zeros(rows, dtype=np.int64)
        for group, where in enumerate(row):
            behind[group] = taken[where]
            taken[where] += start[group] - 1
        first = int(taken.max())
        node_row = np.concatenate([row, row[trees.group]])
        order = np.argsort(node_row, kind="stable")
        count = np.bincount(node_row, minlength=rows)
        column: Ints = np.empty(len(node_row), dtype=np.int64)
        column[order] = first + np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        shape = rows, first + int(count.max())
        ids: Ints = np.zeros(shape, dtype=np.int64)
        positions: Ints = np.zeros(shape, dtype=np.int64)
        seen: Flags = np.broadcast_to(np.eye(shape[1], dtype=np.bool_), (rows, shape[1], shape[1])).copy()
        for group, where in enumerate(row):
            columns = np.append(behind[group] + np.arange(start[group] - 1), column[group])
            ids[where, columns], positions[where, columns] = prompts[group, : start[group]], np.arange(start[group])
            seen[where, columns[:, None], columns] = np.tri(len(columns), dtype=np.bool_)
        at = node_row[len(row) :], column[len(row) :]
        ids[at], positions[at] = trees.token, start[trees.group] + trees.depth
        above = trees.parent + len(row)
        for depth in range(int(trees.depth.max(initial=-1)) + 1):
            some = np.flatnonzero(trees.depth == depth)
            seen[at[0][some], at[1][some]] |= seen[at[0][some], column[above[some]]]
        return cls(ids, positions, seen, first, node_row, column)

    def at(self, each: Ints) -> Ints:
        """The place of roots and nodes, numbered as in `row`, among the logits of all rows."""
        return np.asarray(self.row[each] * (self.ids.shape[1] - self.first) + self.column[each] - self.first)
