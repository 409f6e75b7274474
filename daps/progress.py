"""One line of progress: a live bar on a terminal, a plain line now and then in a log file; and how to be stopped."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FIGURES = {  # metric -> (label, format)
    "log_p": ("log p", ".1f"),
    "elbo": ("ELBO", ".1f"),
    "ess": ("ESS", ".2f"),
    "eta": ("eta", ".3g"),
    "bits": ("bits used", ".1f"),
    "val_psnr": ("val PSNR", ".2f"),
    "nats": ("nats a window", ".1f"),
    "lost": ("lost", ".0%"),
    "world": ("world model", ".3f"),
    "cost": ("cost", ".3f"),
    "read": ("joints off, rad", ".3f"),
}


def headline(metrics: Mapping[str, int | float]) -> str:
    """The figures that matter, in one line."""
    shown = [f"{label} {metrics[key]:{form}}" for key, (label, form) in FIGURES.items() if key in metrics]
    return "  ".join(shown)


class ProgressLine:
    """Steps done (or what else is counted: one, several), rate, time left and the latest figures."""

    def __init__(
        self, start: int, total: int, seconds_between_lines: float = 10.0, units: tuple[str, str] = ("step", "steps")
    ) -> None:
        self.console = Console()
        self.start, self.total = start, total
        self.every, self.units = seconds_between_lines, units
        self.began = time.monotonic()
        self.last_line = -1e9
        self.figures: dict[str, int | float] = {}
        self.bar: Progress | None = None
        if self.console.is_terminal:
            self.bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=total, completed=start, rate="", figures="")

    def __enter__(self) -> "ProgressLine":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, figures: Mapping[str, int | float]) -> None:
        """Shows the state after `done` steps; figures stay until replaced."""
        self.figures.update(figures)
        elapsed = time.monotonic() - self.began
        rate = (done - self.start) / max(elapsed, 1e-9)
        if self.bar:
            self.bar.update(self.task, completed=done, rate=self._pace(rate), figures=headline(self.figures))
        elif done == self.total or time.monotonic() - self.last_line >= self.every:
            self.last_line = time.monotonic()
            left = (self.total - done) / max(rate, 1e-9)
            clock = f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
            line = f"{self.units[0]} {done}/{self.total}  {self._pace(rate)}  ETA {clock}  {headline(self.figures)}"
            print(line.rstrip(), flush=True)

    def _pace(self, rate: float) -> str:
        return f"{rate:.1f} {self.units[1]}/s" if rate >= 0.1 else f"{60 * rate:.1f} {self.units[1]}/min"

    def say(self, text: str) -> None:
        """A line above the progress."""
        self.console.print(text, highlight=False, soft_wrap=True)


class Interrupted(Exception):
    """Training was stopped by the user; its state is saved."""


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a question to be asked between steps; a second Ctrl-C stops at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {kind: signal.signal(kind, ask) for kind in kinds}
    except ValueError:  # not the main thread, which alone may listen
        before = {}
    try:
        yield lambda: asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
