"""How exactly the penalty is estimated from 48 passes: by k, and with orthogonal vectors of signs.

    python benchmarks/estimator_variance.py [--bundled]

Numbers are relative standard deviations in percent, of the estimate from DRAWS = 24 vectors, two passes each: 12
unbiased variances of k = 2 vectors, 8 of 3, 6 of 4, or 3 of 8; beside each its ratio to the baseline, k = 2 independent
vectors. "One point": all of them at one z. "A sample each": every variance at a z of its own, so that a smaller k sees
more samples, as in training with a batch that makes up for it. "Hadamard": the k vectors are rows of a Hadamard matrix,
its columns' signs flipped at random, so that each is as random as before and they are orthogonal to each other. The
variance of such vectors comes out n / (n − 1) times too large, which is corrected here.

The penalty is the mean over the elements of: (a) one quadratic form with a random symmetric matrix, the same for all
samples (so there is only one point), averaged over 20 matrices; (b) the 48 outputs of a leaky-ReLU network of random
weights; (c) with --bundled, the images of the generator that ships with the project. All columns have the same points.
"""

import argparse

import torch

from hessian_penalty_pytorch import hessian_penalty

DRAWS, COUNTS = 24, (2, 3, 4, 8)
DIMENSIONS = (8, 16, 32, 128)
MATRICES, POINTS, REPEATS = 20, 400, 32  # REPEATS: variances of each kind at each point
BUNDLED_POINTS, BUNDLED_REPEATS = 48, 6
SEED = 0


# ----------------------------------------------------------------------------------------------------------------------
# Vectors of signs


def independent(k, count, n, generator):
    """[k, count, n] of ±1."""
    return torch.randint(2, [k, count, n], generator=generator).float() * 2 - 1


def orthogonal(k, count, n, generator):
    """[k, count, n] of ±1: for each of `count`, k rows of a Hadamard matrix with the signs of its columns flipped."""
    rows = torch.rand(count, n, generator=generator).argsort(1)[:, :k]
    return (hadamard(n)[rows] * independent(1, count, n, generator)[0][:, None]).transpose(0, 1)


def hadamard(n):
    """[n, n] of ±1 with orthogonal rows, by Sylvester's doubling of orders 1 and (Paley's) 12."""
    if n == 12:
        squares = {i * i % 11 for i in range(1, 11)}
        core = torch.tensor([[1.0 if (j - i) % 11 in squares else -1.0 for j in range(11)] for i in range(11)])
        ones = torch.ones(11, 1)
        return torch.cat([torch.ones(1, 12), torch.cat([ones, core], 1)])
    if n == 1:
        return torch.ones(1, 1)
    half = hadamard(n // 2)
    return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)])


# ----------------------------------------------------------------------------------------------------------------------
# What is estimated


def estimates(G, z, k, draw, generator):
    """[N] penalties, one for each sample, averaged over the elements of G's output."""
    directions = draw(k, *z.shape, generator)
    values = hessian_penalty(G, z, k, directions=directions, reduction=lambda penalty: penalty.flatten(1).mean(1))
    n = z.shape[1]
    return values * ((n - 1) / n if draw is orthogonal else 1)


def quadratic(n, generator):
    """z -> z'Hz / 2 in float64."""
    H = torch.randn(n, n, generator=generator, dtype=torch.float64)
    H = H + H.T
    return lambda z: ((z.double() @ H) * z.double()).sum(1, keepdim=True) / 2


def leaky_network(n, generator):
    layers = [torch.randn(a, b, generator=generator) * (2 / a) ** 0.5 for a, b in ((n, 64), (64, 64), (64, 48))]

    def network(z):
        for layer in layers[:-1]:
            z = torch.nn.functional.leaky_relu(z @ layer, 0.2)
        return z @ layers[-1]

    return network


def bundled():
    """(dim_z, G) of the bundled generator, whose classes take turns in a batch."""
    from biggan.weights import load_generator

    G = load_generator("clevr_simple_32", device="cpu")
    return G.dim_z, lambda z: G(z, torch.arange(len(z)) % G.num_classes)


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def deviations(networks, n, points, repeats, generator):
    """Return {column: (percent at one point, percent with a sample each)}, at `points` of each of the networks."""
    found, z = {}, torch.randn(points, n, generator=generator)
    for name, draw in (("", independent), ("Hadamard ", orthogonal)):
        for k in COUNTS:
            variances = []  # of one estimate over its mean squared: at one point, and from point to point
            for G in networks:
                rows = [estimates(G, z, k, draw, generator).double() for _ in range(repeats)]
                values = torch.stack(rows, 1)  # [points, repeats]
                variances.append(torch.stack([values.var(1).mean(), values.var()]) / values.mean() ** 2)
            of_all_draws = torch.stack(variances).mean(0) * k / DRAWS
            found[f"{name}{k}"] = (100 * of_all_draws.sqrt()).tolist()
    return found


def print_rows(title, found, which):
    base = found["2"][which]
    cells = "".join(f"{value[which]:7.1f} {value[which] / base:4.2f}" for value in found.values())
    print(f"{title:40}{cells}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundled", action="store_true", help="the bundled generator too: a minute or two more")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    print(f"PyTorch {torch.__version__}; percent, and the ratio to k = 2")
    print(f"{'':40}{'independent vectors':^48}{'Hadamard':^48}")
    print(f"{'':40}" + "".join(f"{f'k = {k}':>12}" for k in 2 * COUNTS))
    with torch.no_grad():
        for n in DIMENSIONS:
            forms = [quadratic(n, generator) for _ in range(MATRICES)]
            print_rows(f"(a) quadratic, n = {n}", deviations(forms, n, POINTS, REPEATS // 4, generator), 0)
        tables = {f"(b) leaky ReLU, n = {n}": ([leaky_network(n, generator)], n, POINTS, REPEATS) for n in DIMENSIONS}
        if chosen.bundled:
            n, G = bundled()
            tables[f"(c) bundled generator, n = {n}"] = ([G], n, BUNDLED_POINTS, BUNDLED_REPEATS)
        for title, arguments in tables.items():
            found = deviations(*arguments, generator)
            print_rows(f"{title}, one point", found, 0)
            print_rows(f"{title}, a sample each", found, 1)


if __name__ == "__main__":
    main()
