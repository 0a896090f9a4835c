import io
import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import PIL.Image
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from grcn.errors import CheckpointError, DataError
from grcn.evaluation import evaluate
from grcn.evaluation.confusion import confusion_matrix
from grcn.evaluation.voc import match_voc
from grcn.reports import metrics as report
from grcn.reports.metrics import confusion_figure, precision_recall_figures, print_metrics, write_report
from grcn.reports.tables import MOST_ROWS
from grcn.types import Detections, Target


def scene(names, images=20, seed=0):
    """Every class but the last has objects; most are found."""
    rng = np.random.default_rng(seed)
    targets, detections = [], []
    for _ in range(images):
        n = 8
        corner = rng.uniform(0, 100, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (n, 2))], axis=1)
        labels = rng.integers(0, max(len(names) - 1, 1), n)
        found = boxes + rng.normal(0, 2, boxes.shape)
        classes = np.where(rng.random(n) < 0.8, labels, rng.integers(0, len(names), n))
        targets.append(Target(boxes, labels))
        detections.append(Detections(found, rng.random(n), classes, names))
    return targets, detections


def test_files(tmp_path):
    classes = ("cat", "$dog_1", "owl")
    targets, detections = scene(classes)
    metrics = evaluate(detections, targets, classes)
    out = tmp_path / "new" / "report"
    written = write_report(out, metrics, detections, targets, classes)
    assert sorted(p.name for p in out.iterdir()) == ["confusion_matrix.png", "metrics.json", "precision_recall.png"]
    assert sorted(written) == sorted(out.iterdir())
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8")) == metrics
    for path in written[1:]:
        with PIL.Image.open(path) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # something is drawn


def test_writing_again_replaces_the_files(tmp_path):
    targets, detections = scene(("cat", "dog"))
    for images in (20, 5):
        metrics = evaluate(detections[:images], targets[:images], ("cat", "dog"))
        write_report(tmp_path, metrics, detections[:images], targets[:images], ("cat", "dog"))
        assert json.loads((tmp_path / "metrics.json").read_text())["images"] == images
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_found_and_nothing_there_can_be_reported(tmp_path):
    nothing = [Detections([], [], [], ("cat", "dog"))]
    for i, target in enumerate((Target([], []), Target([[0, 0, 9, 9]], [0]))):
        metrics = evaluate(nothing, [target], ("cat", "dog"))
        assert len(write_report(tmp_path / str(i), metrics, nothing, [target], ("cat", "dog"))) == 3


def test_many_classes_go_over_several_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_CLASSES_A_PAGE", 6)  # 80 panels take seconds to draw
    classes = tuple(f"class {i}" for i in range(10))
    targets, detections = scene(classes, images=40)
    metrics = evaluate(detections, targets, classes)
    matches = match_voc(targets, detections, 10)
    pages = precision_recall_figures(matches, classes)
    panels = [[axes for axes in page.axes if axes.lines] for page in pages]
    assert [len(page) for page in panels] == [6, 3]  # the last class has no objects
    assert "1 of 10 classes" in pages[0].get_suptitle()
    aps = metrics["voc_area"]["per_class"]["class 6"]
    assert panels[1][0].get_title() == f"class 6\nAP50 {aps['AP50']:.3f}   AP70 {aps['AP70']:.3f}"
    figure = confusion_figure(
        confusion_matrix(targets, detections, 10), classes, scores_in_words="score ≥ 0.5", iou=0.5
    )
    assert "6 of 10 classes" in figure.get_suptitle()
    most = sorted(np.argsort(-matches.objects, kind="stable")[:6])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()[:-1]] == [classes[c] for c in most]
    written = write_report(tmp_path, metrics, detections, targets, classes)
    assert {"precision_recall.png", "precision_recall_2.png"} < {path.name for path in written}


def test_a_curve_ends_at_the_recall_reached_and_spans_its_ap():
    targets, detections = scene(("cat", "dog"))
    matches = match_voc(targets, detections, 2)
    panel = precision_recall_figures(matches, ("cat", "dog"))[0].axes[0]
    for envelope, iou in zip(panel.lines[1::2], (0.5, 0.7), strict=True):
        x, y = (np.asarray(values, dtype=float) for values in envelope.get_data())
        curve = matches.curve(iou, 0)
        assert (x[0], x[-1], y[-1]) == (0, curve.recall[-1], 0)
        assert np.sum(np.diff(x) * y[1:]) == pytest.approx(curve.ap("area"))


@pytest.mark.parametrize("count", [1, 2, 5, 12, 20])
def test_no_text_runs_into_another(count):
    long = tuple(f"{i} a class with quite a long name, longer than any panel is wide" for i in range(count))
    targets, detections = scene((*long, "none"), images=3 * count)
    figure = precision_recall_figures(match_voc(targets, detections, count + 1), (*long, "none"))[0]
    FigureCanvasAgg(figure).draw()  # lays it out
    texts = [text for text in (axes.title for axes in figure.axes) if text.get_text()]
    texts += [text for text in figure.texts if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
    assert len(boxes) == count + 3 + 1  # panels, the figure's title and axes, its legend
    for (a, a_box), (b, b_box) in combinations(boxes, 2):
        assert not a_box.overlaps(b_box), (a, b)


def test_confusion_picture_counts():
    targets, detections = scene(("cat", "dog", "owl"))
    matrix = confusion_matrix(targets, detections, 3)
    figure = confusion_figure(matrix, ("cat", "dog", "owl"), scores_in_words="score ≥ 0.5", iou=0.5)
    axes = figure.axes[0]
    drawn = {text.get_position(): text.get_text() for text in axes.texts}
    assert drawn == {(column, row): str(matrix[row, column]) for row, column in zip(*np.nonzero(matrix), strict=True)}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cat", "dog", "owl", "background (missed)"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog", "owl", "background (false)"]
    share = np.asarray(axes.images[0].get_array())
    assert share[0, 1] == pytest.approx(matrix[0, 1] / matrix[0].sum())
    assert "score ≥ 0.5" in figure.get_suptitle()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    targets, detections = scene(("cat", "dog"), images=2)
    with pytest.raises(CheckpointError, match="file/report"):
        write_report(tmp_path / "file" / "report", {}, detections, targets, ("cat", "dog"))


def test_nan_is_never_written(tmp_path):
    targets, detections = scene(("cat", "dog"), images=2)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path, {"AP": float("nan")}, detections, targets, ("cat", "dog"))
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_correspond_is_refused(tmp_path):
    targets, detections = scene(("cat", "dog"), images=2)
    with pytest.raises(DataError, match="detections of 1 images, but targets of 2"):
        write_report(tmp_path, {}, detections[:1], targets, ("cat", "dog"))


@pytest.mark.parametrize("iou", [(0.5, 0.7), tuple(k / 100 for k in range(50, 100, 5))])
def test_the_table_holds_every_figure_in_eighty_columns(iou):
    classes = ("cat", "[b]dog[/b]", "owl")
    targets, detections = scene(classes)
    metrics = evaluate(detections, targets, classes, iou=iou)
    out = io.StringIO()
    print_metrics(metrics, Console(file=out, width=80, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split()[0]: f"{line} " for line in text.splitlines() if line.strip()}
    for name, row in (*list(metrics["per_class"].items())[:2], ("mean", metrics)):
        for key in ("AP", "AP50", "AP70", "AP75"):
            assert f" {row[key]:.3f} " in rows[name]
        assert f" {row['objects']} " in rows[name]
    for key in ("APs", "APm", "AR100"):
        assert f"{key} {metrics[key]:.3f}" in text
    assert "APl -" in text  # no large objects
    words = " ".join(text.split())
    for section in ("voc_area", "voc_11point"):
        for key in (k for k in metrics[section] if k.startswith("AP")):
            assert f"{key} {metrics[section][key]:.3f}" in words
        assert metrics[section]["mode"] in words
        assert metrics[section]["difficult"] in words
    assert metrics["rule"] in words
    assert "without objects, and so not in the means: owl" in text
    assert "owl" not in rows


def test_many_classes_and_long_names_fit_eighty_columns():
    """Names are folded and figures are not; a list that is cut off says how long it is and how to see all."""
    classes = ("Enterobacteriaceae-gram-negative-extended-spectrum", "a ship with cranes, " * 3)
    classes += tuple(f"c{i}" for i in range(MOST_ROWS + 20))
    targets = [Target(np.tile([[1.0, 1.0, 9.0, 9.0]], (MOST_ROWS + 4, 1)), np.arange(MOST_ROWS + 4))]
    detections = [Detections(targets[0].boxes, np.full(MOST_ROWS + 4, 0.5), targets[0].labels, classes)]
    metrics = evaluate(detections, targets, classes, iou=(0.5, 0.7))
    out = io.StringIO()
    print_metrics(metrics, Console(file=out, width=80, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    assert next(line for line in lines if line.startswith("Entero")).endswith(" 1.000 1.000 1.000 1.000 1.000 1.000")
    assert "and 4 more (--json lists all)" in [line.strip() for line in lines]
    without = "without objects, and so not in the means: c102, c103, c104, c105, c106 and 13 more (--json lists all)"
    assert without in " ".join(out.getvalue().split())


def test_what_is_heavy_is_imported_when_used(tmp_path):
    code = (
        "import sys, grcn.evaluation as e, grcn.reports.metrics as m;"
        "heavy = {'matplotlib', 'torch', 'faster_coco_eval', 'rich', 'cv2'};"
        "print(sorted(heavy & set(sys.modules)));"
        "from grcn.types import Target, Detections;"
        "d, t = [Detections([[0, 0, 9, 9]], [0.5], [0], ('a',))], [Target([[0, 0, 9, 9]], [0])];"
        "m.write_report(sys.argv[1], e.evaluate(d, t, ('a',)), d, t, ('a',));"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False False"]
