"""Progress says where a fit is, in a terminal and in a log."""

import io

from rich.console import Console

from bayesft.fitting.info import StepInfo
from bayesft.report import progress
from bayesft.report.progress import Reporter, step_line

METRICS = {"reward": 0.5, "kl": 1.25, "ess_share": 0.4, "tokens_per_second": 5200.0}


def test_a_step_has_what_it_has():
    full = step_line(StepInfo(9, 100, -1.5, METRICS, 0.1))
    assert full == "10/100  -1.500 nats  reward +0.500  KL 1.25  ESS 40%  5,200 tokens/s"
    assert step_line(StepInfo(0, 5, 2.0, {"grad_norm": 1.0}, 0.1)) == "1/5  +2.000 nats"


def reported(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with Reporter(console).fit("fitting", 3) as callback:
        for step in range(3):
            callback(StepInfo(step, 3, 0.5, METRICS, 0.1))
    return console.file.getvalue()


def test_a_log_has_a_line_now_and_then_and_a_terminal_a_bar(monkeypatch):
    quiet = reported(terminal=False)
    assert quiet.startswith("fitting: ") and quiet.count("\n") == 1
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    assert "fitting  2/3  +0.500 nats  reward +0.500" in reported(terminal=False)
    assert "3/3  +0.500 nats  reward +0.500  KL 1.25  ESS 40%" in reported(terminal=True)
