"""A line of progress: done, rate, time left and figures; and questions to be asked between steps."""

import time

import pytest

from daps.progress import ProgressLine


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (2.0, "set 5/9  2.5 sets/s  ETA 0:00:01  log p -3.5\n"),
        (100.0, "set 5/9  3.0 sets/min  ETA 0:01:20  log p -3.5\n"),
    ],
)
def test_a_log_gets_lines_whose_rates_can_be_read(
    seconds: float, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with ProgressLine(0, 9, units=("set", "sets")) as shown:
        clock[0] += seconds
        shown.update(5, {"log_p": -3.5, "unknown": 1.0})
        shown.update(6, {})  # too soon
        assert capsys.readouterr().out == line
        clock[0] += 1
        shown.update(9, {"log_p": -2.0})  # the end is always told
        assert "set 9/9" in capsys.readouterr().out
