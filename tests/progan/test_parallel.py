"""Several workers take the steps of one with the joint batch; `parallel_harness.py` takes them."""

import json
import os

import numpy as np
import numpy_progan
import parallel_harness as harness
import pytest
from closeness import assert_close
from parallel_helpers import run_script

from progan.stage import DIRECTIONS, LATENTS_G, draw


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{(workers, index): what that worker left}"""
    out = str(tmp_path_factory.mktemp("parallel"))
    run_script("parallel_harness.py", out)
    found = {}
    for workers in harness.BY_WORKERS:
        for index in range(workers):
            with open(os.path.join(out, f"{workers}-{index}.json")) as stream:
                found[workers, index] = json.load(stream)
    return found


def arrays(values):
    return {name: np.array(value) for name, value in values.items()}


def changes(result, case):
    """{net: how its weights changed, one float64 vector}"""
    infogan_lambda = harness.CASES[case][3]
    first = {f"{net}/{name}": v for net, values in harness.start(infogan_lambda).items() for name, v in values.items()}
    last = arrays(result[case]["weights"])
    return {
        net: np.concatenate([np.ravel(last[name] - first[name]) for name in sorted(last) if name.startswith(f"{net}/")])
        for net in ("G", "D", "Gs")
    }


@pytest.mark.parametrize("workers, case", [(2, "SGD, all losses"), (2, "Adam"), (4, "SGD, InfoGAN")])
def test_equal_to_one_worker(results, workers, case):
    """The change that three steps made, to what the rounding of the weights leaves of it."""
    one, several = results[1, 0], results[workers, 0]
    expected, found = changes(one, case), changes(several, case)
    for net, change in expected.items():
        assert_close(found[net], change, within=2e-4)
    for taken, truth in zip(several[case]["values"], one[case]["values"]):
        assert taken == pytest.approx(truth, rel=1e-4, abs=3e-5)  # scores are about 3, their difference may be small


@pytest.mark.parametrize("case", harness.CASES)
def test_every_worker_has_the_same_bits(results, case):
    for (workers, index), result in results.items():
        if case in result:
            assert result[case] == results[workers, 0][case], (workers, index)


def test_the_penaltys_maximum_is_of_each_workers_part_and_averaged(results):
    """As published; the truth is the definition, in float64."""
    G = {name: value.astype(np.float64) for name, value in harness.start(0.0)["G"].items()}
    z = draw(harness.SEED, harness.STEP, LATENTS_G, harness.MINIBATCH, 3).astype(np.float64)
    directions = draw(harness.SEED, harness.STEP, DIRECTIONS, harness.MINIBATCH, 3).astype(np.float64)
    of_parts = [
        numpy_progan.hessian_penalties(G, z[i::2], [1, 2], directions[:, i::2], harness.EPSILON, 4, 8) for i in (0, 1)
    ]
    (values,) = results[2, 0]["maximum"]["values"]
    found = [values["hessian_penalty/layer_01"], values["hessian_penalty/layer_02"]]
    assert found == pytest.approx(np.mean(of_parts, axis=0), rel=1e-3)
    assert np.abs(np.subtract(*of_parts)).min() > 0.01  # so that neither part's would do


def test_a_stage_begins_with_the_values_of_worker_0(results):
    start = {f"{net}/{name}": v for net, values in harness.start(0.0).items() for name, v in values.items()}
    for index in (0, 1):
        before = results[2, index]["broadcast"]["before"]
        for name, value in arrays(before["weights"]).items():
            np.testing.assert_array_equal(value, start[name])
        assert len(before["slots"]) > 4
        for value in arrays(before["slots"]).values():
            assert (value == 1).all()  # as worker 0 brought; 2 at worker 1


def test_gradients_that_are_not_finite_on_one_worker_skip_the_update_of_all(results):
    for index in (0, 1):
        run = results[2, index]["broadcast"]
        assert run["skipped"] == 1  # G's step: its latents alone were bad
        for net, same in (("G", True), ("D", False)):
            names = [name for name in run["before"]["weights"] if name.startswith(f"{net}/")]
            assert all((run["before"]["weights"][n] == run["after"]["weights"][n]) == same for n in names), net
    assert results[2, 0]["broadcast"]["after"] == results[2, 1]["broadcast"]["after"]


def test_a_stop_signal_of_any_worker_reaches_all(results):
    assert results[2, 0]["agreements"] == results[2, 1]["agreements"] == [None, 15, 2, None]
