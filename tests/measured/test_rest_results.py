"""The verdicts on networks at rest, found a second time from plain files."""

import copy
import json
import math
from itertools import product
from statistics import median

import pytest

from nclib.networks.experiments import rest
from tests.measured.independent import RESULTS
from tests.measured.printed import lines

DEPTHS, DECAYS = (4, 8), (1e-3, 3e-3)
SCALES = {"reduced": ("digits", (10, 11, 12)), "mnist": ("mnist", (20, 21, 22))}
CELLS = {"reduced": "check-rest-stored", "mnist": "check-rest-mnist"}
CHAPTER = RESULTS.parent / "networks/at_rest.ipynb"


def files(scale):
    found = {}
    for path in sorted((RESULTS / "rest" / scale).glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        case = run["case"]
        key = (case["skip"], case["depth"], case["decay"], case["variant"], case["seed"])
        kind = "residual" if case["skip"] else "plain"
        assert path.stem == "-".join(map(str, (case["data"], kind, *key[1:])))
        found[key] = run
    return found


READ = {scale: files(scale) for scale in SCALES}
LONGER, MORE = files("mnist-longer"), files("mnist-seeds")
both = pytest.mark.parametrize("scale", SCALES)


def baselines(scale, skip=True):
    seeds = SCALES[scale][1]
    keys = product(DEPTHS, DECAYS, seeds)
    return [READ[scale][skip, *key, "baseline", seed] for *key, seed in keys]


def is_dead(run):
    return run["rest"]["loss"] > 0.499


def bits(runs, skip, depth, variant, seed):
    """Change of NC1 against the baseline; None where one of the two is dead."""
    pair = [runs[skip, depth, 1e-3, v, seed] for v in (variant, "baseline")]
    if any(map(is_dead, pair)):
        return None
    return math.log2(pair[0]["rest"]["nc1"]) - math.log2(pair[1]["rest"]["nc1"])


def least(run):
    """Least cosine of the law over the live blocks."""
    return min(b["cosine"] for b in run["rest"]["blocks"] if b["live"] > 0)


def counts(scale):
    """Fulfilled and asked, criterion by criterion."""
    runs, found = READ[scale], {}
    found["R1"] = [least(run) > 0.99 for run in baselines(scale)]
    found["R2"] = [run["last block"]["law"]["error"] < 0.05 for run in baselines(scale)]
    found["R3"] = []
    for run in baselines(scale):
        grown = sum(math.log(b["growth_in_rows"]) for b in run["rest"]["blocks"])
        found["R3"].append((grown > 0) == (run["rates"]["rows"] > 0))
    found["R4"], found["R5"] = [], []
    for depth, seed in product(DEPTHS, SCALES[scale][1]):
        for variant, sign in (("features-double", 1), ("last-double", -1)):
            change = bits(runs, True, depth, variant, seed)
            if change is not None:
                found["R4"].append(sign * change > 0)
        if is_dead(runs[False, depth, 1e-3, "baseline", seed]):
            continue
        one, two = (bits(runs, False, depth, v, seed) for v in ("features-double", "last-power"))
        if one is None and two is None:
            continue
        found["R5"].append(None not in (one, two) and abs(one - two) < 0.1 * abs(one))
    return {name: (sum(answers), len(answers)) for name, answers in found.items()}


def later_counts():
    """The same of R6 to R8, on MNIST."""
    right = [run for run in baselines("mnist") if run["rest"]["error"] == 0]
    found = {"R6": [run["rest"]["nc1_trace"] > run["input"]["nc1_trace"] for run in right]}
    right = [run for run in baselines("mnist", skip=False) if run["rest"]["error"] == 0]
    found["R7"] = [10 * run["rest"]["nc1_trace"] < run["input"]["nc1_trace"] for run in right]
    live = [
        [b["growth"] for b in run["rest"]["blocks"] if b["live"] > 0] for run in baselines("mnist")
    ]
    found["R8"] = [max(growths) <= 1.001 for growths in live]
    return {name: (sum(answers), len(answers)) for name, answers in found.items()}


@both
def test_every_network_of_the_plan_is_there_and_says_where_it_comes_from(scale):
    data, seeds = SCALES[scale]
    variants = {True: ("features-double", "last-double"), False: ("features-double", "last-power")}
    wanted = {
        (skip, depth, decay, variant, seed)
        for skip, depth, seed in product((True, False), DEPTHS, seeds)
        for decay, variant in [
            (1e-3, "baseline"),
            (3e-3, "baseline"),
            *((1e-3, v) for v in variants[skip]),
        ]
    }
    assert set(READ[scale]) == wanted and len(wanted) == 48
    for run in READ[scale].values():
        case = run["case"]
        assert (case["data"], case["per_class"], case["dimension"]) == (data, 20, 32)
        assert run["part"]["commit"] and len(run["data"]["fingerprint"]) == 16
        assert run["training"][-1]["horizon"] >= 6
        assert run["step"] <= 0.1 and run["rest"]["iterations"] <= 2000


@both
def test_the_verdicts_are_those_of_a_second_reading(scale):
    found = counts(scale)
    assert rest.verdict(list(READ[scale].values())) == found
    if scale == "mnist":
        assert rest.verdict_again(list(READ[scale].values())) == later_counts()
        found |= later_counts()
    for name, (fulfilled, asked) in found.items():
        assert f"{name}: {fulfilled} of {asked}" in lines(CHAPTER, CELLS[scale])


@both
def test_the_numbers_beside_the_verdicts_are_those_of_a_second_reading(scale):
    runs = READ[scale].values()
    restless = sum(run["rest"]["gradient_norm"] > 1e-4 for run in runs)
    printed = lines(CHAPTER, CELLS[scale])
    assert f"{restless} with a relative gradient above 1e-4" in printed
    assert f"{sum(map(is_dead, runs))} dead" in printed
    assert f"{sum(run['step'] < 0.1 for run in runs)} with a smaller step" in printed


def test_networks_that_took_more_steps_are_the_same_and_nearer_to_the_law():
    keys = {key: run for key, run in READ["mnist"].items() if key[0] and key[3] == "baseline"}
    assert set(LONGER) == set(keys) and len(LONGER) == 12
    answers, shown = [], []
    for key, few in keys.items():
        many = LONGER[key]
        assert many["case"] == {**few["case"], "iterations": 8000}
        assert many["training"] == few["training"] and many["step"] == few["step"]
        assert many["rest"]["objective"] <= few["rest"]["objective"]
        answers.append(least(many) > least(few))
        shown.append(f"{least(few):.4f} {least(many):.4f}")
    assert rest.nearer(list(READ["mnist"].values()), list(LONGER.values())) == (
        sum(answers),
        12,
    )
    printed = lines(CHAPTER, "check-rest-longer")
    assert f"R9: {sum(answers)} of 12" in printed
    assert all(any(cosines in line for line in printed) for cosines in shown)
    assert rest.nearer(list(LONGER.values()), list(keys.values()))[0] == 12 - sum(answers)


@pytest.mark.parametrize(
    ("steps", "runs"), [("2,000", baselines("mnist")), ("8,000", list(LONGER.values()))]
)
def test_last_blocks_and_growing_spread_on_mnist_are_those_of_a_second_reading(steps, runs):
    printed = lines(CHAPTER, "check-rest-both")
    alive = [run for run in runs if run["rest"]["blocks"][-1]["live"] > 0]
    hits = sum(run["last block"]["law"]["error"] < 0.05 for run in alive)
    assert any(f"{steps} steps: {hits} of {len(alive)};" in line for line in printed)
    grown = set()
    for run in runs:
        case = run["case"]
        for b in run["rest"]["blocks"]:
            if b["live"] > 0 and b["growth"] > 1.001:
                where = f"L = {case['depth']}, w = {case['decay']:g}, seed {case['seed']}"
                times = f"times {b['growth']:.4f}, gradient {run['rest']['gradient_norm']:.0e}"
                grown.add(f"{where}, {b['name']}, {steps} steps: {times}")
    assert grown == {line for line in printed if f"{steps} steps: times" in line}


def test_the_verdicts_on_more_seeds_are_those_of_a_second_reading():
    assert list(MORE) == [(True, 8, 3e-3, "baseline", seed) for seed in range(23, 31)]
    answers = {"R1": [], "R2": [], "R8": []}
    still = []
    for run in MORE.values():
        live = [b for b in run["rest"]["blocks"] if b["live"] > 0]
        error = run["last block"]["law"]["error"]
        answers["R1"].append(least(run) > 0.99)
        answers["R2"].append(error is not None and error < 0.05)
        answers["R8"].append(max(b["growth"] for b in live) <= 1.001)
        still.append(run["rest"]["gradient_norm"] < 1e-4)
    printed = lines(CHAPTER, "check-rest-seeds")
    for name, found in answers.items():
        assert any(line.startswith(f"{name}: {sum(found)} of 8, ") for line in printed)
    grown = sum(calm and not held for calm, held in zip(still, answers["R8"], strict=True))
    assert f"at rest {sum(still)}; of these a block spreads its features in {grown}" in printed


def test_the_rivals_are_those_of_a_second_reading():
    titles = {
        "law": "the law (no number)",
        "linear layer": "linear layer (its decay)",
        "pull": "perturbed model (pull)",
        "pull and decay": "perturbed model (pull, decay)",
    }
    for key, title in titles.items():
        moving = [run for run in baselines("reduced") if run["rest"]["blocks"][-1]["live"] > 0]
        e = [run["last block"][key]["error"] for run in moving]
        line = f"{title:44} {median(e):7.3f}  {min(e):.3f} to {max(e):.3f}"
        assert line in lines(CHAPTER)


@pytest.mark.parametrize("skip", [True, False])
def test_the_changes_of_nc1_are_those_of_a_second_reading(skip):
    kind = "residual" if skip else "plain"
    for depth in DEPTHS:
        for variant in ("features-double", "last-double" if skip else "last-power"):
            found = [bits(READ["reduced"], skip, depth, variant, seed) for seed in (10, 11, 12)]
            shown = "".join("   dead" if x is None else f"{x:+7.2f}" for x in found)
            assert f"{kind:9} L = {depth}  {variant:16} {shown}" in lines(CHAPTER)


@both
def test_a_turned_sign_or_a_swapped_seed_changes_a_verdict_or_a_table(scale):
    before = rest.verdict(list(READ[scale].values()))
    turned = copy.deepcopy(list(READ[scale].values()))
    for run in turned:
        run["rates"]["rows"] *= -1
        if run["rest"]["nc1"]:
            run["rest"]["nc1"] = 1 / run["rest"]["nc1"]
        for block in run["rest"]["blocks"] if run["case"]["skip"] else ():
            if block["cosine"] is not None:
                block["cosine"] *= -1
    after = rest.verdict(turned)
    for name in ("R1", "R3", "R4"):
        assert after[name][0] != before[name][0] or 2 * before[name][0] == before[name][1]
    for variant, depth in product(("features-double", "last-double"), DEPTHS):
        found = [bits(READ[scale], True, depth, variant, seed) for seed in SCALES[scale][1]]
        assert len({f"{x:+7.2f}" for x in found}) == 3
