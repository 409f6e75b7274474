"""The command line: `daps train | eval | compare | report | encode | decode | robot`."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from daps.options import parse
from daps.presets import PRESETS
from daps.suggest import did_you_mean
from daps.train_options import DEVICE, resolve
from daps.version import VERSION

if TYPE_CHECKING:
    from daps.features import FeatureConfig

RUN = arg(metavar="RUN", help="Run folder, as daps train writes it.")


UNPREFIXED = arg(name="")


@dataclass(frozen=True)
class Measures:
    """What an evaluation measures."""

    samples: int = 8
    """Code sequences per datum for the likelihoods."""
    robot: Path | None = None
    """MJCF file of the robot that motion is of (Unitree G1), for the errors of its joints' positions in mm."""
    features: tuple[str, ...] = ()
    """Networks that compare pictures (docs/evaluation.md): efficientnet, inception."""
    inception: Path | None = None
    """Inception's weights, torch-fidelity's file, for rFID; that package fetches them if left out."""
    statistics: Path | None = None
    """.npz with mu and sigma of Inception's features, such as ADM's: the FID to these, as the paper reports."""
    lpips: Path | None = None
    """AlexNet's ImageNet weights, torchvision's file, for LPIPS."""


@dataclass(frozen=True)
class EvalOptions:
    """Evaluate a run on the whole validation split; prints a table and writes evaluation.json."""

    run: Annotated[Positional[Path], RUN]
    split: str = "validation"
    """train or validation."""
    limit: int | None = None
    """Only the first so many data."""
    batch_size: int = 100
    """Data at a time."""
    seed: int = 0
    """Of the samples."""
    data_path: str | None = None
    """Where the data are now, if they have moved."""
    measures: Annotated[Measures, UNPREFIXED] = Measures()
    device: Annotated[str, DEVICE] = "auto"


@dataclass(frozen=True)
class CompareOptions:
    """Train and evaluate several methods and seeds on one preset; writes compare.json and the page compare.html.

    The same command again continues where it stopped. What stands after -- goes to every daps train.
    """

    preset: Annotated[Positional[str], arg(metavar="PRESET", help="Preset of all methods that name no other.")]
    methods: tuple[str, ...] = ("daps", "fsq")
    """Each a METHOD or PRESET:METHOD, with options of daps train behind it if quoted: "daps --method.samples 8"."""
    seeds: tuple[int, ...] = (0,)
    """Trainings of each method."""
    steps: int | None = None
    """Steps of every training; the presets' own if left out."""
    seconds: float | None = None
    """Instead of steps: seconds of training for every method, at the pace measured on this machine; on a CPU, of
    processor time."""
    data_path: str | None = None
    """Where the data are, as --data.path of daps train."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""
    measures: Annotated[Measures, UNPREFIXED] = Measures()
    run: Path | None = None
    """Folder of the comparison, with a run folder for each training; runs/compare-PRESET if left out."""
    collect: bool = False
    """Train nothing: make table and page of the runs that are there."""
    dry_run: bool = False
    """Print the trainings as commands and stop."""
    device: Annotated[str, DEVICE] = "auto"


@dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained HTML page about one run or several."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help="Run folders.")]
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """The page; report.html in the first run's folder if left out."""


@dataclass(frozen=True)
class EncodeOptions:
    """Turn an array file, a picture, a clip of motion (.csv), or a folder of these into integer codes."""

    run: Annotated[Positional[Path], RUN]
    input: Annotated[Positional[Path], arg(metavar="INPUT", help="Array file, picture, clip, or folder.")]
    output: Annotated[Path, arg(aliases=["-o"])]
    """The .npz file to write."""
    temperature: float = 0.0
    """0 takes the most likely code (greedy), 1 samples."""
    seed: int = 0
    """Of the samples."""
    effort: int = 0
    """Units of search for better codes, 64 draws and a sweep each: log p(x|z) never falls, time grows in proportion."""
    batch_size: int = 100
    """Data at a time."""
    device: Annotated[str, DEVICE] = "auto"


@dataclass(frozen=True)
class DecodeOptions:
    """Turn codes back into data: an array (.npy, .npz), a picture (.png, ...), a clip (.csv), or a folder of these."""

    run: Annotated[Positional[Path], RUN]
    codes: Annotated[Positional[Path], arg(metavar="CODES.npz", help="Codes from daps encode.")]
    output: Annotated[Path, arg(aliases=["-o"])]
    """Where to write; the ending decides what."""
    batch_size: int = 100
    """Data at a time."""
    device: Annotated[str, DEVICE] = "auto"


def run_train(arguments: Sequence[str]) -> None:
    """daps train PRESET [--method NAME] [--options]."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: daps train PRESET [--method NAME] [--options]\n\npresets:")
        for name, row in PRESETS.items():
            print(f"  {name:10s}{row.about} (methods: {', '.join(row.methods)})")
        print("\n'daps train PRESET --help' lists the options with their values for that preset")
        return
    order = resolve(arguments)
    config = order.config
    if order.dry_run:
        print(json.dumps({"run": str(order.folder), **config.to_dict()}, indent=2))
        return
    from daps.data import load
    from daps.train import train

    data = config.data
    splits = [
        load(data.name, split, path=data.path, size=data.size, mirror=data.mirror) for split in ("train", "validation")
    ]
    run = train(config, order.folder, (splits[0], splits[1]), order.device)
    print(f"{config.train.steps} steps done; next: daps eval {run.path}; daps report {run.path}")


def run_eval(arguments: Sequence[str]) -> None:
    """daps eval RUN [--options]."""
    options = parse(EvalOptions, arguments, "daps eval")
    from daps.evaluate import Protocol, evaluate_run
    from daps.tables import print_evaluation

    counts = (options.measures.samples, options.batch_size, options.limit, options.seed)
    protocol = Protocol(*counts, robot=options.measures.robot, progress=True)
    place = (options.split, options.data_path, options.device)
    print_evaluation(evaluate_run(options.run, protocol, *place, _features(options.measures)))


def _features(asked: Measures) -> "FeatureConfig":
    from daps.features import FeatureConfig

    return FeatureConfig(asked.features, asked.inception, asked.statistics, asked.lpips)


def run_compare(arguments: Sequence[str]) -> None:
    """daps compare PRESET [--methods ...] [--options] [-- options of daps train]."""
    end = [*arguments, "--"].index("--")
    options = parse(CompareOptions, arguments[:end], "daps compare")
    from daps.compare import Contestant, Failed, Plan, Stopped, commands, compare
    from daps.compare_table import table
    from daps.evaluate import Protocol
    from daps.tables import print_lines

    given = list(arguments[end + 1 :])
    if options.threads:
        given += ["--runtime.threads", str(options.threads)]
    if options.data_path:
        given += ["--data.path", options.data_path]
    folder = options.run or Path("runs") / f"compare-{options.preset}"
    contestants = tuple(Contestant.parse(text, options.preset) for text in options.methods)
    seeds, pace = options.seeds, (options.steps, options.seconds)
    protocol = Protocol(options.measures.samples, robot=options.measures.robot)
    plan = Plan(contestants, seeds, folder, *pace, tuple(given), protocol, _features(options.measures), options.device)
    if options.dry_run:
        print("\n".join(commands(plan)))
        return
    failed = None
    try:
        rows = compare(plan, train=not options.collect)
    except Stopped as stop:
        print("the same command continues")
        raise SystemExit(stop.code) from None
    except Failed as failure:
        failed, rows = failure, failure.rows
    print_lines(table(rows))
    print(f"comparison: {(folder / 'compare.html').resolve()}")
    if failed:
        raise ValueError(str(failed))


def run_report(arguments: Sequence[str]) -> None:
    """daps report RUN [RUN ...] [-o PAGE]."""
    options = parse(ReportOptions, arguments, "daps report")
    if not options.runs:
        raise ValueError("report: name one run folder or more, got none: daps report RUN")
    from daps.report import write_report

    page = options.output or options.runs[0] / "report.html"
    write_report(options.runs, page)
    print(f"report: {page.resolve()}")


def run_encode(arguments: Sequence[str]) -> None:
    """daps encode RUN INPUT -o CODES.npz."""
    options = parse(EncodeOptions, arguments, "daps encode")
    from daps.codes import encode_files

    count, bits = encode_files(
        options.run,
        options.input,
        options.output,
        options.temperature,
        options.seed,
        options.batch_size,
        options.device,
        options.effort,
    )
    print(f"{count} data of {bits:.0f} bits each -> {options.output}")


def run_decode(arguments: Sequence[str]) -> None:
    """daps decode RUN CODES.npz -o OUT."""
    options = parse(DecodeOptions, arguments, "daps decode")
    from daps.codes import decode_files

    count = decode_files(options.run, options.codes, options.output, options.batch_size, options.device)
    print(f"{count} data -> {options.output}")


def run_robot(arguments: Sequence[str]) -> None:
    """daps robot COMMAND ..."""
    try:
        from daps.robot.cli import main as robot
    except ModuleNotFoundError as error:
        raise ValueError(f"robot: needs {error.name}; pip install 'daps-torch[robot]'") from error
    robot(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": run_train,
    "eval": run_eval,
    "compare": run_compare,
    "report": run_report,
    "encode": run_encode,
    "decode": run_decode,
    "robot": run_robot,
}

USAGE = """usage: daps COMMAND ...

  train PRESET [--options]        train, or continue; 'daps train' lists the presets
  eval RUN                        figures of the whole validation split
  compare PRESET [--methods ...]  train several methods and seeds alike: one table, one page
  report RUN [RUN ...]            one HTML page with pictures
  encode RUN INPUT -o CODES.npz   array file, picture, clip of motion, or a folder of these -> integer codes
  decode RUN CODES.npz -o OUT     integer codes -> array file, picture, clip of motion, or a folder of these
  robot play | train | eval ...   a humanoid in simulation, told what to do by a sentence and a velocity (extra: robot)

'daps COMMAND --help' lists the options of a command; set DAPS_DEBUG=1 to see where an error came from"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; what the user can mend is told in one line, with exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    if arguments[0] == "--version":
        print(VERSION)
        return
    from daps.progress import Interrupted

    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        command = COMMANDS.get(arguments[0])
        if command is None:
            raise ValueError(
                f"no command {arguments[0]!r}; choose {', '.join(COMMANDS)}{did_you_mean(arguments[0], COMMANDS)}"
            )
        command(arguments[1:])
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except ValueError as error:
        _fail(error, str(error))
    except OSError as error:
        told = error.filename and error.strerror
        _fail(error, f"{error.filename}: {error.strerror}; check the path and its permissions" if told else str(error))
    except Interrupted as stop:
        print(stop)
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _warn(message: Warning | str, *_: Any) -> None:
    print(f"daps: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(error: Exception, message: str) -> None:
    if os.environ.get("DAPS_DEBUG"):
        raise error
    print(f"daps: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
