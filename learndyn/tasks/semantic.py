"""Items of a tree and their features (Saxe, McClelland & Ganguli, arXiv:1810.10531; here as in arXiv:2409.14623)."""

import torch

from learndyn.errors import InputError
from learndyn.tasks.supervised import Batch, Supervised, half_squared_error


def semantic(depth: int = 3, batch_size: int | None = None, seed: int = 0) -> Supervised:
    """Learn the 2^depth features of 2^depth items that hang on a binary tree, from one-hot items.

    Feature 0 all items have; of every branching point, one feature is +1 for the items on one side, −1 on the other and
    0 elsewhere. For depth 3 that is the matrix of arXiv:2409.14623, its items in rows. Features are orthogonal, so
    the singular values of the matrix are √2^depth (twice), √2^{depth−1} (twice), ..., √2, of level l there are 2^l.

    The loss is the mean over items of ½|y − f(x)|². One-hot inputs are white up to a factor: E[xxᵀ] = I/2^depth, which
    the laws call k. Items are inputs here, so that W₁ᵀW₁ is what the network makes of them and has the tree's blocks;
    in the transposed matrix W₂W₂ᵀ would. There is no other test set than the items. Data are in float64.

    >>> [int(v) for v in semantic().train.targets[0]]
    [1, 1, 1, 0, 1, 0, 0, 0]

    Args:
        depth: Levels of branching.
        batch_size: Items per step; all by default, which is gradient descent.
        seed: Order of the items.

    Raises:
        InputError: If the depth is not between 1 and 10.
    """
    if not 1 <= depth <= 10:
        raise InputError(f"depth={depth} of the tree must lie between 1 and 10.")
    items = 2**depth
    features = [torch.ones(items, dtype=torch.float64)]
    for level in range(depth):
        size = items >> level  # items below a branching point of this level
        for point in range(2**level):
            feature = torch.zeros(items, dtype=torch.float64)
            feature[point * size : point * size + size // 2] = 1
            feature[point * size + size // 2 : (point + 1) * size] = -1
            features.append(feature)
    data = Batch(torch.eye(items, dtype=torch.float64), torch.stack(features, 1))
    return Supervised(
        train=data,
        test=data,
        batch_size=items if batch_size is None else batch_size,
        seed=seed,
        criterion=half_squared_error,
        classes=items,
    )
