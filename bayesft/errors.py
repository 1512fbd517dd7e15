"""Every error that crosses the API: each says what happened, the likely cause and what to do."""


class BayesftError(Exception):
    """Base of all errors raised on purpose by bayesft."""

    def __init__(self, happened: str, *, cause: str = "", remedy: str = ""):
        self.happened, self.cause, self.remedy = happened, cause, remedy
        lines = [happened]
        if cause:
            lines.append(f"Likely cause: {cause}")
        if remedy:
            lines.append(f"What to do: {remedy}")
        super().__init__("\n".join(lines))


class ModelError(BayesftError, ValueError):
    """A model folder is missing, corrupt, or of a kind that is not supported."""


class PromptError(BayesftError, ValueError):
    """Prompts are empty, of the wrong form, or do not fit the context."""


class TargetError(BayesftError, ValueError):
    """A target is declared with settings that define no distribution."""


class EvidenceError(BayesftError, ValueError):
    """Evidence raised, or returned something that is not a log-potential."""


class HardConstraintError(BayesftError, ValueError):
    """An objective met a log-density of -inf, where its value is infinite."""


class ObjectiveError(BayesftError, ValueError):
    """An objective's settings make no bound and no divergence."""


class ChoiceError(BayesftError, ValueError):
    """A choice, cost or host evidence stands where it cannot be credited correctly."""


class EstimatorError(BayesftError, ValueError):
    """An estimator does not apply to the choice or program at hand."""


class CostError(BayesftError, ArithmeticError):
    """A program's cost is not a number."""


class SamplerError(BayesftError, ValueError):
    """A sampler's settings or assumptions do not hold for the target."""


class GuideError(BayesftError, ValueError):
    """A guide is used where it is not normalised, not trainable, or does not fit the target."""


class NotEnumerableError(BayesftError, ValueError):
    """The outcomes of a distribution cannot be listed."""


class MeshError(BayesftError, ValueError):
    """Rows or parameters cannot be split over a mesh of devices as it was given."""


class FitError(BayesftError, ArithmeticError):
    """A fit cannot go on: its objective or gradient is not a number."""


class RunError(BayesftError, ValueError):
    """What a fit reports cannot be written down, or a run's folder cannot be read."""


class FitInterrupted(BayesftError, RuntimeError):
    """A fit was asked to end before its last step, by SIGTERM; its state is saved."""


class CheckpointError(BayesftError, ValueError):
    """States that were saved are of another fit, unreadable, or in use by another run."""


class CheckpointWarning(UserWarning):
    """A state could not be saved, or is not whole and an older one is used."""


class RunWarning(UserWarning):
    """A part of a run could not be written down; the fit goes on without it."""


class EvidenceWarning(UserWarning):
    """Evidence in Python failed and is asked again."""


class SupportWarning(UserWarning):
    """A proposal cannot draw what the target gives mass to: its draws miss a part of the target."""


class WeightWarning(UserWarning):
    """So few effective draws are left under some weights that what follows from them is rough."""


class DiagnosticError(BayesftError, ValueError):
    """A diagnostic was given numbers or draws that cannot be what it asks for."""


class InteropError(BayesftError, ValueError):
    """Something of another library has no counterpart here, or the library is missing."""
