"""A training step as a CUDA graph: recorded once, then replayed without the host's help."""

from collections.abc import Callable, Iterable

import torch

Step = Callable[[torch.Tensor, torch.Tensor | None], None]


class RecordedStep:
    """A training step for batches of one size, recorded on a GPU.

    Args:
        step: The step, for the indices of a batch and the moves of its images.
        batch: Indices as the step takes them; their values do not matter.
        moves: Moves as the step takes them, or None.
        kept: What the step changes. Recording it needs some rehearsals, after which all of this is
            put back.
    """

    def __init__(
        self,
        step: Step,
        batch: torch.Tensor,
        moves: torch.Tensor | None,
        kept: Iterable[torch.Tensor],
    ):
        self.batch = batch.clone()
        self.moves = None if moves is None else moves.clone()
        self.graph = _recorded(lambda: step(self.batch, self.moves), list(kept))

    def __call__(self, batch: torch.Tensor, moves: torch.Tensor | None) -> None:
        """Carry out the step with another batch."""
        self.batch.copy_(batch)
        if self.moves is not None and moves is not None:
            self.moves.copy_(moves)
        self.graph.replay()


def _recorded(step: Callable[[], None], kept: list[torch.Tensor]) -> torch.cuda.CUDAGraph:
    """The graph of a step, all that is kept being left as it was."""
    with torch.no_grad():
        saved = [tensor.clone() for tensor in kept]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their algorithms and allocate before the recording
            step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.no_grad():
        for tensor, value in zip(kept, saved, strict=True):
            tensor.copy_(value)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph
