"""Where visual tokens begin to look: coarse to fine, each at its own cell of a quadtree over the image."""

from __future__ import annotations

import torch
from torch import Tensor


def quadtree_cells(count: int) -> Tensor:
    """(count, 3): row and column of the centre, and side, of the first cells of a quadtree over the unit square.

    The whole square, its 4 quarters, their 16 quarters, and so on. Within a level neighbours in the order lie in different
    quarters, so that any number of cells is spread over the image.
    """
    cells: list[tuple[float, float, float]] = []
    level = 0
    while len(cells) < count:
        for number in range(4**level):
            row = column = 0
            for _ in range(level):  # the lowest digit in base 4 chooses among the largest quarters
                number, digit = divmod(number, 4)
                row, column = 2 * row + digit // 2, 2 * column + digit % 2
            cells.append(((row + 0.5) / 2**level, (column + 0.5) / 2**level, 1 / 2**level))
        level += 1
    return torch.tensor(cells[:count])


def grid_cells(rows: int, columns: int) -> Tensor:
    """(rows · columns, 3): as `quadtree_cells`, of a grid over the unit square, row by row; the side is the longer one."""
    centres = torch.cartesian_prod((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns)
    return torch.cat([centres, torch.full((rows * columns, 1), 1 / min(rows, columns))], dim=1)


def squared_distances(cells: Tensor, others: Tensor) -> Tensor:
    """(n, m) between cells (n, 3) and (m, 3), in units of the larger cell of each pair."""
    sides = torch.maximum(cells[:, None, 2], others[:, 2])
    return (cells[:, None, :2] - others[:, :2]).square().sum(-1) / sides.square()
