"""The page: nothing from outside, every figure as printed, pictures of the right size, whatever a run lacks."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps import plots, report
from daps.config import Config
from daps.entries import read_entries
from daps.methods import Autoencoder
from daps.pictures import save_comparison
from daps.presets import preset
from daps.report import write_report
from daps.scaling import Affine

GRAY = (1, 8, 8)


class Page(HTMLParser):
    """A page taken apart: (tag, attributes), its text, cells of the first table, tags left open."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attributes[name] or "" for found, attributes in self.tags if found == tag and name in attributes]


def picture(uri: str) -> Image.Image:
    """The pixels of a data: URI."""
    kind, _, content = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


def figures(shift: float, has_ssim: bool) -> dict[str, Any]:
    """An evaluation whose figures are told apart by `shift`."""
    quality = {
        "log_p": -30.0 - shift,
        "perplexity_per_position": [3.0 + shift] * 8,
        "perplexity_pooled": 4.25 + shift,
        "ssim": 0.5 + shift / 100 if has_ssim else None,
    }
    return {
        "log_p": -1234.5 - shift,
        "kl": 1.5 + shift,
        "elbo": -1236.0 - shift,
        "beta": 0.05,
        "beta_elbo": -1235.125 - shift,
        "iw_log_likelihood": -1233.75 - shift,
        "entropy_bits": 12.25 + shift,
        "information_bits": 20.5 + shift,
        "split": "validation",
        "n": 1360,
        "importance_samples": 8,
        "seed": 7,
        "ssim_window": 7 if has_ssim else None,
        "peak": 16.0,
        "stochastic": quality | {"psnr": 11.25 + shift},
        "greedy": quality | {"psnr": 21.75 + shift},
        "step": 40,
        "data": "made for this test",
        "environment": {"command": f"daps eval run-{shift:g}"},
    }


def settings(method: str, shape: tuple[int, ...] = GRAY) -> Config:
    """Of the fake runs."""
    config = preset("digits" if len(shape) == 3 else "array", method)
    return dataclasses.replace(config, nets=dataclasses.replace(config.nets, data_shape=shape))


def parameters(model: Autoencoder) -> int:
    return sum(p.numel() for part in (model.encoder, model.decoder) for p in part.parameters())


def make_run(
    folder: Path,
    method: str = "daps",
    shape: tuple[int, ...] = GRAY,
    shift: float = 0.0,
    evaluated: bool = True,
    rows: int = 4,
) -> Path:
    """A run folder as a training and an evaluation leave it, without weights."""
    folder.mkdir(parents=True)
    config = settings(method, shape)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "environment.json").write_text(json.dumps({"daps": "0.1.0", "command": f"daps train x --shift {shift}"}))
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(10, 10 * rows + 1, 10):
            times = {"seconds": step * 100.0, "cpu_seconds": step * 150.0}
            row = {"step": step, "log_p": -900 / step, "eta": 0.0 if step == 10 else 1 / step, "ess": 2.6, "oddity": 1}
            file.write(json.dumps(row | times) + "\n")
            validation = {"step": step, "val_psnr": np.inf if step == 10 else step / 4}
            file.write(json.dumps(validation | {"cpu_seconds": step * 150.0}) + "\n")
    if evaluated:
        values = np.random.default_rng(0).uniform(0, 16, (32, *shape))
        counts = np.random.default_rng(1).integers(0, 9, (config.nets.num_tokens, config.nets.vocab_size))
        arrays: dict[str, Any] = {
            "originals": values.astype(np.uint8),
            "reconstructions": values.astype(np.float32),
            "counts": counts,
        }
        np.savez(folder / "evaluation.npz", **arrays)
        (folder / "evaluation.json").write_text(json.dumps(figures(shift, len(shape) == 3)))
        for step in range(10, 10 * rows + 1, 10):
            path = folder / "samples" / f"step_{step:08d}.png"
            save_comparison(path, values[:16], values[:16], 16.0)
    return folder


@pytest.fixture(scope="module")
def page_of_two(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Two runs on the same data."""
    folder = tmp_path_factory.mktemp("two")
    runs = [make_run(folder / "first"), make_run(folder / "second", "fsq", shift=1.5)]
    write_report(runs, folder / "page.html")
    return Page(folder / "page.html")


def test_the_page_needs_nothing_from_outside(page_of_two: Page) -> None:
    for tag, attributes in page_of_two.tags:
        assert tag not in {"script", "link", "iframe", "object", "base", "form"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", re.sub(r'"data:[^"]*"', "", page_of_two.source))
    assert set(re.findall(r"url\((.)", page_of_two.source)) <= {"#"}


def test_tags_match_and_references_have_one_target_each(page_of_two: Page) -> None:
    assert page_of_two.open == []
    names = [attributes["id"] for _, attributes in page_of_two.tags if "id" in attributes]
    assert len(names) == len(set(names))
    used = page_of_two.attributes("a", "href") + page_of_two.attributes("use", "href")
    used += re.findall(r"url\((#[^)]*)\)", page_of_two.source)
    assert used and {name[1:] for name in used} <= set(names)


def test_every_figure_is_there_as_printed(page_of_two: Page) -> None:
    models = [settings(method).build(Affine()) for method in ("daps", "fsq")]
    for name, first, second in [
        ("log p(x|z) nats", "−1,234.50", "−1,236.00"),
        ("ELBO nats", "−1,236.00", "−1,237.50"),
        ("β-ELBO nats", "−1,235.12", "−1,236.62"),
        ("IW bound on log p(x) nats", "−1,233.75", "−1,235.25"),
        ("PSNR, stochastic dB", "11.25", "12.75"),
        ("PSNR, greedy dB", "21.75", "23.25"),
        ("SSIM, greedy", "0.5000", "0.5150"),
        ("entropy of q(z|x) bits", "12.25", "13.75"),
        ("perplexity, greedy all positions pooled", "4.2", "5.8"),
        ("nominal size bits", *(f"{model.bits:g}" for model in models)),
        ("method", "daps", "fsq"),
        ("preset", "digits", "digits"),
        ("steps done of planned", *(f"40 of {settings(method).train.steps:,}" for method in ("daps", "fsq"))),
        ("parameters encoder + decoder", *(f"{parameters(model):,}" for model in models)),
        ("time seconds", "4,000", "4,000"),
        ("CPU time seconds, all cores", "6,000", "6,000"),
        ("split", "validation", "validation"),
        ("n data", "1,360", "1,360"),
        ("seed of the samples", "7", "7"),
        ("method.levels", "–", "4 4"),
    ]:
        assert f" {name} {first} {second} " in page_of_two.text
    assert "daps train x --shift 1.5" in page_of_two.text and "daps eval run-1.5" in page_of_two.text


def test_pictures_have_the_size_they_say(page_of_two: Page) -> None:
    images = [attributes for tag, attributes in page_of_two.tags if tag == "img"]
    assert all(attributes.get("alt") for attributes in images)
    sizes = [picture(attributes["src"] or "").size for attributes in images]
    assert sizes == [(int(a["width"] or 0), int(a["height"] or 0)) for a in images]
    assert sizes[:6] == [(8 * 64 + 7 * 2, 64)] * 6  # two blocks of eight: originals, first, second
    assert sizes[6:] == [(16 * 34 + 2, 2 * 34 + 2)] * 6  # first, middle and last sample of each run
    labels = page_of_two.attributes("svg", "aria-label")
    assert len(labels) == len(set(labels)) == 2 * 3 + 4 + 2 + 1  # codebooks, curves, over CPU time, the oddity


def test_originals_and_reconstructions_are_shown_as_they_are(page_of_two: Page) -> None:
    values = np.random.default_rng(0).uniform(0, 16, (32, *GRAY)).astype(np.uint8)
    pixels = np.asarray(picture(page_of_two.attributes("img", "src")[0]))
    for i in range(8):  # the middle of each enlarged pixel
        shown = pixels[4::8, i * 66 + 4 : i * 66 + 64 : 8]
        assert np.abs(shown[..., 0] - values[i, 0] * (255 / 16)).max() <= 0.5
    assert set(np.unique(pixels[..., 3])) == {0, 255}  # gaps are transparent


def test_runs_of_other_data_share_the_page(tmp_path: Path) -> None:
    shapes = {"picture": GRAY, "vector": (24,), "sequence": (32, 3)}
    runs = [make_run(tmp_path / name, shape=shape) for name, shape in shapes.items()]
    write_report(runs, tmp_path / "new" / "page.html")
    page = Page(tmp_path / "new" / "page.html")
    assert page.text.count("made for this test") == 3
    assert len([label for label in page.attributes("svg", "aria-label") if "original vector" in label]) == 8
    alts = page.attributes("img", "alt")
    assert sum(alt.startswith("sequence: reconstructions") for alt in alts) == 4
    assert page.open == [] and " SSIM, greedy 0.5000 – – " in page.text


def test_the_same_runs_make_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_report([run], tmp_path / "a.html")
    write_report([run], tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_run_not_evaluated_says_how_and_shows_its_curves(tmp_path: Path) -> None:
    write_report([make_run(tmp_path / "my run", evaluated=False)], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert f"my run has no evaluation yet: daps eval '{tmp_path}/my run' fills its column" in page.text
    assert any("log p(x|z) against step" in label for label in page.attributes("svg", "aria-label"))
    assert "Reconstructions" not in page.text and "Use of the codebook" not in page.text


def test_a_run_just_begun_is_fine(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=0, evaluated=False)
    for name in ("metrics.jsonl", "environment.json"):
        (run / name).unlink()
    write_report([run], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert " 0 of 1,200 " in page.text and "Training curves" not in page.text and page.open == []


def test_a_partial_evaluation_leaves_gaps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluation.json").write_text('{"elbo": -Infinity, "n": 3}')
    (run / "evaluation.npz").unlink()
    write_report([run], tmp_path / "page.html")
    assert " ELBO nats −inf " in Page(tmp_path / "page.html").text


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "<b>a&b\"c'$"
    write_report([make_run(tmp_path / name)], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.source.count("<b>a") == 0 and page.source.count("&lt;b&gt;a&amp;b") > 3
    assert name in page.text and f"{name}: reconstructions of data 1 to 8" in page.attributes("img", "alt")
    assert any(label.startswith(f"{name}: sorted") for label in page.attributes("svg", "aria-label"))


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / part / "run", evaluated=False, rows=0) for part in ("a", "b")]
    labels = [entry.label for entry in read_entries([*runs, runs[0]])]
    assert labels == [str(runs[0]), str(runs[1]), f"{runs[0]} #2"]


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    (tmp_path / "empty").mkdir()
    for runs, target, complaint in [
        ([], page, "report: name one run folder or more, got none"),
        ([run, tmp_path / "none"], page, r"run: no folder .*none; train one first"),
        ([tmp_path / "empty"], page, r"empty holds no config.json"),
        ([run], tmp_path, r"report: the page must be a file, got the folder .*; try -o .*report.html"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            write_report(runs, target)
    assert not page.exists()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("evaluation.npz", r"evaluation.npz: damaged \(.*\); write it again: daps eval .*run"),
        ("evaluation.json", r"evaluation.json is not valid JSON .*; restore it"),
        ("samples/step_00000010.png", r"step_00000010.png: not a picture \(.*\); delete it"),
    ],
)
def test_damage_is_named_and_the_page_kept(tmp_path: Path, name: str, complaint: str) -> None:
    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    page.write_text("as it was")
    (run / name).write_bytes((run / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=complaint):
        write_report([run], page)
    assert page.read_text() == "as it was" and not list(tmp_path.glob(".*"))


def test_a_failed_rendering_leaves_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    page.write_text("as it was")
    monkeypatch.setattr(report, "_codebook", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report([run], page)
    assert page.read_text() == "as it was" and not list(tmp_path.glob(".*"))


def test_long_curves_are_averaged_and_gaps_kept() -> None:
    y = np.concatenate([np.full(1000, np.nan), np.arange(1.0, 9001)])
    curve = plots._averaged(plots.Curve(0, np.arange(10_000.0), y), log=False)
    assert len(curve.x) == plots.POINTS and np.isnan(curve.y[:23]).all() and np.isfinite(curve.y[24:]).all()
    np.testing.assert_allclose(curve.y[24:], curve.x[24:] - 999, rtol=1e-12)  # means of a straight line lie on it
    short = plots._averaged(plots.Curve(0, np.arange(3.0), np.array([-1.0, 0.0, 2.0])), log=True)
    np.testing.assert_array_equal(short.y, [np.nan, np.nan, 2.0])


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (140, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    shown = plots.embedded(tmp_path / "x.png")
    assert (shown.width, shown.height) == picture(shown.uri).size == (1092, 76)
    assert len(shown.uri) < plots.EMBEDDED * 4 / 3
