"""What benchmarks/penalty.py measures in JAX: the definition written out, the network, one step under jit."""

import jax
import jax.numpy as jnp
import numpy as np
from measure import in_turns, timed

from hessian_penalty_jax import hessian_penalty

EPSILON, SEED, DIM_Z = 0.1, 0, 100
REDUCTIONS = {"max": jnp.max, "mean": jnp.mean}


def definition(G, z, k, reduction, directions, G_z=None):
    """Equation 5 as it stands: second differences around G(z), their unbiased variance, the reduction."""
    centre = G(z) if G_z is None else G_z
    differences = []
    for v in directions:
        plus, minus = G(z + EPSILON * v), G(z - EPSILON * v)
        differences.append((plus - 2 * centre + minus) / EPSILON**2)
    return reduction(jnp.var(jnp.stack(differences), axis=0, ddof=1))


def initial(width, draws):
    """Weights and biases of the generator of DCGAN at 64 px, normalisation folded into weights that keep variances."""
    widths, layers = [DIM_Z, 8 * width, 4 * width, 2 * width, width, 3], []
    for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        taps = inputs * (1 if layer == 0 else 4)  # that one output sums
        shape = (inputs, 16 * outputs) if layer == 0 else (4, 4, inputs, outputs)
        layers.append((draws.normal(0, (2 / taps) ** 0.5, shape), np.zeros(outputs)))
    return layers


def dcgan(layers, z):
    """The generator of DCGAN (Radford et al. 2016): z [N, 100] -> images [N, 64, 64, 3]."""
    (weight, bias), *others = layers
    x = (z @ weight).reshape(len(z), 4, 4, len(bias)) + bias
    for weight, bias in others:
        x = jax.lax.conv_transpose(jax.nn.leaky_relu(x, 0.2), weight, (2, 2), "SAME") + bias
    return jnp.tanh(x)


def problem(network, k, dtype):
    """Return the layers, z [N, 100] and the directions [k, N, 100]."""
    _, width, batch_size = network
    draws = np.random.RandomState(SEED)
    parts = (
        initial(width, draws),
        draws.normal(size=(batch_size, DIM_Z)),
        2 * draws.randint(0, 2, (k, batch_size, DIM_Z)) - 1,
    )
    return jax.tree.map(lambda part: jnp.asarray(part, dtype), parts)


def step(k, reduction, options):
    """Return a compiled function of `problem`: the gradient of the definition (options None) or of ours."""

    def penalty(layers, z, directions):
        def G(z):
            return dcgan(layers, z)

        if options is None:
            return definition(G, z, k, REDUCTIONS[reduction], directions)
        return hessian_penalty(G, z, k, EPSILON, REDUCTIONS[reduction], directions=directions, **options)

    return jax.jit(jax.grad(penalty))


def flat(gradients):
    return np.concatenate([np.asarray(gradient, np.float64).ravel() for gradient in jax.tree.leaves(gradients)])


def times_and_errors(network, k, reduction, centre, options, turns):
    """As in penalty_pytorch.py."""
    with jax.enable_x64(True):
        truth = flat(step(k, reduction, None)(*problem(network, k, jnp.float64)))
    given = problem(network, k, jnp.float32)
    compiled = {name: step(k, reduction, each) for name, each in options.items()}
    steps = {name: lambda run=run: jax.block_until_ready(run(*given)) for name, run in compiled.items()}
    first = {name: timed(run) for name, run in steps.items()}
    errors = {name: np.linalg.norm(flat(run()) - truth) / np.linalg.norm(truth) for name, run in steps.items()}
    seconds = in_turns(steps, turns)
    return {name: (seconds[name], float(errors[name]), first[name]) for name in steps}


def peak_memory(network, k, reduction, centre, options):
    """Return the bytes that the compiled step takes beside its arguments and results: XLA plans all of it ahead."""
    compiled = step(k, reduction, options).lower(*problem(network, k, jnp.float32)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def versions():
    return f"JAX {jax.__version__}"
