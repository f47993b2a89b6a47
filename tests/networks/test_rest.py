"""The experiment at rest: what is run, that a small case runs, and that the criteria can fail."""

import copy
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nclib.networks.experiments import horizons, rest, sweep

CASES = list(rest.cases("smoke"))
SMALL = replace(CASES[0], depth=1, end=0.02, iterations=150, dimension=4, per_class=3)


def test_the_plan_has_120_baselines_and_80_variants():
    full = list(rest.cases("full"))
    assert len({case.name for case in full}) == len(full) == 200
    variants = Counter(case.variant for case in full)
    assert variants == {
        "baseline": 120,
        "features-double": 40,
        "last-double": 20,
        "last-power": 20,
    }
    assert {case.decay for case in full if case.variant != "baseline"} == {1e-3}
    power = next(case for case in full if case.variant == "last-power" and case.depth == 8)
    assert power.decays == (1e-3, 0.256) and not power.skip


def test_the_reduced_scale_has_24_baselines_and_24_variants_of_three_seeds():
    reduced = list(rest.cases("reduced"))
    assert len({case.name for case in reduced}) == len(reduced) == 48
    assert Counter(case.variant == "baseline" for case in reduced) == {True: 24, False: 24}
    assert {case.seed for case in reduced} == {10, 11, 12}
    assert {(case.data, case.per_class, case.dimension) for case in reduced} == {("digits", 20, 32)}


def test_the_scale_on_mnist_is_the_reduced_one_with_other_data_and_seeds():
    reduced, other = (list(rest.cases(scale)) for scale in ("reduced", "mnist"))
    assert [replace(case, data="digits", seed=case.seed - 10) for case in other] == reduced
    assert {(case.data, case.seed) for case in other} == {("mnist", i) for i in (20, 21, 22)}
    longer = [replace(case, iterations=2000) for case in rest.cases("mnist-longer")]
    assert longer == [case for case in other if case.skip and case.variant == "baseline"]
    more = list(rest.cases("mnist-seeds"))
    deep = [case for case in rest.cases("mnist-longer") if (case.depth, case.decay) == (8, 3e-3)]
    assert {replace(case, seed=0) for case in more} == {replace(case, seed=0) for case in deep}
    assert [case.seed for case in more] == list(range(23, 31))


@pytest.fixture(scope="module")
def record():
    return rest.carry_out(SMALL)


def test_a_case_is_trained_measured_and_recorded_with_its_origin(record):
    again = json.loads(json.dumps(record))
    assert rest.Case(**again["case"]) == SMALL
    assert again["data"]["samples"] == 30 and len(again["data"]["fingerprint"]) == 16
    assert again["part"]["versions"]["torch"] and "commit" in again["part"]
    horizons = [row["horizon"] for row in again["training"]]
    assert np.all(np.diff(horizons) >= 0) and horizons[-1] >= SMALL.end
    assert set(again["last block"]) == {"law", "pull", "pull and decay", "linear layer"}
    assert again["rest"]["gradient_norm"] < 1 and len(again["rest"]["blocks"]) == 1
    # More numbers cannot fit worse by more than the search is coarse.
    errors = {name: row["error"] for name, row in again["last block"].items()}
    assert errors["pull and decay"] < errors["pull"] + 1e-3


def test_the_data_are_centered_and_scaled():
    samples, _ = rest.prepared(SMALL)
    x = samples.values.numpy()
    assert x.shape == (30, 4) and np.abs(x.mean(axis=0)).max() < 1e-12
    assert np.mean(x**2) == pytest.approx(1)


def fulfilled(record):
    """Records that fulfil every criterion, made of one that was measured."""
    base = copy.deepcopy(record)
    base["rest"]["blocks"][0] |= {"cosine": 0.999, "live": 3, "growth_in_rows": 1.2}
    base["rates"]["rows"] = 1.0
    base["last block"]["law"]["error"] = 0.01
    plain = copy.deepcopy(base)
    plain["case"]["skip"] = False
    found = [base, plain]
    for origin, variant, factor in (
        (base, "features-double", 2.0),
        (base, "last-double", 0.5),
        (plain, "features-double", 2.0),
        (plain, "last-power", 2.01),
    ):
        other = copy.deepcopy(origin)
        other["case"]["variant"] = variant
        other["rest"]["nc1"] = factor * origin["rest"]["nc1"]
        found.append(other)
    return found


def test_each_criterion_is_asked_and_can_fail(record):
    good = fulfilled(record)
    assert rest.verdict(good) == {
        "R1": (1, 1),
        "R2": (1, 1),
        "R3": (1, 1),
        "R4": (2, 2),
        "R5": (1, 1),
    }
    spoiled = copy.deepcopy(good)
    spoiled[0]["rest"]["blocks"][0]["cosine"] = 0.98
    spoiled[0]["last block"]["law"]["error"] = 0.06
    spoiled[0]["rates"]["rows"] = -1.0
    for i in (2, 3, 5):
        spoiled[i]["rest"]["nc1"] = 3 / spoiled[i]["rest"]["nc1"] * good[0]["rest"]["nc1"] ** 2
    found = rest.verdict(spoiled)
    assert [found[f"R{i}"][0] for i in (1, 2, 3, 5)] == [0, 0, 0, 0] and found["R4"][0] < 2


def test_what_was_found_in_the_digits_is_asked_of_mnist_alone_and_can_fail(record):
    good = fulfilled(record)[:2]
    start = record["input"]["nc1_trace"]
    for entry, factor in zip(good, (1.1, 0.09), strict=True):
        entry["case"]["data"] = "mnist"
        entry["rest"] |= {"error": 0.0, "nc1_trace": factor * start}
        entry["rest"]["blocks"][0]["growth"] = 1.0009

    def answers(**changes):
        found = copy.deepcopy(good)
        for entry in found:
            entry["rest"] |= changes
        return list(rest.verdict_again(found).values())

    assert answers() == [(1, 1), (1, 1), (1, 1)]
    assert answers(nc1_trace=start / 5) == [(0, 1), (0, 1), (1, 1)]
    assert answers(error=0.005) == [(0, 0), (0, 0), (1, 1)]
    good[0]["rest"]["blocks"][0]["growth"] = 1.002
    assert answers()[2] == (0, 1)
    good[0]["rest"]["blocks"][0]["live"] = 0
    assert answers()[2] == (1, 1)
    for entry in good:
        entry["case"]["data"] = "digits"
    assert answers() == [(0, 0)] * 3 and len(list(rest.sentences(good))) == 3 + 5


def test_a_last_block_that_changes_nothing_has_no_error_and_is_not_predicted(record):
    h, labels = np.random.default_rng(0).standard_normal((12, 4)), np.repeat([0, 1, 2], 4)
    assert rest._compared(h, h, h + 1, labels)["error"] == np.inf
    good = fulfilled(record)
    good[0]["last block"]["law"]["error"] = None  # as it is stored
    assert rest.verdict(good)["R2"] == (0, 1)


def test_more_steps_are_compared_with_fewer_of_the_same_network(record):
    first, other = copy.deepcopy(record), copy.deepcopy(record)
    other["case"]["seed"] += 1
    longer = copy.deepcopy([first, other])
    for entry, cosine in ((first, 0.9), (other, 0.95), (longer[0], 0.94), (longer[1], 0.94)):
        entry["rest"]["blocks"][0] |= {"cosine": cosine, "live": 1}
    assert rest.nearer([first, other], longer) == (1, 2)
    assert rest.nearer([first, other], longer[:1]) == (1, 1)
    with pytest.raises(ValueError, match="records must hold the network digits-residual-1"):
        rest.nearer([first], longer)
    blocks = first["rest"]["blocks"]
    blocks.append({**blocks[0], "cosine": -0.3, "live": 0})
    assert rest.least_cosine(first) == 0.9
    for block in blocks:
        block["live"] = 0
    assert rest.least_cosine(first) == 1


def test_a_dead_network_is_asked_for_nothing_that_needs_its_metrics(record):
    good = fulfilled(record)
    assert not any(map(rest.dead, good))

    def killed(*which):
        found = copy.deepcopy(good)
        for i in which:
            found[i]["rest"] |= {"loss": 0.4999, "nc1": None}
        return rest.verdict(found)

    assert killed(2)["R4"] == killed(3)["R4"] == (1, 1) and killed(0)["R4"] == (0, 0)
    assert killed(4)["R5"] == killed(5)["R5"] == (0, 1)
    assert killed(1)["R5"] == killed(4, 5)["R5"] == (0, 0)


def test_a_network_that_diverges_starts_anew_at_half_the_step():
    """From the same weights, to the same horizon."""
    plain = next(case for case in rest.cases("reduced") if not case.skip)
    case = replace(plain, end=0.05)
    samples, _ = rest.prepared(case)
    network = rest.ResidualMLP(
        32, 10, case.depth, skip=False, smoothing=rest.SMOOTHING, seed=case.seed
    )
    start = {name: value.clone() for name, value in network.state_dict().items()}
    step, seen = rest._train(case, network, samples)
    assert step < horizons.STEP and np.log2(horizons.STEP / step).is_integer()
    assert np.isfinite(seen[-1]["loss"]) and seen[-1]["horizon"] >= case.end

    def again(step):
        network.load_state_dict(start)
        return horizons.trained(
            network,
            samples,
            case.decays,
            step,
            case.end,
            case.seed,
            lambda: horizons.state(network, samples, case.decays[0]),
        )

    assert again(step)[-1] == seen[-1]
    with pytest.raises(FloatingPointError):
        again(2 * step)


def test_the_command_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys, record):
    cases = [SMALL, replace(SMALL, seed=1)]
    monkeypatch.setattr(rest, "cases", lambda scale: cases)
    made = []
    monkeypatch.setattr(rest, "carry_out", lambda case: made.append(case) or record)
    first = sweep.path_of(tmp_path, "rest", "smoke", SMALL)
    first.parent.mkdir(parents=True)
    first.write_text(json.dumps(record), encoding="utf-8")
    arguments = ["run", "--scale", "smoke", "--out", str(tmp_path)]
    assert rest.main([*arguments, "--time-limit", "0"]) == 3 and made == []
    assert rest.main(arguments) == 0 and made == cases[1:]
    assert rest.main(["verdict", *arguments[1:]]) == 0
    assert "2 of 2 networks" in capsys.readouterr().out


def test_a_network_and_its_last_block_are_trained_with_the_decays_of_the_case(monkeypatch):
    """The network first, then, for a residual baseline, three blocks on its frozen features."""
    used, settle = [], rest.settle

    def kept(network, samples, w, *, last_weight_decay, **options):
        used.append((len(network.blocks), w, last_weight_decay))
        return settle(network, samples, w, last_weight_decay=last_weight_decay, **options)

    monkeypatch.setattr(rest, "settle", kept)
    deep = replace(SMALL, depth=2, iterations=3)
    rest.carry_out(replace(deep, variant="last-double"))
    assert used == [(2, 0.004, 0.008)]
    used.clear()
    rest.carry_out(deep)
    assert used == [(2, 0.004, 0.004), *[(1, 0.004, 0.004)] * 3]


def test_rates_and_rivals_have_the_decay_of_the_last_layer_times_the_classes(monkeypatch):
    seen = {"rates": set(), "pull": set(), "layer": set()}

    def watch(place, name, key):
        original = getattr(place, name)

        def watched(lambda_W, *others):
            seen[key].add(lambda_W)
            return original(lambda_W, *others)

        monkeypatch.setattr(place, name, watched)

    watch(rest.kernel, "spread_rates", "rates")
    watch(rest, "Model", "pull")
    watch(rest.shared, "minimize", "layer")
    rest.carry_out(replace(SMALL, iterations=3))
    assert {key: sorted(x) for key, x in seen.items()} == {key: [10 * 0.004] for key in seen}


def test_the_step_falls_to_a_tenth_for_the_last_tenth_of_the_epochs(monkeypatch):
    recipes, trainer = [], horizons.Trainer

    def kept(network, samples, recipe, seed):
        recipes.append(recipe)
        return trainer(network, samples, recipe, seed=seed)

    monkeypatch.setattr(horizons, "Trainer", kept)
    record = rest.carry_out(replace(SMALL, variant="last-double", end=0.5, iterations=3))
    (recipe,) = recipes
    assert (recipe.weight_decay, recipe.last_weight_decay) == (0.004, 0.008)
    lengths = [recipe.step_length(epoch) for epoch in range(1, recipe.epochs + 1)]
    full = sum(length > 0.09 for length in lengths)
    assert full == pytest.approx(0.9 * recipe.epochs, abs=1)
    assert lengths == pytest.approx([0.1] * full + [0.01] * (recipe.epochs - full))
    assert record["training"][-1]["horizon"] == pytest.approx(
        0.004 * recipe.epochs * 0.1 / (1 - 0.9)
    )


def test_dead_is_a_loss_above_0499(record):
    for loss, answer in ((0.4989, False), (0.4991, True)):
        assert rest.dead({"rest": {"loss": loss}}) is answer
