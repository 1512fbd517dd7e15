"""GenJAX's generative functions as choices and priors, priors as its distributions."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft as bft
from bayesft.errors import EstimatorError, InteropError
from bayesft.interop.genjax import GenerativeChoice, choice, distribution, prior
from bayesft.testing import assert_frequencies, assert_unbiased, enumerate_target

genjax = pytest.importorskip("genjax")
E = bft.estimators
pytestmark = [  # TFP's own, through GenJAX
    pytest.mark.filterwarnings("ignore:shape requires ndarray or scalar:DeprecationWarning")
]


@pytest.fixture(autouse=True)
def as_users_run_it():
    """TFP, which GenJAX samples with, promotes ranks; see test_tfp.py."""
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


# ---- choices ------------------------------------------------------------------------------------


@genjax.gen
def coin_and_die(theta):
    heads = genjax.bernoulli(logits=theta[0]) @ "heads"
    die = genjax.categorical(theta * (1.0 + heads)) @ "die"
    return heads + 2.0 * die


SUPPORT = {"heads": jnp.repeat(jnp.arange(2), 3), "die": jnp.tile(jnp.arange(3), 2)}
THETA = jnp.array([0.5, -0.2, 0.3])


def coin_and_die_log_probs(theta):
    log_heads = jax.nn.log_sigmoid(jnp.array([-theta[0], theta[0]]))
    return (log_heads[:, None] + jax.nn.log_softmax(jnp.stack([theta, 2 * theta]), 1)).ravel()


def expected(theta):
    returned = (jnp.arange(2.0)[:, None] + 2 * jnp.arange(3.0)).ravel()
    return jnp.exp(coin_and_die_log_probs(theta)) @ jnp.sin(returned + theta[1])


def program(estimator, make=choice, **settings):
    def run(theta):
        d = make(coin_and_die, theta, **settings)
        return jnp.sin(d.returned(bft.draw("both", d, estimator)) + theta[1])

    return bft.expectation(run, require="unbiased")


class HalfScored(GenerativeChoice):
    """The planted bug: one of two addresses is not scored."""

    def log_prob(self, value):
        heads, _ = genjax.bernoulli.assess(value["heads"], self.args[0][0])
        return super().log_prob(value) - heads


def test_a_generative_function_is_a_choice():
    exact = jax.value_and_grad(expected)(THETA)
    keys = jax.random.split(jax.random.key(0), 10_000)

    def found(make):
        run = program(E.leave_one_out(3), make)
        return jax.jit(jax.vmap(lambda key: run.value_and_grad(key, THETA)))(keys)

    for samples, truth in zip(found(choice), exact, strict=True):
        assert_unbiased(samples, truth, family=2, resolution=0.1)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(found(lambda fn, theta: HalfScored(fn, (theta,), None))[1], exact[1])


def test_its_support_is_enumerated():
    run = program(E.enumerate(), support=SUPPORT)
    found = jax.jit(run.value_and_grad)(jax.random.key(0), THETA)
    for one, other in zip(found, jax.value_and_grad(expected)(THETA), strict=True):
        assert jnp.allclose(one, other, atol=1e-5)


def test_a_listed_support_is_no_constraint_that_importance_checks():
    run = program(E.importance(choice(coin_and_die, THETA), 2), support=SUPPORT)
    assert jnp.isfinite(run.estimate(jax.random.key(0), THETA))


def test_samples_follow_the_log_prob():
    d = choice(coin_and_die, THETA)
    keys = jax.random.split(jax.random.key(1), 5_000)
    drawn, log_prob = jax.jit(jax.vmap(d.sample_and_log_prob))(keys)
    assert jnp.allclose(jax.vmap(d.log_prob)(SUPPORT), coin_and_die_log_probs(THETA), atol=1e-5)
    index = 3 * drawn["heads"] + drawn["die"]
    assert jnp.allclose(log_prob, coin_and_die_log_probs(THETA)[index], atol=1e-5)
    counts = np.bincount(np.asarray(index), minlength=6)
    assert_frequencies(counts, np.exp(coin_and_die_log_probs(THETA)), resolution=0.1)


@genjax.gen
def one_side():
    return genjax.normal(0.0, 1.0) @ "x"


@genjax.gen
def other_side():
    return genjax.normal(5.0, 1.0) @ "y"


@genjax.gen
def uneven_branches():
    return genjax.Cond(one_side, other_side)(genjax.flip(0.5) @ "side") @ "branch"


def test_what_is_no_choice_is_refused():
    with pytest.raises(EstimatorError, match="no reparameterised"):
        program(E.reparameterize()).estimate(jax.random.key(0), THETA)
    with pytest.raises(EstimatorError, match="no finite support"):
        program(E.enumerate()).estimate(jax.random.key(0), THETA)
    with pytest.raises(InteropError, match="no generative function"):
        choice(expected, THETA)
    with pytest.raises(InteropError, match=r"branches of a genjax\.Cond have"):
        choice(uneven_branches)
    with pytest.raises(InteropError, match=r"sum to 0\.5"):
        choice(genjax.flip, 0.5, support=jnp.array([True]))


# ---- priors -------------------------------------------------------------------------------------

TABLE = jnp.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])


@genjax.gen
def next_token(last, table):
    token = genjax.categorical(table[last]) @ "token"
    return token, token


def generated(step=next_token, table=None, **settings):
    logits = jnp.log(TABLE) if table is None else table
    return prior(step, jnp.int32(0), inputs=logits, **{"vocab_size": 3, "eos": 2} | settings)


def markov():
    return bft.priors.markov(jnp.log(TABLE[0]), jnp.log(TABLE), eos=2)


@pytest.fixture(scope="module")
def pair():
    with jax.numpy_rank_promotion("allow"):
        return generated(), markov()


def test_a_generative_step_is_a_prior(pair):
    """It is the Markov chain that it says it is, with a prompt and without, in a sampler too."""
    assert generated(genjax.Scan(next_token, length=genjax.const(4))).step_fn == next_token
    targets = [bft.Target(p, prompts=[[], [0, 1, 1]], max_new_tokens=3) for p in pair]
    outcomes = jnp.asarray(pair[0].enumerate(3))

    @jax.jit
    def scored(target, xs):
        return jax.vmap(lambda x: jax.vmap(lambda y: target.log_density(y, x))(outcomes))(xs)

    one, other = (scored(target, target.xs) for target in targets)
    assert jnp.allclose(one, other, atol=1e-5)
    drawn = [bft.sample(t, bft.samplers.importance(64), jax.random.key(0)) for t in targets]
    assert jnp.array_equal(drawn[0].tokens, drawn[1].tokens)


def test_its_inputs_are_trained(pair):
    x = bft.Target(pair[1], max_new_tokens=2).xs
    x, horizon = jax.tree.map(lambda a: a[0], x), bft.base.Horizon(2)

    @jax.jit
    def gradient(guide):
        def score(params):
            guide_now = guide.with_params(params)
            return guide_now.token_log_probs(jnp.array([1, 0]), x, horizon).sum()

        return jax.grad(score)(guide.params)

    one, other = (gradient(bft.trainable(p)) for p in pair)
    (table,) = jax.tree.leaves(one)  # its row 0 is also what the first token comes from
    first, transitions = jax.tree.leaves(other)
    assert jnp.allclose(table, transitions.at[0].add(first), atol=1e-5)


@genjax.gen
def two_tokens(last, table):
    return genjax.categorical(table[last]) @ "a", genjax.categorical(table[last]) @ "b"


@genjax.gen
def a_number(last, table):
    x = genjax.normal(0.0, 1.0) @ "x"
    return last, x


@genjax.gen
def a_growing_carry(last, table):
    token = genjax.categorical(table[0]) @ "token"
    return jnp.stack([token, token]), token


@genjax.gen
def no_step():
    return genjax.flip(0.5) @ "x"


@pytest.mark.parametrize(
    ("step", "settings", "match"),
    [
        (two_tokens, {}, "its choices are"),
        (a_number, {}, r"its choices are {'x': 'float32\(\)'}"),
        (a_growing_carry, {}, "its carry changes"),
        (no_step, {}, "does not run as a step"),
        (next_token, {"vocab_size": 2, "eos": 1}, r"vocab_size=2 sum to 0\.7"),
        (next_token, {"eos": 3}, "eos=3 is no token"),
    ],
)
def test_a_function_of_another_form_is_no_prior(step, settings, match):
    with pytest.raises(InteropError, match=match):
        generated(step, **settings)


# ---- distributions ------------------------------------------------------------------------------


def test_a_prior_is_a_genjax_distribution():
    """`assess` sums to 1 over the outcomes, is what `simulate` scores, and how often it draws."""
    prompt, outcomes = jnp.array([1]), {}
    for eos in ("force", "truncate"):
        sequence = distribution(markov(), 2, eos=eos)
        target = bft.Target(markov(), prompts=[[1]], max_new_tokens=2, eos=eos)
        outcomes[eos] = exact = enumerate_target(target)
        assess = jax.vmap(lambda y, sequence=sequence: sequence.assess(y, prompt)[0])
        assert jnp.allclose(assess(jnp.asarray(exact.tokens)), exact.log_probs, atol=1e-5)
    sequence, exact = distribution(markov(), 2), outcomes["truncate"]
    keys = jax.random.split(jax.random.key(0), 5_000)

    @jax.jit
    @jax.vmap
    def simulate(key):
        trace = genjax.seed(sequence.simulate)(key, prompt)
        return trace.get_choices(), -trace.get_score()

    tokens, log_probs = simulate(keys)
    matches = (np.asarray(tokens)[:, None] == exact.tokens[None]).all(-1)
    assert matches.sum(1).min() == 1
    assert np.allclose(log_probs, np.asarray(exact.log_probs)[matches.argmax(1)], atol=1e-5)
    assert_frequencies(matches.sum(0), np.exp(exact.log_probs), resolution=0.1)
    with pytest.raises(AssertionError, match="frequencies are wrong"):  # the prompt left out
        free = enumerate_target(bft.Target(markov(), max_new_tokens=2))
        assert_frequencies(matches.sum(0), np.exp(free.log_probs))


def test_it_composes_with_generative_functions():
    """GenJAX infers over a prior of bayesft: importance weights of `generate` average to Z."""
    sequence = distribution(markov(), 2)

    @genjax.gen
    def judged(slope):
        y = sequence() @ "y"
        genjax.flip(jax.nn.sigmoid(slope * (y == 1).sum())) @ "liked"
        return y

    exact = enumerate_target(bft.Target(markov(), max_new_tokens=2))
    liked = jax.nn.sigmoid(1.5 * (exact.tokens == 1).sum(1))
    keys = jax.random.split(jax.random.key(0), 5_000)
    weigh = jax.jit(jax.vmap(lambda k: genjax.seed(judged.generate)(k, {"liked": True}, 1.5)[1]))
    assert_unbiased(jnp.exp(weigh(keys)), np.exp(exact.log_probs) @ liked, resolution=0.1)

    @jax.jit
    def repeated(key):
        trace = genjax.seed(judged.repeat(4).simulate)(key, 1.5)
        choices = trace.get_choices()
        return choices["y"], -jnp.sum(trace.get_score()), judged.repeat(4).assess(choices, 1.5)[0]

    tokens, scored, assessed = repeated(jax.random.key(3))
    assert tokens.shape == (4, 2) and jnp.allclose(scored, assessed, atol=1e-5)


def test_prompts_are_mapped_and_arrays_differentiated():
    prompts, chain = jnp.array([[0], [1]]), markov()

    @jax.jit
    def scored(key):
        single = distribution(chain, 2)
        mapped = single.vmap(in_axes=(0,))
        drawn = genjax.seed(mapped.simulate)(key, prompts).get_choices()
        apart = [single.assess(drawn[i], prompts[i])[0] for i in range(2)]
        return drawn, mapped.assess(drawn, prompts)[0], sum(apart)

    drawn, together, apart = scored(jax.random.key(0))
    assert drawn.shape == (2, 2) and jnp.allclose(together, apart, atol=1e-5)

    @jax.jit
    @jax.grad
    def gradient(chain):
        return distribution(chain, 2).assess(jnp.array([1, 0]), jnp.array([0]))[0]

    expected = jnp.zeros((3, 3)).at[0].add(jnp.eye(3)[1] - TABLE[0])
    expected = expected.at[1].add(jnp.eye(3)[0] - TABLE[1])
    assert jnp.allclose(gradient(chain).transition_logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("what", "tokens", "eos"),
    [
        (bft.Target(markov(), max_new_tokens=2), 2, "truncate"),
        (markov(), 0, "truncate"),
        (markov(), 2, "condition"),
    ],
)
def test_what_is_not_normalised_is_no_distribution(what, tokens, eos):
    with pytest.raises(InteropError, match="no distribution over completions"):
        distribution(what, tokens, eos=eos)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "genjax", None)
    for call in (lambda: choice(next_token), generated, lambda: distribution(markov(), 2)):
        with pytest.raises(InteropError, match=r"pip install 'bayesft\[genjax\]'"):
            call()
