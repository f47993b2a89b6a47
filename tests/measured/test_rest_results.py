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

FOLDER = RESULTS / "rest/reduced"
SEEDS, DEPTHS = (10, 11, 12), (4, 8)
CHAPTER = RESULTS.parent / "networks/at_rest.ipynb"


def files():
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        case = run["case"]
        key = (case["skip"], case["depth"], case["decay"], case["variant"], case["seed"])
        assert key not in found
        found[key] = run
    return found


RUNS = files()
BASELINES = [
    RUNS[True, *key, "baseline", seed] for *key, seed in product(DEPTHS, (1e-3, 3e-3), SEEDS)
]


def is_dead(run):
    return run["rest"]["loss"] > 0.499


def bits(skip, depth, variant, seed):
    """Change of NC1 against the baseline; None where one of the two is dead."""
    pair = [RUNS[skip, depth, 1e-3, v, seed] for v in (variant, "baseline")]
    if any(map(is_dead, pair)):
        return None
    return math.log2(pair[0]["rest"]["nc1"]) - math.log2(pair[1]["rest"]["nc1"])


def counts():
    """Fulfilled and asked, criterion by criterion."""
    found = {}
    live = [[b for b in run["rest"]["blocks"] if b["live"] > 0] for run in BASELINES]
    found["R1"] = [min(b["cosine"] for b in blocks) > 0.99 for blocks in live]
    found["R2"] = [run["last block"]["law"]["error"] < 0.05 for run in BASELINES]
    found["R3"] = []
    for run in BASELINES:
        grown = sum(math.log(b["growth_in_rows"]) for b in run["rest"]["blocks"])
        found["R3"].append((grown > 0) == (run["rates"]["rows"] > 0))
    found["R4"], found["R5"] = [], []
    for depth, seed in product(DEPTHS, SEEDS):
        for variant, sign in (("features-double", 1), ("last-double", -1)):
            change = bits(True, depth, variant, seed)
            if change is not None:
                found["R4"].append(sign * change > 0)
        if is_dead(RUNS[False, depth, 1e-3, "baseline", seed]):
            continue
        one, two = (bits(False, depth, v, seed) for v in ("features-double", "last-power"))
        if one is None and two is None:
            continue
        found["R5"].append(None not in (one, two) and abs(one - two) < 0.1 * abs(one))
    return {name: (sum(answers), len(answers)) for name, answers in found.items()}


def test_every_network_of_the_plan_is_there_and_says_where_it_comes_from():
    variants = {True: ("features-double", "last-double"), False: ("features-double", "last-power")}
    wanted = {
        (skip, depth, decay, variant, seed)
        for skip, depth, seed in product((True, False), DEPTHS, SEEDS)
        for decay, variant in [
            (1e-3, "baseline"),
            (3e-3, "baseline"),
            *((1e-3, v) for v in variants[skip]),
        ]
    }
    assert set(RUNS) == wanted and len(wanted) == 48
    for run in RUNS.values():
        case = run["case"]
        assert (case["data"], case["per_class"], case["dimension"]) == ("digits", 20, 32)
        assert run["part"]["commit"] and len(run["data"]["fingerprint"]) == 16
        assert run["training"][-1]["horizon"] >= 6
        assert run["step"] <= 0.1 and run["rest"]["iterations"] <= 2000


def test_the_verdicts_are_those_of_a_second_reading():
    assert rest.verdict(list(RUNS.values())) == counts()
    for name, (fulfilled, asked) in counts().items():
        assert f"{name}: {fulfilled} of {asked}" in lines(CHAPTER)


def test_the_numbers_beside_the_verdicts_are_those_of_a_second_reading():
    restless = sum(run["rest"]["gradient_norm"] > 1e-4 for run in RUNS.values())
    printed = lines(CHAPTER)
    assert f"{restless} with a relative gradient above 1e-4" in printed
    assert f"{sum(map(is_dead, RUNS.values()))} dead" in printed
    assert f"{sum(run['step'] < 0.1 for run in RUNS.values())} with a smaller step" in printed


def test_the_rivals_are_those_of_a_second_reading():
    titles = {
        "law": "the law (no number)",
        "linear layer": "linear layer (its decay)",
        "pull": "perturbed model (pull)",
        "pull and decay": "perturbed model (pull, decay)",
    }
    for key, title in titles.items():
        moving = [run for run in BASELINES if run["rest"]["blocks"][-1]["live"] > 0]
        e = [run["last block"][key]["error"] for run in moving]
        line = f"{title:44} {median(e):7.3f}  {min(e):.3f} to {max(e):.3f}"
        assert line in lines(CHAPTER)


@pytest.mark.parametrize("skip", [True, False])
def test_the_changes_of_nc1_are_those_of_a_second_reading(skip):
    kind = "residual" if skip else "plain"
    for depth in DEPTHS:
        for variant in ("features-double", "last-double" if skip else "last-power"):
            found = [bits(skip, depth, variant, seed) for seed in SEEDS]
            shown = "".join("   dead" if x is None else f"{x:+7.2f}" for x in found)
            assert f"{kind:9} L = {depth}  {variant:16} {shown}" in lines(CHAPTER)


def test_a_turned_sign_or_a_swapped_seed_changes_a_verdict_or_a_table():
    before = rest.verdict(list(RUNS.values()))
    turned = copy.deepcopy(list(RUNS.values()))
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
        found = [bits(True, depth, variant, seed) for seed in SEEDS]
        assert len({f"{x:+7.2f}" for x in found}) == len(SEEDS)
