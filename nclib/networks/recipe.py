"""How to train: the loss, the step lengths and the weight decays."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, one_hot


@dataclass(frozen=True)
class Recipe:
    r"""How to train. The objective has one weight decay for the feature mapping and one for the
    last layer,

    .. math::
        \frac1N \sum_i \ell(z_i, y_i) + \frac{w}{2} \|\theta\|^2 + \frac{w'}{2} \|W\|^2 .

    Attributes:
        epochs: Passes over the data.
        learning_rate: Step length of the first epoch.
        loss: "mse" for half the squared distance to the one-hot labels, or "cross-entropy".
        momentum: Factor of the running sum of gradients.
        weight_decay: The factor w of the feature mapping.
        last_weight_decay: The factor w' of the last layer; by default the same.
        batch_size: Samples per step; all of them by default.
        drops: Epochs after which the step length is divided by ten.
        augment: Whether images are shifted by up to four pixels and mirrored at random.

    Raises:
        ValueError: The loss has another name.

    Examples:
        >>> from nclib.networks import Recipe
        >>> recipe = Recipe(epochs=30, learning_rate=0.1, drops=(20,))
        >>> recipe.step_length(20), recipe.step_length(21)
        (0.1, 0.010000000000000002)
    """

    epochs: int
    learning_rate: float
    loss: str = "mse"
    momentum: float = 0.9
    weight_decay: float = 0.0
    last_weight_decay: float | None = None
    batch_size: int | None = None
    drops: tuple[int, ...] = ()
    augment: bool = False

    def __post_init__(self) -> None:
        if self.loss not in ("mse", "cross-entropy"):
            raise ValueError(f"loss must be 'mse' or 'cross-entropy', but it is {self.loss!r}.")

    def mean_loss(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of scores (N, K) and labels (N,), averaged over samples."""
        if self.loss == "cross-entropy":
            return cross_entropy(scores, labels)
        return half_square(scores, one_hot(labels, scores.shape[1]).to(scores.dtype))

    def step_length(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.learning_rate * 0.1 ** sum(drop < epoch for drop in self.drops)


def half_square(scores: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    r"""Half the squared distance from scores to one-hot labels, averaged over samples:

    .. math::
        \frac{1}{2N} \sum_i \|z_i - y_i\|^2 .

    Args:
        scores: Shape (N, K).
        one_hot: Shape (N, K).

    Examples:
        >>> import torch
        >>> from nclib.networks import half_square
        >>> half_square(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.eye(2))
        tensor(0.2500)
    """
    return 0.5 * (scores - one_hot).square().sum(1).mean()
