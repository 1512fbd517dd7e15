"""Distributions and bijectors of TensorFlow Probability, against enumeration and closed forms."""

import sys

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.errors import ChoiceError, EstimatorError, InteropError
from bayesft.interop.tfp import distribution, transform
from bayesft.testing import assert_unbiased

tfp = pytest.importorskip("tensorflow_probability.substrates.jax")
tfb, tfd = tfp.bijectors, tfp.distributions
E = bft.estimators
pytestmark = [  # TFP's own
    pytest.mark.filterwarnings("ignore:shape requires ndarray or scalar:DeprecationWarning")
]


@pytest.fixture(autouse=True)
def as_users_run_it():
    """TFP promotes ranks, and its rejection samplers hand keys on in a way the check refuses."""
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


# ---- distributions ------------------------------------------------------------------------------

CIRCLE = jnp.linspace(-jnp.pi, jnp.pi, 513)[:-1]
LOGITS = jnp.array([0.4, -0.6, 0.1])


def periodic(x, theta):
    return jnp.cos(x - 0.5) + theta[1] * jnp.sin(2 * x)


def circular(theta):
    density = jnp.exp(tfd.VonMises(*theta).log_prob(CIRCLE))
    return jnp.sum(density * periodic(CIRCLE, theta)) * 2 * jnp.pi / 512


def sample(run, theta, num_runs=20_000):
    keys = jax.random.split(jax.random.key(0), num_runs)
    return jax.jit(jax.vmap(lambda key: run.value_and_grad(key, theta)))(keys)


def test_von_mises_is_reparameterised():
    theta = jnp.array([0.3, 1.5])
    exact = jax.value_and_grad(circular)(theta)

    @bft.expectation(estimator=E.reparameterize(), require="unbiased")
    def run(theta):
        return periodic(bft.draw("x", tfd.VonMises(*theta)), theta)

    @bft.expectation(estimator=E.reparameterize())
    def broken(theta):  # the sampler's own path, without the implicit derivative
        x = jax.lax.stop_gradient(tfd.VonMises(0.0, theta[1]).sample(seed=bft.draw("key", Key())))
        return periodic(theta[0] + x, theta)

    for samples, truth in zip(sample(run, theta), exact, strict=True):
        assert_unbiased(samples, truth, family=2, resolution=0.2)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(sample(broken, theta)[1], exact[1])


class Key:
    has_rsample = True

    def sample(self, key):
        return key


FINITE = {
    "bernoulli": (lambda t: tfd.Bernoulli(logits=t[0]), 1.0),
    "categorical": (lambda t: tfd.Categorical(logits=t), 1.0),
    "categorical of probs": (lambda t: tfd.Categorical(probs=jax.nn.softmax(t)), 1.0),
    "one-hot": (lambda t: tfd.OneHotCategorical(logits=t), jnp.arange(3.0)),
    "outcomes": (lambda t: tfd.FiniteDiscrete(jnp.array([0.0, 1.0, 2.0]), logits=t), 1.0),
}


@pytest.mark.parametrize("name", FINITE)
def test_finite_distributions_are_enumerated(name):
    make, scale = FINITE[name]

    @bft.expectation(estimator=E.enumerate(), require="exact")
    def run(theta):
        x = jnp.sum(bft.draw("x", make(theta)) * scale)
        return jnp.sin(1.5 * x + theta[0])

    def exact(theta):
        probs = jax.nn.softmax(theta)
        if name == "bernoulli":
            probs = jax.nn.sigmoid(jnp.array([-theta[0], theta[0]]))
        return probs @ jnp.sin(1.5 * jnp.arange(len(probs)) + theta[0])

    found = jax.jit(run.value_and_grad)(jax.random.key(0), LOGITS)
    for one, other in zip(found, jax.value_and_grad(exact)(LOGITS), strict=True):
        assert jnp.allclose(one, other, atol=1e-5)


def test_a_batch_and_a_joint_distribution_are_choices():
    """Three coins by their scores, and a joint distribution by its path."""

    @bft.expectation
    def run(theta):
        coins = bft.draw("coins", tfd.Bernoulli(logits=theta), E.leave_one_out(3))
        parts = {"a": tfd.Normal(theta[0], 1.0), "b": tfd.Gamma(3.0, 2.0)}
        joint = bft.draw("joint", tfd.JointDistributionNamed(parts), E.reparameterize())
        return jnp.sum(coins) + joint["a"] ** 2 * joint["b"]

    def exact(theta):
        return jax.nn.sigmoid(theta).sum() + (theta[0] ** 2 + 1) * 1.5

    truths = jax.value_and_grad(exact)(LOGITS)
    for samples, truth in zip(sample(run, LOGITS), truths, strict=True):
        assert_unbiased(samples, truth, family=2, resolution=0.3)


def test_a_model_of_them_has_a_density():
    def program(theta):
        x = bft.draw("x", tfd.Normal(theta, 1.0))
        bft.draw("y", tfd.Bernoulli(logits=x))

    found = bft.model(program)(0.3).log_density({"x": 0.7, "y": 1})
    expected = dist.Normal(0.3, 1.0).log_prob(0.7) + dist.BernoulliLogits(0.7).log_prob(1)
    assert jnp.allclose(found, expected, atol=1e-6)


def test_one_of_them_is_a_proposal():
    proposal = distribution(tfd.Normal(0.5, 1.5))
    run = bft.expectation(
        lambda m: bft.draw("x", dist.Normal(m, 1.0), E.importance(proposal, 4)) ** 2
    )
    values, gradients = sample(run, 0.7)
    assert_unbiased(values, 1 + 0.7**2, family=2, resolution=0.2)
    assert_unbiased(gradients, 2 * 0.7, family=2, resolution=0.2)


@pytest.mark.parametrize(
    ("d", "estimator", "match"),
    [
        (tfd.Poisson(2.0), E.reparameterize(), "'x' from Poisson has no reparam"),
        (tfd.Poisson(2.0), E.enumerate(), "Poisson at 'x' has no finite support"),
        (dist.VonMises(0.0, 1.0), E.reparameterize(), r"tfp.distributions.VonMises(.|\n)*\[tfp\]"),
    ],
)
def test_an_estimator_that_does_not_apply_is_refused(d, estimator, match):
    run = bft.expectation(lambda: bft.draw("x", d, estimator))
    with pytest.raises(EstimatorError, match=match):
        run.estimate(jax.random.key(0))


def test_another_backend_is_refused():
    class Normal:
        reparameterization_type = None

    run = bft.expectation(lambda: bft.draw("x", Normal(), E.reparameterize()))
    with pytest.raises(ChoiceError, match="another backend"):
        run.estimate(jax.random.key(0))
    with pytest.raises(InteropError, match="no distribution of TFP"):
        distribution(tfd.Normal)


# ---- bijectors ----------------------------------------------------------------------------------


def half(x, _):
    return jnp.tanh(x), 0.3 * x


BIJECTORS = {  # and a value that they map
    "exp": (tfb.Exp(), jnp.array([0.3, -1.0])),
    "a constant": (tfb.Scale(2.0), jnp.array([0.3, -1.0])),
    "a constant in a chain": (tfb.Chain([tfb.Shift(1.0), tfb.Scale(-2.0)]), jnp.array([0.3, -1.0])),
    "a batch of scales": (tfb.Scale(jnp.array([2.0, 3.0])), jnp.array([0.3, -1.0])),
    "a matrix": (
        tfb.ScaleMatvecTriL(jnp.array([[2.0, 0.0], [0.5, 1.5]])),
        jnp.array([[0.3, -1.0], [0.1, 0.2]]),
    ),
    "an inverse": (tfb.Invert(tfb.Softplus()), jnp.array([0.3, 2.0])),
    "a flow": (tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=half), jnp.array([[0.3, -1.0]])),
}


def dense_log_det(bijector, x, event_dim):
    """log |det ∂b/∂x| of each event by automatic differentiation."""
    batch = x.reshape(-1, *x.shape[x.ndim - event_dim :])

    def one(event):
        jacobian = jax.jacobian(lambda e: bijector.forward(e).ravel())(event)
        return jnp.linalg.slogdet(jacobian.reshape(event.size, event.size))[1]

    return jax.vmap(one)(batch).reshape(x.shape[: x.ndim - event_dim])


@pytest.mark.parametrize("name", BIJECTORS)
def test_log_determinants_are_those_of_the_jacobian(name):
    bijector, x = BIJECTORS[name]
    t = transform(bijector)
    y = t(x)
    assert jnp.allclose(t.inv(y), x, atol=1e-5) and t.codomain(y).all() and t.domain(x).all()
    assert t.forward_shape(x.shape) == y.shape and t.inverse_shape(y.shape) == x.shape
    found = t.log_abs_det_jacobian(x, y)
    if name == "a batch of scales":
        expected = jnp.log(jnp.array([2.0, 3.0]))
    else:
        expected = dense_log_det(bijector, x, t.domain.event_dim)
    assert found.shape == expected.shape and jnp.allclose(found, expected, atol=1e-5)


def test_a_transformed_distribution_is_that_of_tfp():
    """Also where a bijector changes the rank, and where TFP's determinant is one constant."""
    flat = jnp.array([0.3, -0.2, 0.5])
    for bijector in (tfb.FillScaleTriL(), tfb.Scale(2.0)):
        base = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
        ours = dist.TransformedDistribution(base, transform(bijector))
        theirs = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 3), bijector)
        y = bijector.forward(flat)
        assert ours.event_shape == tuple(theirs.event_shape) and ours.has_rsample
        assert jnp.allclose(ours.log_prob(y), theirs.log_prob(y), atol=1e-5)
        dense = jax.tree.unflatten(jax.tree.structure(ours), jax.tree.leaves(ours))
        assert jnp.allclose(dense.log_prob(y), ours.log_prob(y))


def test_a_constant_that_is_not_broadcast_is_noticed():
    """What is summed over the event is then one number, and log det is off by two of three."""
    ours = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([3]).to_event(1), Unbroadcast(tfb.Scale(2.0))
    )
    theirs = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 3), tfb.Scale(2.0))
    y = jnp.ones(3)
    assert not jnp.allclose(ours.log_prob(y), theirs.log_prob(y), atol=0.1)


class Unbroadcast(bft.interop.tfp.BijectorTransform):
    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return self.bijector.forward_log_det_jacobian(x, 0)


@pytest.mark.parametrize(
    ("bijector", "match"),
    [
        (tfb.AbsoluteValue(), "not injective"),
        (tfb.JointMap([tfb.Exp(), tfb.Scale(2.0)]), "several parts"),
        (jnp.exp, "no bijector of TFP"),
    ],
)
def test_a_bijector_without_a_transform_is_refused(bijector, match):
    with pytest.raises(InteropError, match=match):
        transform(bijector)


@pytest.mark.parametrize(
    ("call", "module"),
    [
        (lambda: transform(None), "tensorflow_probability.substrates.jax.bijectors"),
        (lambda: distribution(None), "tensorflow_probability.substrates.jax.distributions"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, call, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InteropError, match=r"pip install 'bayesft\[tfp\]'"):
        call()
