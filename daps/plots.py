"""Pictures of the report as data: URIs, and figures as inline SVG with the colours and fonts of the page around it.

Lines are drawn in placeholder colours, which become CSS variables (`--ink`, `--run-0`, ...): one figure serves light
and dark pages. Each figure is one panel of a fixed size, so that a phone shows them one under the other, unshrunk.
"""

import base64
import hashlib
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 6  # that the page defines for runs: --run-0 ... --run-5
DASHES = ("", "5 2", "1.5 1.5", "6 2 1.5 2")  # for further runs, as SVG writes them
POINTS = 240  # drawn per curve at most
EMBEDDED = 80_000  # bytes: larger picture files are reduced

WIDTH, HEIGHT = 340, 200  # of a panel, CSS pixels
_MARGIN = {"left": 50, "right": 8, "bottom": 38, "top": 8}
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_RUNS = [f"#0404{i:02x}" for i in range(COLOURS)]
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {c: f"--run-{i}" for i, c in enumerate(_RUNS)}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "daps",
    "text.parse_math": False,  # names of metrics may hold a $
    "axes.unicode_minus": True,
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """A metric of one run; `style` is the run's place on the page, which sets its colour and dashes."""

    style: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def dashes(style: int) -> str:
    """The stroke-dasharray of a run: runs beyond the colours come in dashes."""
    return DASHES[style // COLOURS % len(DASHES)]


def curves(
    alt: str, lines: Sequence[Curve], x_label: str, log: bool = False, targets: Sequence[tuple[int, float]] = ()
) -> Markup:
    """Curves of several runs, with horizontal dotted lines at targets (style, value).

    The frame of a linear axis follows the values after the first twentieth of x: where a training starts far off,
    its first rows would flatten all the others.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with _style():
        figure, axes = _panel()
        lines = [_averaged(curve, log) for curve in lines]
        for curve in lines:
            marker = "o" if len(curve.x) <= 12 else ""
            axes.plot(curve.x, curve.y, marker=marker, markersize=3.5, **_look(curve.style))
        for value in sorted({value for _, value in targets}):
            whose = [style for style, target in targets if target == value]
            colour = _INK if len(whose) == len(targets) else _RUNS[whose[0] % COLOURS]
            axes.axhline(value, color=colour, linewidth=1.2, linestyle=(0, (1, 2)), zorder=4)
        frame = _frame([c.y for c in lines], [c.x for c in lines], [value for _, value in targets], log)
        if log:
            axes.set_yscale("log")
            low, high = np.log10(frame)
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high - low > 1.5 else (1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(*frame)
        axes.margins(x=0.02)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        axes.set_xlabel(x_label)
        return _svg(figure, alt)


@dataclass(frozen=True)
class Panel:
    """A figure with its title and a line of explanation."""

    title: str
    text: str
    figure: Markup


def codebook(
    name: str, counts: NDArray[np.integer], greedy: Sequence[float], sampled: Sequence[float], style: int
) -> list[Panel]:
    """Panels on how a run uses its symbols.

    Args:
        name: of the run.
        counts: [T, V], how often each symbol occurs at each position.
        greedy, sampled: perplexity per position [T] of both ways to encode; no bars if one is empty.
        style: the run's place on the page.
    """
    frequencies = -np.sort(-counts, axis=-1) / np.maximum(counts.sum(-1, keepdims=True), 1)
    text = "A row per position, its symbols sorted from the most to the least frequent. Blank: never used."
    alt = f"{name}: frequency of the symbols at each position, sorted"
    panels = [Panel("Frequency of the symbols, greedy", text, frequency_map(alt, frequencies))]
    text = "The same as a line per position. The flatter, the more a symbol tells; uniform is the best possible."
    alt = f"{name}: sorted symbol frequencies, a line per position, and the uniform frequency"
    panels.append(Panel("Sorted frequencies, greedy", text, sorted_frequencies(alt, frequencies, style)))
    if len(greedy) and len(sampled):
        text = "How many equally frequent symbols would tell as much. Bars: greedy codes; dashes: stochastic."
        alt = f"{name}: perplexity per position, greedy codes between {min(greedy):.1f} and {max(greedy):.1f}"
        figure = perplexity_bars(alt, greedy, sampled, counts.shape[1], style)
        panels.append(Panel("Perplexity per position", text, figure))
    return panels


def frequency_map(alt: str, frequencies: NDArray[np.float64]) -> Markup:
    """Frequencies [T, V], each row sorted, as colours on a logarithmic scale; what never occurs stays blank."""
    import matplotlib
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    positions, symbols = frequencies.shape
    shown = np.ma.masked_less_equal(frequencies, 0)
    least = min(float(shown.min()) if shown.count() else 0.1, 0.1)
    with _style():
        figure, axes = _panel(right=52)
        axes.grid(False)
        colours = ListedColormap(matplotlib.colormaps["cividis"](np.linspace(0.12, 1, 64)))
        # extent: symbols and positions count from 1
        image = axes.imshow(
            shown,
            cmap=colours,
            norm=LogNorm(least, 1),
            aspect="auto",
            interpolation="none",
            extent=(0.5, symbols + 0.5, positions + 0.5, 0.5),
        )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10]))
        axes.set_xlabel("rank of the symbol")
        axes.set_ylabel("position")
        bottom, top = _MARGIN["bottom"] / HEIGHT, 1 - _MARGIN["top"] / HEIGHT
        bar = figure.colorbar(image, cax=figure.add_axes((1 - 44 / WIDTH, bottom, 9 / WIDTH, top - bottom)))
        bar.minorticks_off()
        bar.outline.set_visible(False)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        bar.ax.grid(False)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        return _svg(figure, alt)


def sorted_frequencies(alt: str, frequencies: NDArray[np.float64], style: int) -> Markup:
    """One line per position of sorted frequencies [T, V] (log axis), and the uniform frequency 1/V, dashed."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    positions, symbols = frequencies.shape
    ranks = np.unique(np.linspace(1, symbols, min(symbols, 128)).round().astype(int))
    with _style():
        figure, axes = _panel()
        for row in np.where(frequencies > 0, frequencies, np.nan):
            width, alpha = (1.3, 0.7) if positions <= 16 else (0.9, 0.35)
            axes.plot(ranks, row[ranks - 1], color=_RUNS[style % COLOURS], linewidth=width, alpha=alpha)
        axes.axhline(1 / symbols, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.annotate(
            f"uniform, 1/{symbols}", (1, 1 / symbols), (-2, 4), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=9.5,
        )  # fmt: skip
        axes.set_yscale("log")
        least = float(frequencies[frequencies > 0].min(initial=1 / symbols))
        axes.set_ylim(least / 1.5, 1.3)
        axes.set_xlim(0.5, symbols + 0.5)
        axes.yaxis.set_major_locator(LogLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10]))
        axes.set_xlabel("rank of the symbol")
        return _svg(figure, alt)


def perplexity_bars(
    alt: str, greedy: Sequence[float], stochastic: Sequence[float], vocab_size: int, style: int
) -> Markup:
    """Perplexity per position: bars for greedy codes, dashes for sampled ones, and the largest possible, V."""
    from matplotlib.ticker import MaxNLocator

    positions = np.arange(1, len(greedy) + 1)
    with _style():
        figure, axes = _panel()
        axes.grid(False, axis="x")
        axes.bar(positions, greedy, width=0.72, color=_RUNS[style % COLOURS], alpha=0.85, linewidth=0)
        size = max(3.0, min(14.0, 200 / len(greedy)))
        axes.plot(positions, stochastic, "_", color=_INK, markersize=size, markeredgewidth=1.6)
        axes.axhline(vocab_size, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.annotate(
            f"all {vocab_size} alike", (1, vocab_size), (-2, 4), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=9.5,
        )  # fmt: skip
        axes.set_ylim(0, 1.16 * vocab_size)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("position")
        return _svg(figure, alt)


def overlay(alt: str, original: NDArray[Any], others: Sequence[tuple[int, NDArray[Any]]]) -> Markup:
    """A vector [D] as a broad grey line, under its reconstructions (style, [D]) as thin coloured ones."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with _style():
        figure, axes = _panel(height=130, bottom=22)
        index = np.arange(len(original))
        marker = "o" if len(original) == 1 else ""
        axes.plot(index, original, marker=marker, color=_MUTED, linewidth=4, alpha=0.45)
        for style, values in others:
            axes.plot(index, values, marker=marker, **_look(style))
        axes.margins(x=0.02, y=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        return _svg(figure, alt)


@dataclass(frozen=True)
class Picture:
    """Pixels as a data: URI, and their size."""

    uri: str
    width: int
    height: int


def picture_strip(pixels: NDArray[np.uint8], places: int) -> Picture:
    """Pictures [N, H, W, 3] side by side in a strip with room for `places`, each enlarged to 64 sharp pixels."""
    zoom = max(1, -(-64 // max(pixels.shape[1:3])))
    height, width = pixels.shape[1] * zoom, pixels.shape[2] * zoom
    gap = max(2, width // 24)
    strip = Image.new("RGBA", (places * (width + gap) - gap, height))
    for i, picture in enumerate(pixels):
        large = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        strip.paste(large, (i * (width + gap), 0))
    return _picture(strip)


def heat_strip(values: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> Picture:
    """A sequence [F, C]: frames to the right, a row per channel, coloured from its low [C] to its high [C]."""
    import matplotlib

    scaled = ((values - low) / np.maximum(high - low, 1e-12)).T.clip(0, 1)
    small = Image.fromarray(matplotlib.colormaps["cividis"](scaled, bytes=True)[..., :3])
    size = (small.width * max(1, -(-480 // small.width)), small.height * max(1, min(24, 120 // small.height)))
    return _picture(small.resize(size, Image.Resampling.NEAREST))


def embedded(path: Path) -> Picture:
    """A picture file, reduced where it is large.

    Raises:
        ValueError: not a picture.
    """
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: not a picture ({error}); delete it, or put back a good copy") from error
    if len(content) <= EMBEDDED:
        return Picture(_uri("png", content), *pixels.size)
    pixels.thumbnail((1092, 1092))
    return _picture(pixels, "jpeg")


def _picture(image: Image.Image, kind: str = "png") -> Picture:
    stream = io.BytesIO()
    image.save(stream, format=kind, optimize=True, quality=88)
    return Picture(_uri(kind, stream.getvalue()), *image.size)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _style():  # type: ignore[no-untyped-def]  # a context manager of matplotlib's
    import matplotlib.style

    return matplotlib.style.context(["default", _STYLE])


def _panel(height: int = HEIGHT, **margins: int) -> "tuple[Figure, Axes]":
    """An empty panel, in points of 1/72 inch, which the SVG calls pixels; margins are fixed so that panels align."""
    from matplotlib.figure import Figure

    margin = _MARGIN | margins
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    wide, tall = WIDTH - margin["left"] - margin["right"], height - margin["bottom"] - margin["top"]
    axes = figure.add_axes((margin["left"] / WIDTH, margin["bottom"] / height, wide / WIDTH, tall / height))
    return figure, axes


def _look(style: int) -> dict[str, Any]:
    """Colour, dashes and width of a run's lines; first runs are broader, so that lines that coincide both show."""
    pattern = [float(part) for part in dashes(style).split()]
    return {
        "color": _RUNS[style % COLOURS],
        "dashes": pattern if pattern else (None, None),
        "linewidth": max(1.3, 2.2 - 0.35 * style),
    }


def _averaged(curve: Curve, log: bool) -> Curve:
    """At most POINTS points, each the mean of neighbours; NaN where none of them can be drawn."""
    first = np.unique(np.linspace(0, len(curve.x), POINTS, endpoint=False).astype(int))[: len(curve.x)]
    good = np.isfinite(curve.y) & ((curve.y > 0) | (not log))
    count = np.add.reduceat(good.astype(float), first)
    total = np.add.reduceat(np.where(good, curve.y, 0.0), first)
    x = np.add.reduceat(curve.x, first) / np.add.reduceat(np.ones_like(curve.x), first)
    return Curve(curve.style, x, np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _frame(
    ys: Sequence[NDArray[np.float64]], xs: Sequence[NDArray[np.float64]], targets: Sequence[float], log: bool
) -> tuple[float, float]:
    """Limits of the y axis."""
    last = max((float(x.max()) for x in xs if len(x)), default=0.0)
    kept = [y if log else y[x >= min(0.05 * last, x[len(x) // 2])] for x, y in zip(xs, ys, strict=True) if len(x)]
    values = np.concatenate([*kept, np.asarray(targets, dtype=np.float64)]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        return low / 1.5, high * 1.5
    room = max(0.07 * (high - low), 0.01 * max(abs(low), abs(high))) or 1.0  # a flat line has some, too
    return low - room, high + room


def _short(value: float, _: object = None) -> str:
    """20000 as 20k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (size if size > 1e3 else 1e4):
            return f"{value / size:g}{letter}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _svg(figure: "Figure", alt: str) -> Markup:
    """An <svg> element to stand in a page: no metadata, colours by CSS variable, identifiers unique on the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    width, height = (float(part) for part in box.group(1).split()[2:]) if box else (WIDTH, HEIGHT)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would apply to the whole page
    body = re.sub(r"font-family: [^;]+; ", "", body).replace("xlink:href", "href")
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("base64,\n", "base64,")
    body = re.sub(r"^ +| +$", "", body, flags=re.MULTILINE)
    body = re.sub(r"(?<=[ML] )(\d+\.\d\d)\d* (\d+\.\d\d)\d*$", r"\1 \2", body, flags=re.MULTILINE)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    mark = hashlib.sha256(f"{alt}{body}".encode()).hexdigest()[:8]
    body = re.sub(r'\bid="', f'id="{mark}-', body)
    body = body.replace("url(#", f"url(#{mark}-").replace('href="#', f'href="#{mark}-')
    label = html.escape(alt, quote=True)
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">{body}')
