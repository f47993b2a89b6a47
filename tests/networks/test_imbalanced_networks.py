"""The experiment on imbalance: what is run, that a small case runs, and that verdicts turn."""

import copy
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from nclib import Model
from nclib.beyond import imbalance as theory
from nclib.measured.paired import Verdict
from nclib.networks.experiments import imbalance as runs
from nclib.networks.experiments import sweep
from nclib.networks.residual import ResidualMLP

SMALL = replace(next(runs.cases("smoke")), per_class=12, held_out=4, steps=(20, 5))


def test_the_plan_has_48_networks_in_four_groups_and_their_classes():
    planned = list(runs.cases("reduced"))
    assert len({case.name for case in planned}) == len(planned) == 48
    groups = Counter((case.loss, case.decay) for case in planned)
    assert groups == {
        ("mse", 3e-3): 12,
        ("mse", 3e-2): 12,
        ("cross-entropy", 1e-2): 12,
        ("cross-entropy", 1e-1): 12,
    }
    sizes = {case.ratio: case.counts for case in planned}
    assert {ratio: (n[0], n[4], n[5], n[9]) for ratio, n in sizes.items()} == {
        1: (200, 200, 200, 200),
        10: (200, 200, 20, 20),
        50: (200, 200, 4, 4),
        200: (200, 200, 1, 1),
    }


@pytest.fixture(scope="module")
def records():
    """A balanced and an imbalanced network of each loss, trained for a moment."""
    found = [
        runs.carry_out(replace(SMALL, loss=loss, decay=decay, ratio=ratio))
        for loss, decay in (("mse", 3e-2), ("cross-entropy", 1e-1))
        for ratio in (1, 6)
    ]
    return json.loads(json.dumps(found))


def test_a_network_is_trained_measured_and_recorded_with_its_origin(records):
    for record in records:
        case = record["case"]
        assert case["ratio"] in (1, 6) and record["data"]["samples"] == 60 + 60 // case["ratio"]
        assert len(record["data"]["fingerprint"]) == 16
        assert record["part"]["versions"]["torch"] and "commit" in record["part"]
        before, after = record["ends"]
        assert after["objective"] <= before["objective"] and after["iterations"] <= 5
        cosines = np.array(record["measured"]["cosines of rows"])
        assert np.allclose(cosines, cosines.T) and np.allclose(np.diag(cosines), 1)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_what_is_measured_is_what_the_plan_says(loss):
    """Every number once more, from the network's weights, sample by sample."""
    case = replace(SMALL, loss=loss, ratio=3)
    data = runs.prepared(case)
    network = ResidualMLP(case.dimension, 10, depth=2, skip=False, smoothing=0.05, seed=3)
    found = runs.measured(case, network, data)
    W = network.last.weight.detach().numpy()
    with torch.no_grad():
        x = data.train.inputs(slice(None))
        first, last = (h.numpy() for h in network.hidden(x))
        errors = network(data.test.inputs(slice(None))).argmax(dim=1).numpy()
    y, Z = data.train.labels.numpy(), last @ W.T
    out = Z if loss == "mse" else np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    score = np.zeros(10)
    for k in range(10):
        half = [j for j in (range(5) if k < 5 else range(5, 10)) if j != k]
        rest = 0 if loss == "mse" else out[y == k][:, half].mean()
        score[k] = out[y == k][:, k].mean() - rest
        wrong = (errors != data.test.labels.numpy())[data.test.labels.numpy() == k]
        assert found["test error"][k] == pytest.approx(wrong.mean())
        assert found["rows"][k] == pytest.approx(sum(w**2 for w in W[k]) ** 0.5)
        mean = last[y == k].mean(axis=0)
        assert found["means"][k] == pytest.approx((mean @ mean) ** 0.5)
    assert found["score"] == pytest.approx(score.tolist())
    assert found["square of W"] == pytest.approx(np.trace(W @ W.T))
    for name, h in (("first", first), ("last", last)):
        assert found[f"square of {name} features"] == pytest.approx(np.trace(h @ h.T) / len(y))
    force = -(out - np.eye(10)[y]) @ W
    for name, chosen in (("large", y < 5), ("small", y >= 5)):
        pull = sum(force[i] @ last[i] for i in np.flatnonzero(chosen))
        square = sum(last[i] @ last[i] for i in np.flatnonzero(chosen))
        assert found[f"lambda_H of {name}"] == pytest.approx(pull / square)


def test_the_inputs_of_an_image_are_the_same_at_every_ratio_and_images_are_nested():
    many, few = (runs.prepared(replace(SMALL, ratio=ratio)) for ratio in (1, 4))
    a, b = many.train.values.numpy(), few.train.values.numpy()
    assert [len(np.flatnonzero(few.train.labels == k)) for k in (0, 9)] == [12, 3]
    for k in range(10):
        kept = a[many.train.labels == k][: (3 if k > 4 else 12)]
        assert np.array_equal(kept, b[few.train.labels == k])
    assert np.abs(a.mean(axis=0)).max() < 1e-12 and np.mean(a**2) == pytest.approx(1)
    assert np.array_equal(many.test.values, few.test.values) and len(many.test) == 40
    rows = {tuple(row) for row in a.round(9)}
    assert not any(tuple(row) in rows for row in many.test.values.numpy().round(9))


def collapsed(loss, decay, ratio, seed, model=None):
    """A record as of a minimizer with free features, at which rest is exact."""
    case = runs.Case(loss, decay, ratio, seed)
    model = model or Model(10 * decay, 0.05)
    counts = np.array(case.counts)
    if loss == "mse":
        W, means = theory.collapsed(model, counts, 10)
        outputs = W @ means
        score = [float(outputs[k, k]) for k in range(10)]
    else:
        found = theory.two_groups(model, (5, 5), (case.counts[0], case.counts[9]), bias=False)
        W, means = found.weights, found.means
        p = np.exp(W @ means)
        p /= p.sum(axis=0)
        score = [float(p[k, k] - p[(k + 1) % 5 + 5 * (k > 4), k]) for k in range(10)]
    square = float(np.sum(counts * np.sum(means**2, axis=0)) / counts.sum())
    measured = {
        "rows": np.linalg.norm(W, axis=1).tolist(),
        "means": np.linalg.norm(means, axis=0).tolist(),
        "cosines of rows": runs._cosines(W).tolist(),
        "cosines of means": runs._cosines(means.T).tolist(),
        "score": score,
        "square of W": float(np.sum(W**2)),
        "square of first features": square,
        "square of last features": square,
    }
    ends = [{"objective": 1.0, "gradient_norm": 0.0, "iterations": 1}] * 2
    case = json.loads(json.dumps(runs.asdict(case)))
    return {"case": case, "measured": measured, "ends": ends}


@pytest.fixture(scope="module")
def ideal():
    """All networks of the plan as the theory with free features has them, with some noise."""
    rng, found = np.random.default_rng(0), []
    for case in runs.cases("reduced"):
        record = collapsed(case.loss, case.decay, case.ratio, case.seed)
        for name in ("rows", "means"):
            noise = np.exp(0.02 * rng.standard_normal(10))
            record["measured"][name] = (np.array(record["measured"][name]) * noise).tolist()
        found.append(record)
    return found


def test_the_decay_of_free_features_is_found_again(ideal):
    for record in ideal:
        if record["case"]["ratio"] == 1:
            lambda_W, last, first = runs.decays(record)
            assert lambda_W == 10 * record["case"]["decay"]
            assert (last, first) == pytest.approx((0.05, 0.05), rel=1e-10)


def test_where_the_theory_holds_the_verdicts_are_those_it_predicts(ideal):
    found = runs.verdict(ideal)
    signed = {name: found[name] for name in ("I1", "I3", "I4", "I5")}
    assert set(signed.values()) == {Verdict.YES}, signed
    # All angles are right angles: nothing changes, and the yardstick is zero.
    assert found["I2"] is Verdict.UNDETERMINED
    assert found["I6 free"] is Verdict.YES and found["I6 all layers"] is not Verdict.YES


def test_the_signs_of_the_plan_are_those_of_the_minimizers():
    for asked in runs.questions([collapsed(*key) for key in PLANNED]):
        model = Model(10 * asked.decay, 0.05)
        far, near = (
            collapsed(asked.loss, asked.decay, ratio, 0, model) for ratio in (asked.ratio, 1)
        )
        change = {
            "I1": lambda record: runs.cosine(record),
            "I4": lambda record: runs.length(record),
            "I5": lambda record: runs.length(record, "means"),
        }.get(asked.name)
        if change is not None and runs.over_small(far, "score") > 0:
            assert np.sign(change(far) - change(near)) == asked.sign, asked


PLANNED = [(c.loss, c.decay, c.ratio, c.seed) for c in runs.cases("reduced") if c.seed == 0]


def changed(found, **factors):
    """Records whose small classes are changed at every ratio above one."""
    found = copy.deepcopy(found)
    for record in found:
        if record["case"]["ratio"] > 1:
            for name, factor in factors.items():
                values = record["measured"][name]
                record["measured"][name] = values[:5] + [factor * value for value in values[5:]]
    return found


def test_turned_signs_turn_the_verdicts(ideal):
    assert runs.verdict(changed(ideal, rows=100.0))["I4"] is Verdict.NO
    assert runs.verdict(changed(ideal, means=0.01))["I5"] is Verdict.NO
    assert runs.verdict(changed(ideal, score=0.0))["I6 free"] is not Verdict.YES
    swapped = copy.deepcopy(ideal)
    for record in swapped:
        record["case"]["ratio"] = {1: 200, 200: 1}.get(record["case"]["ratio"], 50)
    turned = copy.deepcopy(ideal)
    for record in turned:
        if record["case"]["loss"] == "cross-entropy" and record["case"]["ratio"] > 1:
            record["measured"]["cosines of rows"] = np.full((10, 10), -0.9).tolist()
    found = runs.verdict(turned)
    assert found["I1"] is Verdict.NO and found["I3"] is Verdict.NO


def test_swapped_runs_turn_the_verdicts(ideal):
    """The networks of ratio one and ten exchange their names."""
    swapped = [r for r in copy.deepcopy(ideal) if r["case"]["ratio"] in (1, 10)]
    for record in swapped:
        record["case"]["ratio"] = 11 - record["case"]["ratio"]
    found = runs.verdict(swapped)
    assert found["I1"] is found["I3"] is found["I4"] is found["I5"] is Verdict.NO


def test_angles_that_move_under_squared_loss_are_not_small(ideal):
    moved = copy.deepcopy(ideal)
    rng = np.random.default_rng(1)
    for record in moved:
        if record["case"]["loss"] == "mse":
            noise = 0.02 * rng.standard_normal((10, 10))
            far = 0.5 if record["case"]["ratio"] > 1 else 0.0
            cosines = np.array(record["measured"]["cosines of rows"]) + noise + far
            record["measured"]["cosines of rows"] = cosines.tolist()
    assert runs.verdict(moved)["I2"] is Verdict.NO


def test_a_restless_network_leaves_the_verdict_of_its_seed_out(ideal):
    spoiled = changed(ideal)
    for record in spoiled:
        if record["case"]["loss"] == "mse" and record["case"]["seed"] > 0:
            record["ends"] = [{"objective": 1.01}, {"objective": 1.0}]
    # One seed is left for the second version, too few for an interval.
    assert runs.restless(spoiled[-1]) == (spoiled[-1]["case"]["loss"] == "mse")
    found = runs.verdict(spoiled)
    assert found["I4"] is Verdict.UNDETERMINED and found["I1"] is Verdict.YES


def test_an_interval_is_students_and_its_yardstick_the_larger_of_two(ideal):
    (part,) = [part for part in runs.answers(ideal) if part.asked == ("I4", "mse", 0.03, 10, -1)]
    by_ratio = {
        ratio: [
            np.log2(np.mean(r["measured"]["rows"][5:]) / np.mean(r["measured"]["rows"][:5]))
            for r in ideal
            if (r["case"]["loss"], r["case"]["decay"], r["case"]["ratio"]) == ("mse", 0.03, ratio)
        ]
        for ratio in (1, 10)
    }
    D = np.subtract(by_ratio[10], by_ratio[1])
    half = student.ppf(0.975, 2) * D.std(ddof=1) / 3**0.5
    assert part.interval[:4] == pytest.approx((D.mean(), D.mean() - half, D.mean() + half, 3))
    gaps = []
    for r in ideal:
        if (r["case"]["loss"], r["case"]["decay"], r["case"]["ratio"]) == ("mse", 0.03, 1):
            rows = np.array(r["measured"]["rows"])
            for half in combinations(range(10), 5):
                others = [k for k in range(10) if k not in half]
                gaps.append(np.log2(rows[list(half)].mean() / rows[others].mean()))
    between_seeds = np.std(by_ratio[1], ddof=1) * 2**0.5
    expected = max(between_seeds, np.mean(np.square(gaps)) ** 0.5)
    assert part.interval.yardstick == pytest.approx(expected)


def test_the_command_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys, records):
    wanted = [SMALL, replace(SMALL, seed=1)]
    monkeypatch.setattr(runs, "cases", lambda scale: wanted)
    made = []
    monkeypatch.setattr(runs, "carry_out", lambda case: made.append(case) or records[0])
    first = sweep.path_of(tmp_path, "imbalance", "smoke", SMALL)
    first.parent.mkdir(parents=True)
    first.write_text(json.dumps(records[0]), encoding="utf-8")
    arguments = ["run", "--out", str(tmp_path)]
    assert runs.main([*arguments, "--time-limit", "0"]) == 3 and made == []
    assert runs.main(arguments) == 0 and made == wanted[1:]
    assert runs.main(["verdict", *arguments[1:]]) == 0
    assert "2 of 2 networks" in capsys.readouterr().out
