"""What chapters and tests share: random problems, features near collapse, orders of convergence.

Nothing here belongs to the theory. A chapter or a test that needs one of these functions imports
it by name, ``from nclib.workbench import slope``; ``nclib`` itself does not hand them on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nclib.foundations.minimize import minimize
from nclib.foundations.model import Model
from nclib.foundations.statistics import ClassStatistics


class Samples(NamedTuple):
    """Features with their labels.

    Attributes:
        features: (N, d), one sample per row.
        labels: (N,), integers 0..K-1.
    """

    features: np.ndarray
    labels: np.ndarray


class Problem(NamedTuple):
    """An instance of the perturbed model of Eq. 2.

    Attributes:
        model: The strengths lambda_W, lambda_H and beta.
        features: Input features (N, d).
        labels: (N,), integers 0..K-1.
    """

    model: Model
    features: np.ndarray
    labels: np.ndarray

    @property
    def statistics(self) -> ClassStatistics:
        """Class means, within-class covariance and counts of the input features."""
        return ClassStatistics.from_features(self.features, self.labels)


def slope(x: ArrayLike, errors: ArrayLike, decades: float = 3) -> float:
    r"""Order of an error: the slope of the least-squares line through its logarithm.

    .. math:: \min_{p,\,q}\ \sum_i\bigl(\log e_i-p\log x_i-q\bigr)^2,

    of which :math:`p` comes back. An order is measured over several decades; fewer than
    ``decades`` of them are an error.

    Args:
        x: Positive step sizes (m,), in any order.
        errors: Positive errors (m,).
        decades: Least width of the range of ``x``, in powers of ten.

    Raises:
        ValueError: The shapes differ, a number is not positive and finite, or ``x`` spans fewer
            decades.

    Examples:
        >>> steps = np.logspace(-1, -4, 7)
        >>> print(f"{slope(steps, 5 * steps**2):.3f}")
        2.000
    """
    steps = np.asarray(x, dtype=float)
    values = np.asarray(errors, dtype=float)
    if steps.ndim != 1 or steps.shape != values.shape:
        raise ValueError(
            "x and errors must be vectors of one length, "
            f"but have shapes {steps.shape} and {values.shape}."
        )
    for name, numbers in {"x": steps, "errors": values}.items():
        wrong = ~((numbers > 0) & np.isfinite(numbers))
        if wrong.any():
            raise ValueError(
                f"{name} must be positive and finite, but one entry is {numbers[wrong][0]}."
            )
    width = np.log10(steps.max() / steps.min())
    if width < decades - 1e-9:
        raise ValueError(f"x must span {decades:g} decades, but spans {width:.2f}.")
    return float(np.polyfit(np.log(steps), np.log(values), 1)[0])


def assert_small(errors: ArrayLike, tolerance: float) -> None:
    """Check that no error exceeds a tolerance, and print what was found.

    Errors at the level of rounding differ between processors, so what is printed is the tolerance
    that the largest of them stays below.

    Args:
        errors: Numbers of any sign and any shape, or a list of arrays of different shapes.
        tolerance: Largest size allowed.

    Raises:
        AssertionError: An error is larger, or is not a number, or there is none.

    Examples:
        >>> assert_small([1e-16, -3e-15, 0], 1e-14)
        largest of 3 errors below 1e-14
    """
    pieces = errors if isinstance(errors, list) else [errors]
    flat = [np.ravel(np.asarray(piece, dtype=float)) for piece in pieces]
    sizes = np.abs(np.concatenate([np.empty(0), *flat]))
    assert sizes.size > 0, "there is no error to look at."
    worst = float(sizes.max())
    assert worst <= tolerance, f"the largest error is {worst:.3g}, above {tolerance:.0e}."
    print(f"largest of {sizes.size} errors below {tolerance:.0e}")


def random_features(
    rng: np.random.Generator, labels: ArrayLike, d: int, distance: float = 1.0, spread: float = 1.0
) -> np.ndarray:
    """Gaussian samples around Gaussian class means, (N, d).

    Args:
        rng: Where the numbers come from; the means are drawn first.
        labels: (N,), integers 0..K-1.
        d: Dimension of the features.
        distance: Standard deviation of each coordinate of a class mean.
        spread: Standard deviation of each coordinate of a deviation from it.

    Examples:
        >>> random_features(np.random.default_rng(0), [0, 0, 1, 1], 5).shape
        (4, 5)
    """
    y = np.asarray(labels)
    means = distance * rng.standard_normal((y.max() + 1, d))
    return means[y] + spread * rng.standard_normal((len(y), d))


def random_problem(
    seed: int,
    K: int = 3,
    d: int = 5,
    n: int = 4,
    lambda_W: float = 0.02,
    lambda_H: float = 0.01,
    beta: float = 0.5,
    spread: float = 1.0,
    counts: ArrayLike | None = None,
) -> Problem:
    """A model with Gaussian classes around Gaussian means, in shuffled order.

    Args:
        seed: Of the random numbers.
        K: Number of classes.
        d: Dimension of the features.
        n: Samples in each class.
        lambda_W: Weight decay of the weights.
        lambda_H: Weight decay of the features.
        beta: Strength of the pull towards the input features.
        spread: Standard deviation of each coordinate within a class.
        counts: Samples of the classes (K,), in place of ``n``.

    Examples:
        >>> problem = random_problem(0, K=2, d=3, n=4)
        >>> problem.model, problem.features.shape
        (Model(lambda_W=0.02, lambda_H=0.01, beta=0.5), (8, 3))
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), n if counts is None else np.asarray(counts, dtype=int))
    rng.shuffle(labels)
    return Problem(
        Model(lambda_W, lambda_H, beta), random_features(rng, labels, d, spread=spread), labels
    )


def random_frame(rng: np.random.Generator, d: int, K: int) -> np.ndarray:
    """K orthonormal directions of R^d as columns, (d, K).

    Args:
        rng: Where the numbers come from.
        d: Dimension of the features, at least K.
        K: Number of directions.

    Examples:
        >>> Q = random_frame(np.random.default_rng(0), 5, 3)
        >>> bool(np.allclose(Q.T @ Q, np.eye(3)))
        True
    """
    return np.linalg.qr(rng.standard_normal((d, K)))[0]


def with_statistics(
    means: np.ndarray, within: np.ndarray, n: int, rng: np.random.Generator
) -> Samples:
    """Samples, n in each class, with exactly these statistics up to rounding.

    Args:
        means: Class means (d, K).
        within: Within-class covariance (d, d), positive definite.
        n: Samples in each class; K (n - 1) must be d or more.
        rng: Where the numbers come from.

    Examples:
        >>> samples = with_statistics(np.eye(3, 2), np.eye(3), 5, np.random.default_rng(0))
        >>> stats = ClassStatistics.from_features(*samples)
        >>> bool(np.allclose(stats.means, np.eye(3, 2)) and np.allclose(stats.within, np.eye(3)))
        True
    """
    d, K = means.shape
    noise = rng.standard_normal((K, n, d))
    noise = (noise - noise.mean(axis=1, keepdims=True)).reshape(K * n, d)
    white = noise @ np.linalg.inv(np.linalg.cholesky(noise.T @ noise / (K * n))).T
    labels = np.repeat(np.arange(K), n)
    return Samples(means.T[labels] + white @ np.linalg.cholesky(within).T, labels)


def frame_statistics(
    model: Model, frame: np.ndarray, noise: ClassStatistics, eps: float
) -> ClassStatistics:
    r"""Statistics of collapsed features with a small perturbation.

    For :math:`H=H^*+\varepsilon Z` with the minimizer :math:`H^*` of Eq. 1 in the frame :math:`Q`,

    .. math:: \bar H=\sqrt\rho\,Q+\varepsilon\bar Z,\qquad \Sigma_W=\varepsilon^2\,\Sigma_W(Z).

    Args:
        model: Gives the length of the collapsed means, with c < 1.
        frame: Orthonormal directions Q (d, K).
        noise: Statistics of the perturbation Z.
        eps: Its size.

    Examples:
        >>> noise = ClassStatistics([5, 5], np.zeros((3, 2)), np.eye(3))
        >>> frame_statistics(Model(0.5, 0.5), np.eye(3, 2), noise, 0.1).within[0, 0].round(4)
        np.float64(0.01)
    """
    means = np.sqrt(model.rho) * frame + eps * noise.means
    return ClassStatistics(noise.counts, means, eps**2 * noise.within)


def optimal_features(model: Model, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Features of the minimizer of Eq. 2 for these input features, (N, d): one layer of the model.

    Args:
        model: The strengths lambda_W, lambda_H and beta.
        features: Input features (N, d).
        labels: (N,), integers 0..K-1.

    Examples:
        >>> optimal_features(Model(0.1, 0.1, 1.0), np.eye(3, 4), np.arange(3)).shape
        (3, 4)
    """
    solution = minimize(model, ClassStatistics.from_features(features, labels))
    return solution.features(features, labels)


def in_plane(points: np.ndarray, means: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Coordinates of points in the plane of three class means, (m, 2).

    The origin is the center of the means, and the axes turn the means as close to the corners as
    they come.

    Args:
        points: (m, d), one a row.
        means: Three class means (3, d), one a row.
        corners: Where the means should lie, (3, 2), with mean zero.

    Examples:
        >>> corners = np.array([[0.0, 2.0], [-1.0, -1.0], [1.0, -1.0]])
        >>> turned = 5 + corners[:, ::-1]
        >>> bool(np.allclose(in_plane(turned, turned, corners), corners))
        True
    """
    center = means.mean(axis=0)
    left, _, right = np.linalg.svd((means - center).T @ corners, full_matrices=False)
    return (points - center) @ (left @ right)
