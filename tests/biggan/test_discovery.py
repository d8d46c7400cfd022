"""discovery.py against closed forms, a dense Hessian, and the algorithm written out plainly."""

import collections
import dataclasses
import math
import os
import signal

import numpy as np
import pytest
import torch
from closeness import assert_close
from separable import Separable, start

from biggan import directions, discovery
from biggan.discovery import Settings, diagonal, diagonal_share, draw, orojar, penalty
from biggan.frozen import FrozenGenerator
from experiment_utils.errors import Interrupted, OptionError, SnapshotError, TrainingError, UserError
from hessian_penalty_pytorch import hessian_penalty, orojar_penalty


class Quadratic:
    """G(z) = z'Mz / 2 + z'B for each of 5 pixels, and the class added: its Hessian is M everywhere."""

    def __init__(self, dim_z, seed=0):
        draws = torch.Generator().manual_seed(seed)
        M = torch.randn(5, dim_z, dim_z, generator=draws, dtype=torch.float64)
        self.M = M + M.transpose(1, 2)
        self.B = torch.randn(dim_z, 5, generator=draws, dtype=torch.float64)

    def __call__(self, z, y):
        return torch.einsum("ni,eij,nj->ne", z, self.M, z) / 2 + z @ self.B + y[:, None]


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signs(*shape, seed=1):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


# ----------------------------------------------------------------------------------------------------------------------
# The penalty along directions


@pytest.mark.parametrize("k", [2, 3])
def test_the_penalty_is_that_of_the_hessian_in_w(k):
    """For a quadratic G it is QMQ', and v'QMQ'v exact at any epsilon; its gradient is that of the closed form."""
    G, N, ndirs, dim_z = Quadratic(6), 7, 4, 6
    Q, z, w, v = normal(ndirs, dim_z), normal(N, dim_z), normal(N, ndirs), signs(k, N, ndirs)
    results = []
    for value in (
        lambda Q: penalty(G, Q, z, w, torch.arange(N), epsilon=0.3, k=k, directions=v),
        lambda Q: torch.einsum("kni,eij,knj->kne", v @ Q, G.M, v @ Q).var(dim=0, unbiased=True).mean(),
    ):
        leaf = Q.clone().requires_grad_()
        results.append((value(leaf), torch.autograd.grad(value(leaf), leaf)[0]))
    (ours, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-7 * float(expected_gradient.abs().max()))


def test_the_penalty_draws_directions_of_its_own():
    """On average over them: twice the squares off the diagonal of QMQ'."""
    G, N = Quadratic(4), 20000
    Q = normal(3, 4)
    H = Q @ G.M @ Q.T
    off_diagonal = (H**2).sum() - (torch.diagonal(H, dim1=1, dim2=2) ** 2).sum()
    torch.manual_seed(0)
    value = penalty(G, Q, normal(N, 4), normal(N, 3), torch.zeros(N, dtype=torch.int64))
    assert abs(value / (2 * off_diagonal / 5) - 1) < 0.05


def test_orojar_is_that_of_the_jacobian_in_w():
    """For a linear G it is QB, and ||QB'v||² exact at any epsilon; averaged over samples, summed over the image."""
    N, Q, B, v = 5, normal(3, 6), normal(6, 2, 2), signs(4, 5, 3)
    value = orojar(
        lambda z, y: torch.einsum("ni,ijk->njk", z, B), Q, normal(N, 6), normal(N, 3), None, 0.3, 4, directions=v
    )
    expected = ((v @ Q) @ B.flatten(1)).square().sum(2).var(dim=0, unbiased=True).mean()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=0)


# ----------------------------------------------------------------------------------------------------------------------
# The diagonal objective


def axes(count, ndirs):
    """[1, count, ndirs]: one axis after the other."""
    return torch.nn.functional.one_hot(torch.arange(count) % ndirs, ndirs)[None].double()


def test_diagonal_is_the_sum_of_squares_on_the_diagonal():
    """For a quadratic G second differences are exact at any epsilon; its gradient is that of the closed form."""
    G, N, ndirs, dim_z = Quadratic(6), 8, 4, 6
    z, w, row = normal(N, dim_z), normal(N, ndirs), axes(N, ndirs)
    results = []
    for value in (
        lambda Q: diagonal(G, Q, z, w, torch.arange(N), epsilon=0.3, directions=row),
        lambda Q: torch.diagonal(Q @ G.M @ Q.T, dim1=1, dim2=2).square().sum(1).mean(),
    ):
        leaf = normal(ndirs, dim_z).requires_grad_()
        results.append((value(leaf), torch.autograd.grad(value(leaf), leaf)[0]))
    (ours, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-7 * float(expected_gradient.abs().max()))


def test_diagonal_has_no_gradient_by_way_of_the_point():
    """Of a G whose Hessian changes from point to point: that of the steps alone, by finite differences."""
    Q, z, w, row = normal(3, 3), normal(6, 3), normal(6, 3, seed=2), axes(6, 3)
    point = z + w @ Q

    def at_the_same_point(Q):
        return diagonal(smooth, Q, point - w @ Q, w, None, directions=row).item()

    leaf = Q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(diagonal(smooth, leaf, z, w, None, directions=row), leaf)
    for i, j in ((0, 0), (1, 2), (2, 1)):
        change = torch.zeros_like(Q)
        change[i, j] = 1e-4
        slope = (at_the_same_point(Q + change) - at_the_same_point(Q - change)) / 2e-4
        assert gradient[i, j].item() == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_a_rotation_moves_energy_between_penalty_and_diagonal():
    """The identity behind it: penalty + 2 · diagonal = 2 ||H||², for any rotation; every draw of both is taken."""
    n, G = 4, Quadratic(4)
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * n)
    first, second = (i.flatten() for i in torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij"))
    pairs, point, y = torch.stack([every[first], every[second]]), torch.zeros(256, n).double(), torch.zeros(256)
    terms = []
    for seed in (1, 2):
        Q = directions.orthonormalise(normal(n, n, seed=seed))
        off, on = (
            penalty(G, Q, point, point, y, directions=pairs),
            diagonal(G, Q, point, point, y, directions=axes(256, n)),
        )
        assert off + 2 * on == pytest.approx(2 * float(G.M.square().sum()) / 5, rel=1e-6)
        terms.append(float(on))
    assert abs(terms[0] / terms[1] - 1) > 0.05


def test_diagonal_is_computed_in_full_precision_whatever_the_caller_s():
    G = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
    z, w, Q, row = normal(8, 4).float(), normal(8, 4, seed=2).float(), normal(4, 4).float(), axes(8, 4).float()
    results = []
    for enabled in (False, True):
        leaf = Q.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = diagonal(lambda z, y: G(z), leaf, z, w, None, directions=row)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    for plain, autocast in zip(*results):
        torch.testing.assert_close(autocast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings, ndirs, said",
    [
        ({"ortho": False}, 6, "--objective diagonal: needs orthonormal directions; leave --no_ortho out"),
        ({}, 5, "--objective diagonal: needs as many directions as z[0:6] has dimensions, 6, not 5; say --ndirs 6"),
    ],
)
def test_diagonal_is_refused_where_its_identity_does_not_hold(settings, ndirs, said):
    with pytest.raises(OptionError) as refused:
        start(Separable(6), ndirs, objective="diagonal", **settings)
    assert str(refused.value).startswith(said)


# ----------------------------------------------------------------------------------------------------------------------
# Diagonal-ness


def smooth(z, y=None):
    """Four pixels with a Hessian that is different everywhere and has no symmetry."""
    mixed = torch.stack([z[:, 0] * z[:, 1], z[:, 1] + z[:, 2] ** 2, z[:, 0] - z[:, 2], z.sum(1)], dim=1)
    return torch.sin(mixed) + torch.tanh(z[:, :1] + 0.5 * z[:, 1:2] * z[:, 2:3])


def test_diagonal_share_is_that_of_the_dense_hessian():
    """Every axis with every pair of directions: an unbiased estimator's average is then the thing itself."""
    ndirs, points = 3, 5
    Q, z, w = normal(ndirs, 3), normal(points, 3), normal(points, ndirs, seed=2)
    diagonal = total = 0.0
    for n in range(points):
        for pixel in range(4):

            def along(v, n=n, pixel=pixel):
                return smooth(z[n : n + 1] + (v @ Q)[None])[0, pixel]

            H = torch.autograd.functional.hessian(along, w[n])
            diagonal += float((torch.diagonal(H) ** 2).sum())
            total += float((H**2).sum())
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * ndirs)
    first, second = (i.flatten() for i in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
    axes = torch.arange(ndirs).repeat(points * 64)
    pairs = torch.stack([every[first], every[second]]).repeat(1, points, 1).repeat_interleave(ndirs, dim=1)
    rows = torch.arange(points).repeat_interleave(64 * ndirs)
    value = diagonal_share(smooth, Q, z[rows], w[rows], None, epsilon=1e-3, directions=pairs, axes=axes)
    assert 0.1 < diagonal / total < 0.9
    assert value == pytest.approx(diagonal / total, rel=1e-4)


def test_diagonal_share_is_1_for_a_separable_generator_and_knows_no_scale():
    N, Q = 40, torch.eye(3, dtype=torch.float64)
    z, w = normal(N, 3), normal(N, 3)
    separable = diagonal_share(lambda z, y: torch.sin(z), Q, z, w, None, epsilon=0.01)
    assert separable == pytest.approx(1, abs=1e-6)
    draws = {"directions": signs(2, N, 3), "axes": torch.arange(N) % 3}
    small, large = (diagonal_share(lambda z, y, s=s: s * smooth(z), Q, z, w, None, **draws) for s in (1, 1000))
    assert 0 < small < 1 and large == pytest.approx(small, rel=1e-6)


def test_diagonal_share_during_a_run_looks_at_every_direction():
    """Whatever the batch size: the samples of a batch of 1 would see one axis, the same every time."""
    one, many = (start(Separable(8, squashed=True), batch_size=size).diagonal_share() for size in (1, 64))
    assert one == pytest.approx(many, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_diagonal_share_of_a_relu_network_in_random_directions(epsilon):
    """Kinks across random directions u: Hessians c·uu', of which 3 / (n + 2) is on the diagonal, whatever the step."""
    n, width, N = 12, 256, 2000
    u = normal(n, width).float()
    u, offsets, out = u / u.norm(dim=0), 3 * normal(width, seed=2).float(), normal(width, 8, seed=3).float()
    draws = {"directions": signs(2, N, n), "axes": torch.arange(N) % n}
    value = diagonal_share(
        lambda z, y: torch.relu(z @ u + offsets) @ out, torch.eye(n), normal(N, n, seed=4).float(), torch.zeros(N, n),
        None, epsilon, **draws,
    )  # fmt: skip
    assert value == pytest.approx(3 / (n + 2), rel=0.2)


def test_axes_are_drawn_evenly():
    axes = discovery.even_axes(50, 7, torch.Generator().manual_seed(0))
    assert sorted(collections.Counter(axes.tolist()).values()) == [7, 7, 7, 7, 7, 7, 8]
    assert len(set(discovery.even_axes(5, 7, None).tolist())) == 5


# ----------------------------------------------------------------------------------------------------------------------
# What is drawn


class Classes(torch.nn.Module):
    """Smooth, with three classes that change what z does."""

    dim_z, num_classes = 6, 3

    def __init__(self):
        super().__init__()
        draws = torch.Generator().manual_seed(7)
        self.W = torch.randn(3, 6, 48, generator=draws)
        self.V = torch.randn(6, 48, generator=draws)

    def forward(self, z, y):
        return torch.tanh(torch.einsum("ni,nij->nj", z, self.W[y]) / 3 * torch.cos(z @ self.V / 3)).view(-1, 3, 4, 4)


def test_what_a_step_draws():
    G = FrozenGenerator(Classes(), "classes")
    settings = Settings(batch_size=6000, path_size=2.5, k=3, seed=5)
    z, w, y, v = draw(G, 4, settings, step=9)
    assert z.shape == (6000, 6) and abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.03
    assert ((w != 0).sum(1) == 1).all()
    distances, index = w.sum(1), (w != 0).float().argmax(1)
    assert distances.abs().max() <= 2.5 and abs(distances.mean()) < 0.1
    assert abs(distances.var() / (2.5**2 / 3) - 1) < 0.05  # uniform
    assert torch.histc(distances, 5, -2.5, 2.5).min() > 1050
    assert torch.bincount(index, minlength=4).min() > 1350
    assert torch.bincount(y, minlength=3).min() > 1850
    assert v.shape == (3, 6000, 4) and (v.abs() == 1).all() and abs(v.mean()) < 0.02
    between_draws = torch.corrcoef(v.reshape(3, -1))
    assert (between_draws - torch.eye(3)).abs().max() < 0.03


def test_draws_are_a_function_of_seed_and_step():
    G = FrozenGenerator(Classes(), "classes")
    for name, first, second in zip("zwyv", draw(G, 4, Settings(seed=3), 17), draw(G, 4, Settings(seed=3), 17)):
        assert torch.equal(first, second), name
    for seed, step in ((3, 18), (4, 17)):
        for name, first, second in zip("zwyv", draw(G, 4, Settings(seed=3), 17), draw(G, 4, Settings(seed=seed), step)):
            assert not torch.equal(first, second), name


def test_the_bits_of_a_step_s_draws():
    """What is drawn, in which order: a run of today goes on from one of an older version."""
    G, settings = FrozenGenerator(Classes(), "classes"), Settings(batch_size=10, path_size=2.0, k=3, seed=4)
    draws = directions.generator(4, 7, discovery.BATCH)
    z = torch.randn(10, 6, generator=draws)
    index = torch.randint(6, [10], generator=draws)
    w = torch.nn.functional.one_hot(index, 6) * (2.0 * (2 * torch.rand(10, 1, generator=draws) - 1))
    state = draws.get_state()
    v = torch.randint(2, [3, 10, 6], generator=draws).float() * 2 - 1
    y = torch.randint(3, (10,), generator=draws)
    for ours, expected in zip(draw(G, 6, settings, 7), (z, w, y, v)):
        assert torch.equal(ours, expected)
    draws.set_state(state)
    rows = discovery.even_axes(10, 6, draws)
    ours = draw(G, 6, dataclasses.replace(settings, objective="diagonal"), 7)
    assert torch.equal(ours.z, z) and torch.equal(ours.w, w)
    assert torch.equal(ours.directions, torch.nn.functional.one_hot(rows, 6)[None].float())
    assert torch.equal(ours.y, torch.randint(3, (10,), generator=draws))


def test_a_fixed_class():
    G = FrozenGenerator(Classes(), "classes")
    assert draw(G, 4, Settings(fix_class=2), 0).y.tolist() == [2] * 64
    assert draw(FrozenGenerator(Separable(4), "separable"), 4, Settings(), 0).y is None


# ----------------------------------------------------------------------------------------------------------------------
# One step


def plain_step(module, A, optimiser, batch, settings, space):
    """The algorithm as it is written down: row by row, the whole batch at once, in float64."""
    z, w, y, v = batch
    rows = []
    for row in A:
        if settings.ortho:
            for q in rows:
                row = row - (row @ q) * q
            row = row / row.norm()
        rows.append(row)
    Q = torch.stack(
        [torch.cat([row.new_zeros(space.begin), row, row.new_zeros(space.dim_z - space.end)]) for row in rows]
    )
    classes = [] if y is None else [y]

    if settings.objective == "diagonal":
        point, along = (z.double() + w.double() @ Q).detach(), v[0].double() @ Q
        length = settings.epsilon * len(A) ** 0.5
        images = [module(point + sign * length * along, *classes) for sign in (1, 0, -1)]
        value = len(A) * ((images[0] - 2 * images[1] + images[2]) / length**2).square().mean()
    else:
        function = {"hessian_penalty": hessian_penalty, "orojar": orojar_penalty}[settings.objective]
        value = function(
            lambda w: module(z.double() + w @ Q, *classes),
            w.double(),
            k=settings.k,
            epsilon=settings.epsilon,
            reduction=torch.mean,
            directions=v,
        )
    optimiser.zero_grad()
    (-value if settings.objective == "diagonal" else value).backward()
    optimiser.step()
    return value.item()


@pytest.mark.parametrize(
    "module, ndirs, search, settings",
    [
        (Classes, 4, "all", {}),
        (Classes, 4, "1:5", {"fix_class": 1, "lr": 0.03, "path_size": 2.0}),
        (Classes, 3, "all", {"ortho": False, "microbatch": 5}),
        (Classes, 5, "all", {"k": 3, "epsilon": 0.2, "batch_size": 30, "microbatch": 30, "seed": 8}),
        (lambda: Separable(6, squashed=True), 3, "2:6", {"batch_size": 7}),
        (Classes, 4, "all", {"objective": "orojar"}),
        (Classes, 6, "all", {"objective": "diagonal", "microbatch": 5}),
        (Classes, 4, "1:5", {"objective": "diagonal", "fix_class": 1, "path_size": 2.0, "epsilon": 0.3}),
    ],
)
def test_steps_are_those_of_the_plain_algorithm(module, ndirs, search, settings):
    ours = start(module(), ndirs, search, **{"batch_size": 24, **settings})
    A = ours.A.detach().double().requires_grad_()
    optimiser = torch.optim.Adam([A], lr=ours.settings.lr)
    double = module().double()
    for name, tensor in vars(double).items():
        if torch.is_tensor(tensor):
            setattr(double, name, tensor.double())
    for step in range(5):
        batch = draw(ours.G, ndirs, ours.settings, step)
        expected = plain_step(double, A, optimiser, batch, ours.settings, ours.space)
        assert ours.step()[0] == pytest.approx(expected, rel=1e-3)
    first = start(module(), ndirs, search, **settings).A
    change = (A - first).detach()
    assert change.abs().max() > 2 * ours.settings.lr
    assert_close((ours.A - first).detach(), change, within=0.01)


def test_the_caller_s_precision_and_random_state_are_left_alone():
    ours = start(Separable(4), batch_size=8)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(3)
    try:
        ours.step()
        ours.diagonal_share()
        assert torch.get_float32_matmul_precision() == "medium"
        after = torch.rand(1)
        torch.manual_seed(3)
        assert torch.rand(1) == after
    finally:
        torch.set_float32_matmul_precision("highest")


def test_looking_at_a_run_does_not_change_it():
    seen, unseen = start(Separable(4), batch_size=8), start(Separable(4), batch_size=8)
    for _ in range(5):
        first, second = seen.diagonal_share(), seen.diagonal_share()
        assert first == second
        seen.step()
        unseen.step()
    assert torch.equal(seen.A, unseen.A)


class Broken(torch.nn.Module):
    """Fails at the seventh step, of four passes with gradients each: its images, or their gradient."""

    dim_z = 3

    def __init__(self, how):
        super().__init__()
        self.how, self.passes = how, 0

    def forward(self, z):
        self.passes += torch.is_grad_enabled()
        pixels = (z[:, :, None] * z[:, None, :]).reshape(-1, 1, 3, 3)
        if self.passes <= 4 * 6:
            return pixels
        return pixels * math.nan if self.how == "value" else pixels + 0 * torch.sqrt(pixels - pixels.detach())


def test_directions_that_collapse_stop_it_and_are_kept(tmp_path, monkeypatch):
    ours = start(Separable(6), ndirs=3, batch_size=4)
    original = discovery.Discovery.Q

    def Q(self):
        if self.steps == 3:
            raise UserError("direction 2 cannot be orthonormalised")
        return original(self)

    monkeypatch.setattr(discovery.Discovery, "Q", Q)
    with pytest.raises(TrainingError, match=r"direction 2 cannot .*; stopped, the last good A is .*A_000003\.pt"):
        discovery.discover(ours, str(tmp_path), lambda line: None, steps=9)
    assert torch.equal(torch.load(str(tmp_path / "A_000003.pt"), weights_only=True), ours.A.detach())


@pytest.mark.parametrize("how, said", [("value", "is nan"), ("gradient", "has a gradient that is not finite")])
def test_what_is_not_finite_stops_it_and_the_last_good_directions_are_kept(tmp_path, how, said):
    ours = start(Broken(how), ndirs=2, batch_size=8, microbatch=8)
    lines = []
    with pytest.raises(TrainingError) as stopped:
        discovery.discover(ours, str(tmp_path), lines.append, steps=20)
    path = str(tmp_path / "A_000006.pt")
    assert str(stopped.value) == f"step 7: the hessian_penalty {said}; stopped, the last good A is {path}"
    assert torch.equal(torch.load(path, weights_only=True), ours.A.detach()) and torch.isfinite(ours.A).all()
    good = start(Broken(how), ndirs=2, batch_size=8, microbatch=8)
    for _ in range(6):
        good.step()
    assert torch.equal(good.A, ours.A)


def test_a_generator_without_a_gradient_is_refused():
    class Detached(Separable):
        def forward(self, z):
            with torch.no_grad():
                return super().forward(z)

    with pytest.raises(UserError, match="planted: its images have no gradient with respect to z"):
        start(Detached(4)).step()


def test_another_objective(monkeypatch):
    """One that only asks for the first direction to be the first axis."""
    monkeypatch.setitem(discovery.OBJECTIVES, "aligned", lambda G, Q, z, w, y, epsilon, k, directions: -Q[0, 0])
    ours = start(Separable(5), ndirs=2, objective="aligned", lr=0.05)
    values = [ours.step()[0] for _ in range(200)]
    assert values[-1] < -0.999 and ours.Q()[0, 0] > 0.999


# ----------------------------------------------------------------------------------------------------------------------
# The loop, and what it leaves


class Scalars:
    def __init__(self):
        self.logged = {}

    def scalars(self, values, step):
        self.logged[step] = values


def test_a_run_and_what_it_leaves(tmp_path):
    ours, lines, reporter, saves = start(Separable(3), batch_size=8), [], Scalars(), []
    path = discovery.discover(
        ours, str(tmp_path), lines.append, reporter, steps=250, save_every=100, on_save=saves.append
    )
    names = [f"A_{steps:06d}.pt" for steps in (100, 200, 250)]
    assert sorted(os.listdir(str(tmp_path))) == [*names, "state.safetensors"]
    assert path == str(tmp_path / "A_000250.pt") and saves == [100, 200, 250]
    again = start(Separable(3), batch_size=8)
    values = [again.step()[0] for _ in range(250)]
    assert torch.equal(torch.load(path, weights_only=True), again.A.detach())
    assert sorted(reporter.logged) == [1, 100, 200, 250] and len(lines) == 4
    assert reporter.logged[200]["discovery/hessian_penalty"] == pytest.approx(np.mean(values[100:200]))
    assert reporter.logged[250]["diagonalness/energy_share"] == again.diagonal_share()
    assert all(scalars["timing/steps_per_second"] > 0 for scalars in reporter.logged.values())


@pytest.mark.parametrize("objective", sorted(discovery.OBJECTIVES))
def test_a_resumed_run_continues_with_the_same_bits(tmp_path, objective):
    whole, first, second = (start(Separable(4, squashed=True), batch_size=8, objective=objective) for _ in range(3))
    for _ in range(30):
        whole.step()
    discovery.discover(first, str(tmp_path), lambda line: None, steps=17)
    second.restore(*discovery.saved_state(str(tmp_path), 4))
    assert second.steps == 17 and torch.equal(first.A, second.A)
    discovery.discover(second, str(tmp_path), lambda line: None, steps=30)
    assert torch.equal(whole.A, second.A)
    for name, array in whole.state().items():
        assert np.array_equal(array, second.state()[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path, number):
    class Signalling(Separable):
        passes = 0

        def forward(self, z):
            Signalling.passes += torch.is_grad_enabled()
            if Signalling.passes == 4 * 5 + 1:
                os.kill(os.getpid(), number)
            return super().forward(z)

    ours = start(Signalling(3), batch_size=8, microbatch=8)
    with pytest.raises(Interrupted) as stopped:
        discovery.discover(ours, str(tmp_path), lambda line: None, steps=100)
    path = discovery.A_path(str(tmp_path), ours.steps)
    assert stopped.value.exit_status == 128 + number and ours.steps in (6, 7)
    assert str(stopped.value) == f"stopped by signal {int(number)} after step {ours.steps}; saved {path}"
    assert torch.equal(torch.load(path, weights_only=True), ours.A.detach())
    assert discovery.saved_state(str(tmp_path), 3)[1] == ours.steps


def test_states_of_other_runs_are_refused(tmp_path):
    discovery.save(str(tmp_path), start(Separable(4), batch_size=8))
    path = str(tmp_path / "state.safetensors")
    with pytest.raises(SnapshotError, match=f"{path}: not the state of a discovery of directions 5 wide"):
        discovery.saved_state(str(tmp_path), 5)
    with open(path, "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(SnapshotError, match=path):
        discovery.saved_state(str(tmp_path), 4)


def test_directions_survive_without_the_state(tmp_path):
    """A_NNNNNN.pt is what a user takes away: another command reads it."""
    ours = start(Separable(6), ndirs=2, search="coarse", batch_size=8)
    path = discovery.discover(ours, str(tmp_path), lambda line: None, steps=3)
    A = directions.load(path, ours.space)
    assert torch.equal(directions.rows(A, ours.space), ours.Q().detach())
