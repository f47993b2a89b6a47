"""Every refusal is a sentence that names the condition and the value."""

import numpy as np
import pytest
import torch

import nclib
from nclib import ClassStatistics, Model, _checks

FEATURES, LABELS = np.eye(4, 3), np.array([0, 0, 1, 1])
STATS = ClassStatistics.from_features(FEATURES, LABELS)
MODEL = Model(0.1, 0.1, 1.0)


@pytest.mark.parametrize(
    "name, arguments, sentence",
    [
        ("nc1", (FEATURES,), "stats must be a ClassStatistics, as ClassStatistics.from_features"),
        ("nc1", (FEATURES, LABELS), r"but stats is an array of shape \(4, 3\)\."),
        ("nc1_trace", (FEATURES, LABELS), "stats must be a ClassStatistics"),
        ("nc2", (MODEL,), "but stats is Model"),
        ("nc3", (FEATURES, LABELS, FEATURES[:2]), "stats must be a ClassStatistics"),
        ("minimize", (MODEL, FEATURES), "stats must be a ClassStatistics"),
        (
            "minimize",
            (STATS, MODEL),
            r"model must be a Model, as Model\(lambda_W, lambda_H, beta\)",
        ),
        ("central_path", (MODEL, FEATURES, [1.0]), "stats must be a ClassStatistics"),
        ("central_path", (STATS, MODEL, [1.0]), "model must be a Model"),
        ("series_statistics", (MODEL, FEATURES), "stats must be a ClassStatistics"),
        ("series_statistics", (STATS, MODEL), "model must be a Model"),
        ("series", (FEATURES, LABELS, MODEL), "but model is an array of shape"),
        ("flow_series", (FEATURES, LABELS, MODEL), "model must be a Model"),
        ("gradient_derivatives", (FEATURES, LABELS, MODEL), "model must be a Model"),
        ("contraction", (STATS,), "but model is ClassStatistics"),
        ("spectrum", (STATS, 2, 3, 4), "model must be a Model"),
        ("spectrum_at_radius", (STATS, [1.0], 3, 4), "model must be a Model"),
        ("optimal_radii", (STATS, [1.0]), "model must be a Model"),
        ("response", (MODEL, FEATURES, LABELS), "solution must be a Solution, as minimize"),
        ("response_large_beta", (STATS, FEATURES, LABELS), "model must be a Model"),
        ("nc1_ratio", (MODEL, np.eye(3, 2), FEATURES), "perturbation must be a ClassStatistics"),
        ("coefficients", (STATS,), "model must be a Model"),
        ("shape", (FEATURES,), "stats must be a ClassStatistics"),
        ("compare", (FEATURES, STATS), "stats must be a ClassStatistics"),
        ("fit", (STATS, FEATURES), "stats must be a ClassStatistics"),
    ],
)
def test_mixed_up_arguments_are_named(name, arguments, sentence):
    with pytest.raises(TypeError, match=sentence):
        getattr(nclib, name)(*arguments)


def test_an_instance_is_handed_on_as_it_is():
    assert _checks.instance("model", MODEL, Model) is MODEL
    with pytest.raises(TypeError, match=r"n must be a int, but n is str\."):
        _checks.instance("n", "3", int)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_features_are_not_copied(dtype):
    x = np.ones((3, 2), dtype)
    assert _checks.as_features(x) is x


@pytest.mark.parametrize(
    "x", [[[1, 2], [3, 4]], np.ones((2, 2), np.longdouble), np.eye(2, dtype=bool)]
)
def test_other_real_features_become_float64(x):
    assert _checks.as_features(x).dtype == np.float64


@pytest.mark.parametrize(
    "x, error, sentence",
    [
        (np.ones(3), ValueError, r"features must have shape \(N, d\), .* given is \(3,\)"),
        (np.ones((2, 2, 2)), ValueError, r"given is \(2, 2, 2\)"),
        (np.ones((0, 4)), ValueError, r"at least one row and one column; .* \(0, 4\)"),
        (np.ones((4, 0)), ValueError, r"at least one row and one column; .* \(4, 0\)"),
        (np.ones((2, 2), complex), TypeError, "real numbers, not complex128"),
        ([["a", "b"]], TypeError, "real numbers, not <U1"),
    ],
)
def test_bad_features(x, error, sentence):
    with pytest.raises(error, match=sentence):
        _checks.as_features(x)


def test_the_argument_is_called_by_its_name():
    with pytest.raises(ValueError, match="perturbation must have shape"):
        _checks.as_features(np.ones(3), "perturbation")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_labels_of_any_integer_type(dtype):
    y = _checks.as_labels(np.array([2, 0, 1, 2], dtype), 4)
    assert y.dtype == np.intp and y.tolist() == [2, 0, 1, 2]


def test_a_class_may_be_missing_when_the_number_of_classes_is_given():
    assert _checks.as_labels([0, 2], 2, 4).tolist() == [0, 2]


@pytest.mark.parametrize(
    "y, K, error, sentence",
    [
        ([0.0, 1.0, 1.0], None, TypeError, r"not float64; pass labels\.astype\(int\)\."),
        ([0.5, 1.0, 1.0], None, TypeError, r"labels must be integers, not float64\."),
        ([True, False, True], None, TypeError, r"not bool; pass labels\.astype\(int\)\."),
        (
            ["a", "b", "a"],
            None,
            TypeError,
            r"not <U1; pass np\.unique\(labels, return_inverse=True",
        ),
        ([0, 1], None, ValueError, r"labels must have shape \(3,\), .* given is \(2,\)\."),
        (
            np.eye(3, dtype=int),
            None,
            ValueError,
            r"given is \(3, 3\); .* labels\.argmax\(axis=1\)\.",
        ),
        (np.eye(3), 3, ValueError, r"for one-hot labels pass labels\.argmax\(axis=1\)\."),
        (np.ones((3, 3)), None, ValueError, r"given is \(3, 3\)\."),
        ([[0], [1], [1]], None, ValueError, r"given is \(3, 1\); pass labels\.ravel\(\)\."),
        ([[0, 1, 1]], 2, ValueError, r"given is \(1, 3\); pass labels\.ravel\(\)\."),
        ([0, -1, 1], None, ValueError, r"must not be negative, but the label -1 occurs\."),
        (
            [1, -1, 1],
            None,
            ValueError,
            r"-1 occurs; for labels -1 and 1 pass \(labels \+ 1\) // 2\.",
        ),
        ([1, -1, 1], 2, ValueError, r"for labels -1 and 1 pass \(labels \+ 1\) // 2\."),
        ([0, 1, 3], None, ValueError, "class 2 has no samples, although the label 3 occurs; name"),
        ([1, 2, 2], None, ValueError, r"class 0 has no samples, .*; .* so pass labels - 1\."),
        (
            [1, 2, 2],
            2,
            ValueError,
            r"must lie in 0\.\.1, but the label 2 occurs; .* pass labels - 1\.",
        ),
        ([0, 2, 2], 2, ValueError, r"labels must lie in 0\.\.1, but the label 2 occurs\."),
        ([1, 3, 3], None, ValueError, "class 0 has no samples, although the label 3 occurs; name"),
        ([0, 1, 10**15], None, ValueError, "class 2 has no samples"),
        ([0, 1, 3], 3, ValueError, r"labels must lie in 0\.\.2, but the label 3 occurs"),
        ([0, 1, 2], 0, ValueError, "num_classes must be at least 1, but num_classes = 0"),
        ([0, 1, 2], 3.0, TypeError, "num_classes must be an integer, not float"),
    ],
)
def test_bad_labels(y, K, error, sentence):
    with pytest.raises(error, match=sentence):
        _checks.as_labels(y, 3, K)


@pytest.mark.parametrize(
    "array, values, dtype",
    [
        (torch.tensor([[1.5, -2.0]], dtype=torch.float16), [[1.5, -2.0]], np.float16),
        (torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16), [[1.5, -2.0]], np.float32),
        (torch.tensor([[1.5, -2.0]], requires_grad=True), [[1.5, -2.0]], np.float32),
        (torch.nn.Parameter(torch.tensor([[1.0, 3.0]]).bfloat16()), [[1, 3]], np.float32),
        (torch.tensor([[1.5], [2.0]]).double().T, [[1.5, 2.0]], np.float64),
        (torch.tensor([[1, 2]]), [[1, 2]], np.float64),
        (np.ma.array([[1.0, 2.0]], mask=False), [[1, 2]], np.float64),
        (np.array([[1, 2]], ">f4"), [[1, 2]], ">f4"),
    ],
)
def test_arrays_of_other_libraries_are_taken_as_they_are(array, values, dtype):
    x = _checks.as_features(array)
    assert type(x) is np.ndarray
    assert x.tolist() == values
    assert x.dtype == dtype


def test_tensors_are_not_copied():
    tensor = torch.ones(3, 2, requires_grad=True)
    with torch.no_grad():
        assert np.shares_memory(_checks.as_features(tensor), tensor.detach().numpy())


@pytest.mark.parametrize("name", ["features", "labels", "weights", "classes"])
def test_masked_arrays_are_refused(name):
    rng = np.random.default_rng(0)
    arguments = {
        "features": rng.normal(size=(6, 3)),
        "labels": np.repeat([0, 1], 3),
        "weights": rng.normal(size=(2, 3)),
        "classes": np.array([0, 1]),
    }
    mask = rng.random(arguments[name].shape) < 0.4
    mask.flat[0] = True
    arguments[name] = np.ma.array(arguments[name], mask=mask)
    with pytest.raises(ValueError, match=f"{name} must not be masked, but {mask.sum()} of its"):
        nclib.measure(**arguments)


def test_ragged_lists_are_refused():
    with pytest.raises(
        ValueError, match=r"features must be an array, but its rows differ in length\."
    ):
        _checks.as_features([[1, 2], [3]])


@pytest.mark.parametrize("copies", [False, True])
def test_classes_are_chosen_and_numbered_anew(copies):
    X, y = np.arange(12.0).reshape(6, 2), np.array([4, 0, 2, 4, 2, 0])
    classes = [4, 2] if copies else [4, 2, 0]
    chosen = _checks.choose(X, y, classes)
    kept = np.isin(y, classes)
    assert chosen.classes.tolist() == classes
    assert chosen.labels.tolist() == [classes.index(k) for k in y[kept]]
    assert np.array_equal(chosen.features, X[kept])
    assert (chosen.features is X) is not copies


@pytest.mark.parametrize(
    "classes, error, sentence",
    [
        ([0, 3], ValueError, "class 3 has no samples, although classes names it"),
        ([0, 9], ValueError, "class 9 has no samples, although classes names it"),
        ([0, 0], ValueError, r"must be named once each, but classes = \[0, 0\]\."),
        ([0, -1], ValueError, r"a list of labels, none negative, but classes = \[0, -1\]\."),
        ([], TypeError, "classes must be integers, not float64"),
        (2, ValueError, "classes must be a list of labels, none negative, but classes = 2"),
        ([0.0, 1.0], TypeError, "classes must be integers, not float64"),
    ],
)
def test_bad_classes(classes, error, sentence):
    with pytest.raises(error, match=sentence):
        _checks.choose(np.ones((4, 2)), [0, 1, 2, 4], classes)


def test_arrays():
    assert _checks.as_array("weights", [[1, 2]], (1, 2)).dtype == np.float64
    with pytest.raises(
        ValueError, match=r"weights must have shape \(2, 1\); the shape given is \(1, 2\)"
    ):
        _checks.as_array("weights", [[1, 2]], (2, 1))
    with pytest.raises(
        ValueError, match=r"weights must be finite, but the entry at \(0, 1\) is nan"
    ):
        _checks.as_array("weights", [[1, np.nan]], (1, 2))
    with pytest.raises(ValueError, match=r"bias must be finite, but the entry at \(0,\) is -inf"):
        _checks.as_array("bias", [-np.inf], (1,))
    with pytest.raises(TypeError, match="weights must hold real numbers, not object"):
        _checks.as_array("weights", [None], (1,))


def test_finite():
    x = np.ones((2, 3), np.float32)
    assert _checks.finite("features", x) is x
    x[1, 2] = np.inf
    with pytest.raises(
        ValueError, match=r"features must be finite, but the entry at \(1, 2\) is inf"
    ):
        _checks.finite("features", x)


def test_every_class():
    _checks.every_class(np.array([1, 2]))
    with pytest.raises(ValueError, match=r"class 1 has no samples\."):
        _checks.every_class(np.array([2, 0, 1, 0]))


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(3)])
def test_positive_numbers(value):
    for check in (_checks.positive, _checks.nonnegative):
        x = check("beta", value)
        assert type(x) is float and x == value


@pytest.mark.parametrize(
    "check, value, error, sentence",
    [
        (_checks.positive, 0, ValueError, "beta must be greater than zero, but beta = 0"),
        (_checks.positive, -2.5, ValueError, "beta = -2.5"),
        (_checks.nonnegative, -1e-300, ValueError, "beta must not be negative, but beta = -1e-300"),
        (_checks.positive, float("nan"), ValueError, "beta must be finite, but beta = nan"),
        (_checks.nonnegative, float("inf"), ValueError, "beta must be finite, but beta = inf"),
        (_checks.positive, "1", TypeError, "beta must be a real number, not str"),
        (_checks.nonnegative, 1j, TypeError, "beta must be a real number, not complex"),
        (_checks.nonnegative, True, TypeError, "beta must be a real number, not bool"),
        (_checks.positive_integer, 0, ValueError, "beta must be at least 1, but beta = 0"),
        (_checks.positive_integer, 2.0, TypeError, "beta must be an integer, not float"),
        (_checks.positive_integer, True, TypeError, "beta must be an integer, not bool"),
    ],
)
def test_bad_numbers(check, value, error, sentence):
    with pytest.raises(error, match=sentence):
        check("beta", value)


def test_zero_is_not_negative():
    assert _checks.nonnegative("beta", 0) == 0.0
