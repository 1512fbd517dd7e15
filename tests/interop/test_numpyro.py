"""NumPyro models and guides as programs and SVI losses, against exact evidence lower bounds."""

import itertools

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer import SVI
from numpyro.primitives import mutable

import bayesft as bft
from bayesft.base import Claim, PathwiseEstimator
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.interop import plates, sites
from bayesft.interop.numpyro import loss, parameters, program
from bayesft.testing import assert_unbiased

E = bft.estimators
DATA = jnp.array([0.2, 1.8, 2.2])
NUM_RUNS = 20_000
LOG_2PI = jnp.log(2 * jnp.pi)


def normal_cost(x, mean, variance=0.0):
    """−E log N(x; m, 1) over m of this mean and variance."""
    return 0.5 * ((x - mean) ** 2 + variance + LOG_2PI)


def bernoulli_cost(probability, cost):
    """E[cost(z)] + E[log q(z)] for z ~ q = Bernoulli(probability)."""
    both = [(1.0, probability), (0.0, 1 - probability)]
    return sum(q * (jnp.log(q) + cost(z)) for z, q in both)


# ---- a mixture: a global site and a discrete site in a plate ------------------------------------


def mixture(data):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(w + 2.0 * z, 1.0), obs=data)


def mixture_guide(estimator):
    def guide(data):
        mean = numpyro.param("mean", 0.3)
        scale = numpyro.param("scale", 0.5, constraint=dist.constraints.positive)
        logits = numpyro.param("logits", jnp.array([0.1, -0.3, 0.5]))
        numpyro.sample("w", dist.Normal(mean, scale))
        with numpyro.plate("n", 3):
            numpyro.sample("z", dist.Bernoulli(logits=logits), infer={"estimator": estimator})

    return guide


def mixture_elbo(params):
    m, s = params["mean"], params["scale"]
    prior = jnp.log(jnp.array([0.6, 0.4]))
    total = -jnp.log(s) + (s**2 + m**2 - 1) / 2
    for x, q in zip(DATA, jax.nn.sigmoid(params["logits"]), strict=True):
        total += bernoulli_cost(q, lambda z, x=x: normal_cost(x, m + 2 * z, s**2) - prior[int(z)])
    return total


def check(run, params, args, expected, *, estimator=None, resolution=0.2):
    """Value and gradient of a program against a differentiable exact expectation."""
    expectation = bft.expectation(run, estimator=estimator, require="unbiased")
    keys = jax.random.split(jax.random.key(0), NUM_RUNS)
    found = jax.jit(jax.vmap(lambda key: expectation.value_and_grad(key, params, *args)))(keys)
    exact = jax.jit(jax.value_and_grad(expected))(params)
    for samples, truth in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert_unbiased(samples, truth, family=16, resolution=resolution)
    return found


def test_svi_steps_along_the_gradient():
    guide = mixture_guide(None)
    svi = SVI(mixture, guide, optax.sgd(1.0), loss(estimator=E.leave_one_out(4)))
    state = svi.init(jax.random.key(0), DATA)
    first = svi.optim.get_params(state.optim_state)

    def step(key):
        after, value = svi.update(state._replace(rng_key=key), DATA)
        return value, jax.tree.map(jnp.subtract, first, svi.optim.get_params(after.optim_state))

    keys = jax.random.split(jax.random.key(1), NUM_RUNS)
    found = jax.jit(jax.vmap(step))(keys)
    exact = jax.jit(jax.value_and_grad(lambda u: mixture_elbo(svi.constrain_fn(u))))(first)
    for samples, truth in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert_unbiased(samples, truth, family=16, resolution=0.2)


# ---- credit by place in a plate -----------------------------------------------------------------


def rows_model(data):
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=data)


def rows_guide(data):
    logits = numpyro.param("logits", jnp.zeros(3))
    with numpyro.plate("n", 3):
        numpyro.sample("z", dist.Bernoulli(logits=logits))


def rows_elbo(params):
    total = 0.0
    for x, q in zip(DATA, jax.nn.sigmoid(params["logits"]), strict=True):
        total += bernoulli_cost(
            q, lambda z, x=x: normal_cost(x, 2 * z) - jnp.log(0.4 if z else 0.6)
        )
    return total


class Forgetful(PathwiseEstimator):
    """The famous defect: a discrete sample taken for a differentiable one."""

    claim = Claim("unbiased")

    def sample(self, name, distribution, key):
        return distribution.sample(key)


def test_an_element_of_a_plate_is_credited_with_its_own_costs():
    params, run = {"logits": jnp.array([0.1, -0.3, 0.5])}, program(rows_model, rows_guide)
    _, local = check(run, params, (DATA,), rows_elbo, estimator=E.leave_one_out(4))
    whole = program(rows_model, rows_guide, bft.objectives.reverse_kl)
    _, total = check(whole, params, (DATA,), rows_elbo, estimator=E.leave_one_out(4))
    # The noise of the other rows does not enter a row's gradient.
    assert local["logits"].var(0).sum() < 0.7 * total["logits"].var(0).sum()
    with pytest.raises(AssertionError, match="means are wrong"):
        check(run, params, (DATA,), rows_elbo, estimator=Forgetful(), resolution=None)


# ---- subsampled rows, masks, scales and factors -------------------------------------------------

SEEN, MASK = jnp.array([True, True, False, True]), jnp.array([True, False, True, True])
ROWS = jnp.array([0.4, 1.2, -0.5, 2.0])


def partial_model(data, estimator):
    with numpyro.plate("n", 4, subsample_size=2) as rows:
        with handlers.scale(scale=0.7):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(1.5 * z, 1.0).mask(SEEN[rows]), obs=data[rows])
        numpyro.factor("f", 0.3 * z)


def partial_guide(data, estimator):
    logits = numpyro.param("logits", jnp.zeros(4))
    with numpyro.plate("n", 4, subsample_size=2) as rows, handlers.mask(mask=MASK[rows]):
        site = dist.Bernoulli(logits=logits[rows])
        numpyro.sample("z", site, infer={"estimator": estimator})


def partial_elbo(params):
    total = 0.0
    prior = jnp.log(jnp.array([0.7, 0.3]))
    for i, q in enumerate(jax.nn.sigmoid(params["logits"])):
        for z, weight in ((1.0, q), (0.0, 1 - q)):
            cost = MASK[i] * jnp.log(weight) - 0.7 * prior[int(z)] - 0.3 * z
            total += weight * (cost + SEEN[i] * normal_cost(ROWS[i], 1.5 * z))
    return total


PARTIAL = {"logits": jnp.array([0.3, -0.6, 0.2, 0.8])}


def test_rows_masks_scales_and_factors_count_as_in_numpyro():
    run = program(partial_model, partial_guide)
    check(run, PARTIAL, (ROWS, E.score_function(2.0)), partial_elbo, resolution=0.4)


def test_the_score_of_a_masked_site_is_noticed_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(sites, "_unmasked", lambda name, fn: (fn, None))
    with pytest.raises(ChoiceError, match="'z' is drawn from a masked"):
        run = program(partial_model, partial_guide)
        check(run, PARTIAL, (ROWS, E.score_function(2.0)), partial_elbo, resolution=None)


def test_rows_are_not_subsampled_under_an_objective():
    run = program(partial_model, partial_guide, bft.objectives.iwae(2))
    with pytest.raises(ChoiceError, match=r"\['n'\] are subsampled"):
        bft.expectation(run).estimate(jax.random.key(0), PARTIAL, ROWS, E.score_function())


# ---- a global site drawn after a plate: costs depend on every element ---------------------------


def late_model(data, _):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(w * (1 + z), 1.0), obs=data)


def late_guide(data, estimator):
    logits, slope = numpyro.param("logits", jnp.zeros(3)), numpyro.param("slope", 1.0)
    with numpyro.plate("n", 3):
        z = numpyro.sample("z", dist.Bernoulli(logits=logits), infer={"estimator": estimator})
    numpyro.sample("w", dist.Normal(slope * z.sum(), 0.5))


def late_elbo(params):
    total = 0.0
    q = jax.nn.sigmoid(params["logits"])
    for values in itertools.product((0.0, 1.0), repeat=3):
        z = jnp.array(values)
        weights = jnp.where(z == 1, q, 1 - q)
        mean = params["slope"] * z.sum()
        cost = jnp.log(weights / 0.5).sum() - jnp.log(0.5) + (0.25 + mean**2 - 1) / 2
        cost += normal_cost(DATA, mean * (1 + z), 0.25 * (1 + z) ** 2).sum()
        total += weights.prod() * cost
    return total


LATE = {"logits": jnp.array([0.3, -0.6, 0.2]), "slope": 0.4}


def test_what_is_drawn_outside_a_plate_shares_its_costs():
    run = program(late_model, late_guide)
    check(run, LATE, (DATA, E.score_function(8.0)), late_elbo, resolution=1.0)


def test_local_credit_is_noticed_where_it_is_wrong(monkeypatch):
    monkeypatch.setattr(plates, "_local_frames", lambda sites: set(sites[0].frames))
    with pytest.raises(AssertionError, match="means are wrong"):
        run = program(late_model, late_guide)
        check(run, LATE, (DATA, E.score_function(8.0)), late_elbo, resolution=None)


# ---- several estimators, objectives of several samples, automatic guides ------------------------


def coins(data):
    a = numpyro.sample("a", dist.Bernoulli(0.4))
    b = numpyro.sample("b", dist.Categorical(probs=jnp.array([0.2, 0.3, 0.5])))
    numpyro.sample("x", dist.Normal(a + 0.5 * b, 1.0), obs=data)


def coins_guide(data):
    logits = numpyro.param("logits", jnp.array([0.5, -0.2, 0.3]))
    a = numpyro.sample("a", dist.Bernoulli(logits=logits[0]), infer={"estimator": E.enumerate()})
    numpyro.sample("b", dist.Categorical(logits=logits * (1 + a)))


def coins_tables(params):
    """Joint log-densities of guide and model, [2, 3]."""
    l = params["logits"]
    log_a = jnp.stack([jax.nn.log_sigmoid(-l[0]), jax.nn.log_sigmoid(l[0])])
    log_q = log_a[:, None] + jax.nn.log_softmax(jnp.stack([l, 2 * l]), 1)
    prior = jnp.log(jnp.array([0.6, 0.4]))[:, None] + jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
    mean = jnp.arange(2.0)[:, None] + 0.5 * jnp.arange(3.0)[None]
    return log_q, prior - normal_cost(0.7, mean)


def test_enumerated_sites_are_exact():
    """At a logit of 0 as well, where a Bernoulli's log-prob takes |logit|."""
    params = {"logits": jnp.array([0.0, -0.2, 0.3])}
    run = bft.expectation(program(coins, coins_guide), estimator=E.enumerate(), require="exact")
    found = jax.jit(run.value_and_grad)(jax.random.key(0), params, 0.7)

    def elbo(params):
        log_q, log_p = coins_tables(params)
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    exact = jax.jit(jax.value_and_grad(elbo))(params)
    assert jnp.allclose(found[1]["logits"], exact[1]["logits"], atol=1e-5)
    assert jnp.allclose(found[0], exact[0], atol=1e-5)


def test_any_objective_is_a_program():
    params = {"logits": jnp.array([0.5, -0.2, 0.3])}

    def guide(data):
        with handlers.infer_config(config_fn=lambda site: {"estimator": E.vimco()}):
            coins_guide(data)

    def bound(params):
        log_q, log_p = (table.ravel() for table in coins_tables(params))
        log_w = log_p - log_q
        pairs = jnp.logaddexp(log_w[:, None], log_w[None, :]) - jnp.log(2.0)
        return -jnp.sum(jnp.exp(log_q[:, None] + log_q[None, :]) * pairs)

    run = program(coins, guide, bft.objectives.iwae(2))
    check(run, params, (0.7,), bound)


def auxiliary_model(data):
    w = numpyro.sample("w", dist.LogNormal(0.0, 1.0).expand([1]).to_event(1))
    numpyro.sample("x", dist.Normal(w[0], 1.0), obs=data)


class OneWay(dist.transforms.AffineTransform):
    """A flow without an inverse, such as AutoBNAFNormal's."""

    def _inverse(self, y):
        raise NotImplementedError


def auxiliary_guide(data):
    mean = numpyro.param("mean", 0.0)
    flow = dist.TransformedDistribution(dist.Normal(0.0, 1.0), OneWay(mean, 0.4))
    helper = {"is_auxiliary": True, "estimator": E.reparameterize()}
    u = numpyro.sample("u", flow, infer=helper)
    numpyro.sample("w", dist.Delta(jnp.exp(u), log_density=-u).expand([1]).to_event(1))


def auxiliary_elbo(params):
    """E of log q(u) − u − log p(e^u), and of the squared error of a log-normal mean."""
    m, v = params["mean"], 0.16
    log_q = -0.5 * (1 + jnp.log(2 * jnp.pi * v)) - m
    log_prior = -0.5 * (m**2 + v + LOG_2PI) - m
    first, second = jnp.exp(m + v / 2), jnp.exp(2 * m + 2 * v)
    return log_q - log_prior + 0.5 * (0.7**2 - 2 * 0.7 * first + second + LOG_2PI)


def test_an_auxiliary_site_and_its_delta_make_the_density():
    """As NumPyro's automatic guides do; the default estimator is not for a Delta, which has no
    score."""
    run = program(auxiliary_model, auxiliary_guide)
    check(run, {"mean": 0.2}, (0.7,), auxiliary_elbo, estimator=E.score_function(), resolution=0.3)


# ---- numpyro's control flow ---------------------------------------------------------------------


def chain_guide():
    means = numpyro.param("means", jnp.zeros(3))
    with numpyro.plate("t", 3):
        numpyro.sample("z", dist.Normal(means, 0.5))


def chain_by_scan():
    def step(carry, x):
        z = numpyro.sample("z", dist.Normal(carry, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
        return z, None

    scan(step, 0.0, DATA)


def chain_by_hand():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(3), 1.0).mask(False))
    before = jnp.concatenate([jnp.zeros(1), z[:-1]])
    numpyro.factor("prior", dist.Normal(before, 1.0).log_prob(z))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=DATA)


def branch_guide():
    numpyro.sample("z", dist.Normal(numpyro.param("mean", 0.3), 0.5))


def branch_by_cond():
    def far():
        z = numpyro.sample("z", dist.Normal(1.0, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=DATA)

    cond(DATA[0] > 0, lambda _: far(), lambda _: far(), None)


def branch_by_hand():
    z = numpyro.sample("z", dist.Normal(1.0, 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=DATA)


@pytest.mark.parametrize(
    ("kept", "by_hand", "guide", "params"),
    [
        (chain_by_scan, chain_by_hand, chain_guide, {"means": jnp.array([0.1, 0.5, 0.9])}),
        (branch_by_cond, branch_by_hand, branch_guide, {"mean": 0.3}),
    ],
)
def test_control_flow_of_a_model_keeps_its_meaning(kept, by_hand, guide, params):
    def found(model):
        run = bft.expectation(program(model, guide))
        return jax.jit(run.value_and_grad)(jax.random.key(0), params)

    close = jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-5), found(kept), found(by_hand))
    assert all(jax.tree.leaves(close))


# ---- refusals -----------------------------------------------------------------------------------


def bernoulli_guide(**infer):
    return lambda: numpyro.sample("z", dist.Bernoulli(0.5), infer=infer)


def normal_site(name="z", fn=None):
    return lambda: numpyro.sample(name, fn or dist.Normal(0.0, 1.0))


def drawing_scan():
    scan(lambda c, _: (numpyro.sample("z", dist.Normal(c, 1.0)), None), 0.0, None, length=3)


def masked_inside():
    fn = dist.Normal(jnp.zeros(2), 1.0).mask(jnp.array([True, False])).to_event(1)
    return numpyro.sample("z", fn)


REFUSED = {
    "no estimator": (
        normal_site(),
        bernoulli_guide(),
        EstimatorError,
        r"'z' \(BernoulliProbs\) has no estimator(.|\n)*infer=",
    ),
    "numpyro's enumeration": (
        normal_site(),
        bernoulli_guide(enumerate="parallel"),
        EstimatorError,
        "TraceEnum_ELBO",
    ),
    "a string": (normal_site(), bernoulli_guide(estimator="rloo"), EstimatorError, "rloo"),
    "a pathwise gradient of a discrete site": (
        normal_site(),
        bernoulli_guide(estimator=E.reparameterize()),
        EstimatorError,
        "no reparameterised",
    ),
    "draws in a scan": (
        normal_site(),
        drawing_scan,
        ChoiceError,
        "guide is drawn inside numpyro's scan",
    ),
    "a latent of a scan": (
        drawing_scan,
        normal_site("y"),
        ChoiceError,
        "model is drawn inside numpyro's scan",
    ),
    "a latent that is missing": (
        normal_site("y"),
        normal_site(),
        ChoiceError,
        "latent site 'y', and no value",
    ),
    "a site too many": (lambda: None, normal_site(), ChoiceError, r"sites \['z'\], which the"),
    "another shape": (
        normal_site(fn=dist.Normal(jnp.zeros(2), 1.0)),
        normal_site(),
        ChoiceError,
        r"shape \(\) in the guide and \(2,\)",
    ),
    "a param": (
        normal_site(),
        lambda: numpyro.param("a", 1.0),
        ChoiceError,
        r"param 'a', which is not among \[\]",
    ),
    "a state": (
        normal_site(),
        lambda: mutable("a", 1.0),
        ChoiceError,
        "numpyro mutable site 'a'",
    ),
    "a hidden site": (
        normal_site(),
        handlers.block(normal_site()),
        ChoiceError,
        "under numpyro.handlers.block",
    ),
    "a mask inside": (masked_inside, masked_inside, ChoiceError, "mask under to_event"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case):
    model, guide, error, match = REFUSED[case]
    with pytest.raises(error, match=match):
        bft.expectation(program(model, guide)).estimate(jax.random.key(0), {})


def test_a_stateful_guide_has_no_loss():
    svi = SVI(normal_site(), lambda: mutable("a", 1.0), optax.sgd(1.0), loss())
    state = svi.init(jax.random.key(0))
    with pytest.raises(ChoiceError, match="with mutable sites"):
        svi.update(state)


def test_parameters_are_what_svi_starts_from():
    free, constrain = parameters(jax.random.key(0), mixture, mixture_guide(None), DATA)
    svi = SVI(mixture, mixture_guide(None), optax.sgd(1.0), loss(estimator=E.leave_one_out(4)))
    theirs = svi.optim.get_params(svi.init(jax.random.key(0), DATA).optim_state)
    assert jax.tree.all(jax.tree.map(jnp.allclose, free, theirs))
    assert jnp.allclose(constrain(free)["scale"], 0.5) and free["scale"] < 0


def test_random_keys_are_choices():
    def guide():
        noise = jax.random.normal(numpyro.prng_key())
        numpyro.sample("z", dist.Delta(noise))

    run = bft.expectation(program(normal_site(), guide))
    one, two = jax.jit(jax.vmap(lambda key: run.estimate(key, {})))(
        jax.random.split(jax.random.key(0))
    )
    assert one != two
