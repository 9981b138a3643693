"""Figures: what is drawn is what the tables say, one look a run everywhere, nothing overlaps, equal bytes."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from deltageom.display import drawing, palette
from deltageom.display.columns import MATRIX_KEY
from deltageom.report import figures
from deltageom.report.tables.geometry import of_pairs

METHODS = ["sft", "rft", "dft", "rift", "rift_linear", "offline_grpo", "dpo"]
REFERENCE = "sft"
ANGLES = ["left_smallest", "left_largest", "right_smallest", "right_largest"]


def methods_of(count):
    """Runs and their methods: the first so many methods, then variants of them."""
    runs = {m: m for m in METHODS}
    runs |= {f"{m}_{variant}": m for variant in ("lr5e-7", "lr5e-5_seed123", "seed7") for m in METHODS}
    return dict(list(runs.items())[:count])


def sample(count=3, layers=2, gaps=False):
    """Made-up tables of the columns that the figures read; with gaps, the last run has undefined values."""
    rng, methods = np.random.default_rng(0), methods_of(count)
    runs, last = list(methods), list(methods)[-1]
    modules = [(f"layers.{i}.self_attn.{p}_proj", i) for i in range(layers) for p in "qkvo"]
    pairs = [tuple(sorted((REFERENCE, run))) for run in runs if run != REFERENCE]

    def known(value, pair, where):
        return math.nan if gaps and last in pair and where == 0 else value

    accuracy = []
    for benchmark, low in (("easy", 0.6), ("hard", 0.1)):
        for model, p in zip(["base", *runs], rng.uniform(low, low + 0.3, count + 1), strict=True):
            spread = known(0.05, (model,), 0) if benchmark == "hard" else 0.05
            samples, interval = (8, "bootstrap over problems") if benchmark == "hard" else (1, "Wilson")
            accuracy.append((model, benchmark, 300, samples, p, interval, p - spread, p + spread))
    matrix = pd.DataFrame(np.eye(count), index=runs, columns=runs)
    for a, b in combinations(runs, 2):
        matrix.loc[a, b] = matrix.loc[b, a] = known(rng.uniform(-0.1, 1), (a, b), 0)
    angles = [
        (m, layer, a, b, 4, *(known(v, (a, b), layer) for v in rng.uniform(0, 90, 4)))
        for m, layer in modules
        for a, b in pairs
    ]
    by_layer = [
        (layer, a, b, *(known(v, (a, b), layer) for v in rng.uniform(-0.1, 1, 2)))
        for layer in range(layers)
        for a, b in pairs
    ]
    paths = [(a, b, x, rng.uniform(1, 2) + x, 100) for a, b in pairs for x in np.linspace(0, 1, 5)]
    from_base = [(run, "base", x, rng.uniform(1, 2) + x, 100) for run in runs for x in np.linspace(0, 1, 5)]
    solved = [
        (a, b, x, 100, y, y - 0.05, y + 0.05)
        for a, b in [*pairs, *((run, "base") for run in runs)]
        for x, y in zip((-0.5, 0, 0.5, 1), rng.uniform(0.1, 0.9, 4), strict=True)
    ]
    cka = [
        (a, b, layer, kind, known(rng.uniform(0.9, 1), (last,), layer), 100)
        for a, b in pairs
        for layer in range(layers + 1)
        for kind in ("biased", "debiased")
    ]
    curves = [
        (run, step, metric, known(rng.uniform(0.1, 1), (run,), step - 1))
        for run in runs
        for step in range(1, 9)
        for metric in ("loss", "grad_norm", "delta_norm", "kl_to_base", "weight_share_correct", "tokens")
    ]
    frames = {
        "training": (methods.items(), "run method"),
        "training_curves": (curves, "run step metric value"),
        "accuracy": (accuracy, "model benchmark n samples accuracy interval low high"),
        "connectivity": (paths, "a b alpha loss n"),
        "held_out_paths": (paths, "a b alpha loss n"),
        "held_out_from_base": (from_base, "a b alpha loss n"),
        "held_out_accuracy": (solved, "a b alpha n accuracy low high"),
        "cka": (cka, "a b layer estimator similarity n"),
        "trajectory": (
            [(run, None, step, known(rng.uniform(0.1, 1), (run,), step - 1)) for run in runs for step in (1, 4, 64)],
            "run layer step cosine_to_end",
        ),
        "trajectory_pairs": (
            [(a, b, None, step, rng.uniform(0.1, 1)) for a, b in pairs for step in (1, 4, 64)],
            "a b layer step cosine",
        ),
    }
    built = {name: pd.DataFrame(list(rows), columns=c.split()) for name, (rows, c) in frames.items()}
    built["gradients_pairs"] = pd.DataFrame(
        [
            (*sorted(pair), math.nan, None, *(known(v, pair, 0) for v in rng.uniform(-0.2, 1, 3)))
            for pair in combinations(runs, 2)
        ],
        columns=["a", "b", "layer", "module", "gradient", "sign", "delta"],
    )
    built["behaviour"] = pd.DataFrame(
        [(run, 100, rng.uniform(0, 0.3), 0.01, rng.uniform(0, 0.3), 0.02) for run in runs],
        columns=["run", "n", "forward_kl", "forward_kl_se", "reverse_kl", "reverse_kl_se"],
    )
    built["representations"] = pd.DataFrame(
        [
            (run, layer, known(0.9 - 0.1 * layer, (run,), layer), 0.7, 0.95, 100)
            for run in runs
            for layer in range(layers)
        ],
        columns=["run", "layer", "cka", "cka_low", "cka_high", "n"],
    )
    built["representations_pairs"] = pd.DataFrame(
        [(a, b, layer, known(0.1 + 0.1 * layer, (a, b), layer), 0.02) for a, b in pairs for layer in range(layers)],
        columns=["a", "b", "layer", "shift_cosine", "shift_cosine_se"],
    )
    built["attribution"] = pd.DataFrame(
        [
            (run, layer, module, *(known(v, (run,), 0) for v in rng.uniform(-0.2, 1, 3)), 100)
            for run in runs
            for layer, module in [(layer, None) for layer in range(layers)] + [(None, "self_attn.q_proj")]
        ],
        columns=["run", "layer", "module_name", "alone", "lost", "norm_share", "n"],
    )
    built["logit_lens_layers"] = pd.DataFrame(
        [(run, layer, layer / layers, layer / layers / 2, 100) for run in runs for layer in range(layers + 1)],
        columns=["run", "layer", "agreement", "base_agreement", "n"],
    )
    built["loss_plane"] = pd.DataFrame(
        [(run, i, i, 1.5, 100) for i, run in enumerate(["base", *runs[:2]])]
        + [(None, x, y, rng.uniform(1, 2), 100) for x in range(4) for y in range(4)],
        columns=["model", "along", "across", "loss", "n"],
    )
    built["geometry_module"] = tidy(angles, "module layer a b k", ANGLES)
    built["geometry_layer"] = tidy(by_layer, "layer a b", ["cosine", "orthogonal_fraction_stacked"])
    chance = [(a, b, f"{angle}_median", 4, 80.0, 20.0) for a, b in pairs for angle in ANGLES]
    norms = pd.DataFrame([(run, "norm", known(1.0 + i, (run,), 0)) for i, run in enumerate(runs)])
    built["geometry_global"] = pd.concat(
        [
            norms.set_axis(["a", "measure", "value"], axis=1),
            pd.DataFrame(chance, columns=["a", "b", "measure", "k", "chance_fresh_mean", "chance_own_mean"]),
        ]
    )
    return built | {"cosine_matrix": matrix.rename_axis(MATRIX_KEY).reset_index()}


def tidy(rows, keys, measures):
    """One row a number, as the tables of the geometry have it."""
    wide = pd.DataFrame(rows, columns=[*keys.split(), *measures])
    return wide.melt(keys.split(), var_name="measure").assign(k=4)


def texts(figure):
    """Every text that is drawn: not those of hidden axes and of ticks beyond the view."""
    hidden = {t for ax in figure.axes if not ax.get_visible() for t in ax.findobj(Text)}
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        hidden.update(text for tick in beyond for text in tick.findobj(Text))
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [t for t in dict.fromkeys(found) if t not in hidden]


def said(figure):
    return " ".join(" ".join(t.get_text().split()) for t in texts(figure))


def lines(ax, colour):
    return [line for line in ax.get_lines() if to_hex(line.get_color()).upper() == colour]


# the palette


def test_new_run_recolours_no_run_of_another_method():
    before = palette.looks(methods_of(7))
    after = palette.looks(methods_of(7) | {"aaa": "dpo", "sft_seed1": "sft", "mine": "my_own_loss"})
    assert {run: after[run] for run in before} == before
    assert {run: look.colour for run, look in before.items()} == {r: palette.COLOURS[r] for r in before}
    assert after["aaa"] != after["dpo"]
    assert after["mine"].colour in palette.SPARE


def test_looks_do_not_depend_on_the_order_and_are_distinct():
    methods = methods_of(28)
    looks = palette.looks(methods)
    assert looks == palette.looks(dict(reversed(methods.items())))
    assert len(set(looks.values())) == 29
    many = palette.looks({f"sft_{i}": "sft" for i in range(35)})
    assert len(set(many.values()) - {many["base"]}) == 35


def cielab(rgb):
    xyz = rgb @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = (np.cbrt(c) if c > 0.008856 else 7.787 * c + 16 / 116 for c in xyz / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    "sight",  # linear RGB as seen by all, protanopes, deuteranopes, tritanopes (Machado et al. 2009)
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    ids=["all", "protan", "deutan", "tritan"],
)
def test_method_colours_can_be_told_apart(sight):
    def seen(colour):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return cielab(np.clip(np.array(sight) @ linear, 0, 1))

    labs = {method: seen(colour) for method, colour in palette.COLOURS.items()}
    near = min(combinations(labs, 2), key=lambda pair: np.linalg.norm(labs[pair[0]] - labs[pair[1]]))
    assert np.linalg.norm(labs[near[0]] - labs[near[1]]) > 11, near


def test_a_run_has_one_colour_in_all_figures():
    built = sample(7)
    looks = palette.looks(methods_of(7))
    colour = looks["dft"].colour
    accuracy = figures.accuracy(built, REFERENCE).axes[0]
    row = [t.get_text() for t in accuracy.get_yticklabels()].index("dft")
    assert [line.get_ydata()[0] for line in lines(accuracy, colour)] == [row]
    for name in ("training_curves", "cosine_by_layer", "orthogonal_fraction_by_layer", "cka_by_layer"):
        figure = figures.every_figure()[name](built, REFERENCE)
        legend = figure.legends[0]
        labels = [t.get_text() for t in legend.get_texts()]
        handles = dict(zip(labels, legend.get_lines(), strict=True))
        assert {run: line.get_color() for run, line in handles.items()} == {run: looks[run].colour for run in labels}
        assert lines(figure.axes[0], colour)
    paths = {ax.get_title(): ax for ax in figures.every_figure()["connectivity_paths"](built, REFERENCE).axes}
    assert lines(paths["dft"], colour)
    assert not lines(paths["dft"], looks["rft"].colour)


# what is drawn


def test_accuracy_draws_the_table_in_its_order():
    built = sample(3)
    figure = figures.accuracy(built, REFERENCE)
    assert [ax.get_title() for ax in figure.axes] == [
        "easy (n = 300)\npass@1, Wilson",
        "hard (n = 300)\navg@8, bootstrap over problems",
    ]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["base", "sft", "rft", "dft"]
    for ax, benchmark in zip(figure.axes, ("easy", "hard"), strict=True):
        rows = built["accuracy"][built["accuracy"]["benchmark"] == benchmark].reset_index(drop=True)
        drawn = {int(y): x for x, y in (line.get_xydata()[0] for line in ax.get_lines()[1:])}
        assert drawn == rows["accuracy"].to_dict()
        assert ax.get_lines()[0].get_xdata()[0] == rows["accuracy"][0]  # the base's dashed line
        intervals = {round(c.get_segments()[0][0, 1]): c.get_segments()[0][:, 0].tolist() for c in ax.collections}
        assert intervals == {i: [row.low, row.high] for i, row in enumerate(rows.itertuples())}
        (band,) = ax.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((rows["low"][0], rows["high"][0]))


def test_an_undefined_interval_is_left_out_with_a_note():
    figure = figures.accuracy(sample(3, gaps=True), REFERENCE)
    assert "Undefined, left out: dft 1 of 2 intervals." in said(figure)
    assert "Undefined" not in said(figures.accuracy(sample(3), REFERENCE))
    built = sample(3)
    built["accuracy"].loc[built["accuracy"]["model"] == "base", ["low", "high"]] = math.nan
    figure = figures.accuracy(built, REFERENCE)
    assert "Undefined, left out: base 2 of 2 intervals." in said(figure)
    assert [len(ax.patches) for ax in figure.axes] == [0, 0]


def test_heatmap_shows_the_matrix_and_a_dash_for_undefined():
    built = sample(4, gaps=True)
    figure = figures.cosine_heatmap(built, REFERENCE)
    ax, runs = figure.axes[0], list(methods_of(4))
    assert [t.get_text() for t in ax.get_xticklabels()] == runs
    shown = {t.get_position(): t.get_text() for t in ax.texts}
    square = built["cosine_matrix"][runs].to_numpy()
    for (row, column), value in np.ndenumerate(square):
        expected = "–" if np.isnan(value) else f"{value:.3f}".replace("-", "−")
        assert shown[column + 0.5, row + 0.5] == expected
    assert "– : undefined" in said(figure)
    assert "all 8 modules stacked" in said(figure)
    assert "–" not in said(figures.cosine_heatmap(sample(4), REFERENCE))


@pytest.mark.parametrize("name", ["cosine_by_layer", "orthogonal_fraction_by_layer", "cka_by_layer"])
def test_undefined_layers_are_gaps_with_a_note(name):
    built = sample(3, layers=3, gaps=True)
    figure = figures.every_figure()[name](built, REFERENCE)
    colour = palette.COLOURS["dft"]
    curves = [line.get_ydata() for line in lines(figure.axes[0], colour)]
    assert curves
    for curve in curves:
        assert np.isnan(curve[0])
        assert np.isfinite(curve[1:]).all()
    note = "each run 2 of 8 values" if name == "cka_by_layer" else "dft 1 of 3 values"
    assert f"Undefined, left out: {note}." in said(figure)
    assert "Undefined" not in said(figures.every_figure()[name](sample(3), REFERENCE))


def curves_of(**metrics):
    """Tables of a study of `sft` and `dpo`, whose metrics are {run: {step: value}}."""
    rows = [
        (run, step, metric, value)
        for metric, of in metrics.items()
        for run, values in of.items()
        for step, value in values.items()
    ]
    built = sample(2)
    training = pd.DataFrame({"run": ["sft", "dpo"], "method": ["sft", "dpo"]})
    return built | {
        "training": training,
        "training_curves": pd.DataFrame(rows, columns=["run", "step", "metric", "value"]),
    }


def panels_of(figure):
    """The axes by the first words of their titles."""
    return {ax.get_title().split("\n")[0].split(" (")[0]: ax for ax in figure.axes if ax.get_visible()}


def drawn(ax, run):
    """The lines of a run: pale ones first."""
    found = sorted(lines(ax, palette.COLOURS[run]), key=lambda line: line.get_alpha() or 1.0)
    return [(line.get_xdata(), line.get_ydata()) for line in found]


@pytest.mark.parametrize("metric", ["loss", "grad_norm", "weight_share_correct"])
def test_batches_are_pale_under_their_running_mean(metric):
    values = np.random.default_rng(0).uniform(0.1, 1, 75)
    built = curves_of(**{metric: {"sft": dict(enumerate(values, 1)), "dpo": dict(enumerate(values[:50] / 2, 1))}})
    ax = figures.training_curves(built, REFERENCE).axes[0]
    for run, scale, steps, window in (("sft", 1, 75, 3), ("dpo", 0.5, 50, 2)):  # steps // 25, each run's own
        (x, raw), (x_mean, mean) = drawn(ax, run)
        assert list(x) == list(x_mean) == list(range(1, steps + 1))
        assert list(raw) == list(scale * values[:steps])
        expected = [scale * values[max(0, i - window + 1) : i + 1].mean() for i in range(steps)]
        np.testing.assert_allclose(mean, expected, rtol=1e-12)
    pale, bold = sorted(lines(ax, palette.COLOURS["sft"]), key=lambda line: line.get_linewidth())
    assert pale.get_alpha() < 0.5
    assert bold.get_alpha() is None


def test_few_steps_are_not_averaged_and_the_delta_never_is():
    values = {step: float(step % 7) + 1 for step in range(1, 101)}
    first = {step: values[step] for step in range(1, 50)}
    shown = panels_of(figures.training_curves(curves_of(loss={"sft": first}, delta_norm={"sft": values}), REFERENCE))
    ((x, norm),) = drawn(shown["norm of the delta"], "sft")
    assert dict(zip(x, norm, strict=True)) == values
    # the run has 100 steps, whatever its loss has: four of them are averaged
    (_, (_, mean)) = drawn(shown["loss"], "sft")
    assert mean[3] == np.mean([values[step] for step in (1, 2, 3, 4)])
    alone = figures.training_curves(curves_of(loss={"sft": first}), REFERENCE).axes[0]
    (_, raw), (_, mean) = drawn(alone, "sft")
    assert list(raw) == list(mean) == list(first.values())


def test_a_step_without_the_metric_is_a_gap():
    steps = {1: 1.0, 2: 2.0, 3: math.inf, 4: 4.0, 7: 7.0, 50: 1.0}
    built = curves_of(loss={"sft": steps}, delta_norm={"sft": steps})
    figure = figures.training_curves(built, REFERENCE)
    for ax in figure.axes[:2]:
        for x, y in drawn(ax, "sft"):
            assert list(x) == list(range(1, 51))
            assert list(x[np.isfinite(y)]) == [1, 2, 4, 7, 50]
        marked = [line for line in lines(ax, palette.COLOURS["sft"]) if line.get_marker() != "None"]
        assert [line.get_markevery() for line in marked] == [[3, 6, 49]]  # what no line shows, and the end
    assert "Undefined, left out: sft 2 of 12 values." in said(figure)


def test_gradients_are_on_a_log_scale_and_zero_is_left_out():
    built = curves_of(grad_norm={"sft": {1: 0.01, 2: 0.0, 3: 10.0}}, loss={"sft": {1: 0.5, 2: -0.5, 3: 1.0}})
    shown = panels_of(figures.training_curves(built, REFERENCE))
    assert {name: ax.get_yscale() for name, ax in shown.items()} == {
        "loss": "linear",
        "gradient norm before clipping": "log",
    }
    low, high = shown["gradient norm before clipping"].get_ylim()
    assert 0 < low < 0.01 < 10 < high
    assert not np.isfinite(shown["gradient norm before clipping"].yaxis.get_transform().transform([0.0])).any()
    figure = figures.training_curves(built, REFERENCE)
    figure.canvas.draw()
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert {"0.01", "0.1", "1", "10"} <= set(labels)
    assert "mathdefault" not in said(figure)


def test_kl_has_a_marker_at_each_finite_measurement_alone():
    measured = {16: 0.1, 24: math.inf, 32: 0.3, 40: 0.2}
    built = curves_of(kl_to_base={"sft": measured}, loss={"sft": dict.fromkeys(range(1, 41), 1.0)})
    ax = panels_of(figures.training_curves(built, REFERENCE))["KL(base || run)"]
    (line,) = lines(ax, palette.COLOURS["sft"])
    assert list(line.get_xdata()) == list(measured)
    np.testing.assert_array_equal(line.get_ydata(), [0.1, math.nan, 0.3, 0.2])
    assert (line.get_marker(), line.get_markevery()) == ("o", None)


def test_panels_without_data_are_left_out_and_titles_have_units():
    built = sample(3)
    assert list(panels_of(figures.training_curves(built, REFERENCE))) == [
        "loss", "gradient norm before clipping", "norm of the delta", "KL(base || run)",
        "share of |d loss / d log-prob|",
    ]  # fmt: skip
    texts_ = said(figures.training_curves(built, REFERENCE))
    for unit in ("different quantities", "Frobenius", "nats per token", "0 to 1", "optimiser step"):
        assert unit in texts_
    curves = built["training_curves"]
    less = curves[~curves["metric"].isin(["kl_to_base"])]
    less.loc[less["metric"] == "delta_norm", "value"] = math.nan
    shown = panels_of(figures.training_curves(built | {"training_curves": less}, REFERENCE))
    assert list(shown) == ["loss", "gradient norm before clipping", "share of |d loss / d log-prob|"]
    none = figures.training_curves(built | {"training_curves": curves[:0]}, REFERENCE)
    assert said(none) == "No training metrics."


def test_panels_share_their_steps_and_nothing_else():
    built = curves_of(loss={"sft": {1: 5.0, 640: 9.0}}, delta_norm={"dpo": {1: 0.1, 64: 0.2}})
    one, other = figures.training_curves(built, REFERENCE).axes[:2]
    assert one.get_xlim() == other.get_xlim()
    assert one.get_ylim()[0] > other.get_ylim()[1]


def test_lines_are_the_tables_values():
    built = sample(2)
    ax = figures.cosine_by_layer(built, REFERENCE).axes[0]
    values = built["geometry_layer"].query("measure == 'cosine'")["value"].tolist()
    assert lines(ax, palette.COLOURS["rft"])[0].get_xydata().tolist() == [[0, values[0]], [1, values[1]]]
    ax = figures.every_figure()["cka_by_layer"](built, REFERENCE).axes[0]
    drawn = {line.get_linestyle(): line.get_ydata().tolist() for line in lines(ax, palette.COLOURS["rft"])}
    for estimator, dash in (("debiased", "-"), ("biased", "--")):
        rows = built["cka"][built["cka"]["estimator"] == estimator]
        assert drawn[dash] == rows["similarity"].tolist()


def test_heatmap_and_layers_show_the_means_of_replicates():
    built = sample(4)
    rows = pd.DataFrame([{"a": "rft", "b": "sft", "value": 0.5, "measure": "cosine", "source": "geometry_global"}])
    layers = built["geometry_layer"].query("measure == 'cosine'").assign(source="geometry_layer")
    means = pd.concat([rows, layers], ignore_index=True)
    means["mean"], means["n"] = means["value"] / 2, 3
    over = built | {"replicates": means}
    figure = figures.cosine_heatmap(over, REFERENCE)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown.count("0.250") == 2
    assert "mean of 3 replicates" in said(figure)
    one, half = (figures.cosine_by_layer(tables, REFERENCE).axes[0] for tables in (built, over))
    colour = palette.COLOURS["rft"]
    assert lines(half, colour)[0].get_ydata() == pytest.approx(lines(one, colour)[0].get_ydata() / 2)
    assert "replicates" not in said(figures.cosine_heatmap(built, REFERENCE))


def test_paths_start_at_the_reference_whichever_side_it_is_on():
    built = sample(3)
    frame = built["connectivity"]
    assert frame[["a", "b"]].drop_duplicates().to_numpy().tolist() == [["rft", "sft"], ["dft", "sft"]]
    for reference, run in (("sft", "rft"), ("rft", "sft")):
        ax = figures.every_figure()["connectivity_paths"](built, reference).axes[0]
        assert ax.get_title() == run
        losses = frame.query("a == 'rft'").set_index("alpha")["loss"]  # alpha is rft's share
        curve = next(line for line in ax.get_lines() if len(line.get_xdata()) == 5)
        share_of_rft = curve.get_xdata() if run == "rft" else 1 - curve.get_xdata()
        assert curve.get_ydata().tolist() == losses.loc[share_of_rft].tolist()


def test_angles_show_median_and_range_over_defined_modules():
    built = sample(3, layers=3, gaps=True)
    figure = figures.principal_angles(built, REFERENCE)
    rows = of_pairs(built["geometry_module"]).query("a == 'dft'")
    medians = [line.get_xdata()[0] for line in lines(figure.axes[0], palette.COLOURS["dft"])]
    faces = [line.get_markerfacecolor() for line in lines(figure.axes[0], palette.COLOURS["dft"])]
    assert faces == [palette.COLOURS["dft"], "white"]  # smallest filled, largest hollow
    assert medians == [rows["left_smallest"].median(), rows["left_largest"].median()]
    medians = [line.get_xdata()[0] for line in lines(figure.axes[1], palette.COLOURS["dft"])]
    assert medians == [rows["right_smallest"].median(), rows["right_largest"].median()]
    assert "top k = 4 singular directions" in said(figure)
    assert "over 12 modules" in said(figure)
    assert "Undefined, left out: dft 4 of 12 modules." in said(figure)


def test_angles_stand_beside_what_chance_gives():
    """A mark at 20 degrees on the right, where the runs' own A counts, and at 80 or so where there is none to count."""
    built = sample(3)
    frame = built["geometry_global"]
    frame.loc[frame["measure"].str.startswith("left"), "chance_own_mean"] = math.nan
    left, right = figures.principal_angles(built, REFERENCE).axes

    def marks(ax):
        grey = [c for c in ax.collections if to_hex(c.get_color()[0]) == drawing.GREY.lower()]
        return sorted({point[0] for c in grey for segment in c.get_segments() for point in segment})

    assert (marks(left), marks(right)) == ([80.0], [20.0])


@pytest.mark.parametrize("name", figures.every_figure())
def test_single_run_is_drawn_or_said_to_have_no_other(name):
    figure = figures.every_figure()[name](sample(1), REFERENCE)
    alone = ("training_curves", "accuracy", "cosine_heatmap", "behaviour", "representations")
    alone += ("attribution", "loss_plane", "logit_lens", "held_out_from_base", "held_out_accuracy")
    compares = name not in alone
    assert ("Nothing to compare with the reference." in said(figure)) == compares


def test_gradients_are_a_point_per_pair_against_the_trained_updates():
    built = sample(4)
    table, looks = built["gradients_pairs"], palette.looks(methods_of(4))
    for ax, column in zip(
        figures.every_figure()["gradients"](built, REFERENCE).axes, ("gradient", "sign"), strict=True
    ):
        for row in table.itertuples():
            pair = {row.a, row.b} - {REFERENCE}
            colour = looks[pair.pop()].colour if len(pair) == 1 else drawing.FAINT
            points = [tuple(p) for line in lines(ax, colour.upper()) for p in line.get_xydata()]
            assert (getattr(row, column), row.delta) in points


def test_behaviour_is_a_point_per_run_by_norm_and_by_accuracy():
    built = sample(3)
    by_norm, by_score = figures.every_figure()["behaviour"](built, REFERENCE).axes
    scores = built["accuracy"].query("benchmark == 'easy'").set_index("model")["accuracy"]
    for i, row in enumerate(built["behaviour"].itertuples()):
        colour = palette.COLOURS[row.run]
        points = {tuple(line.get_xydata()[0]) for line in lines(by_norm, colour)}
        assert {(1.0 + i, row.forward_kl), (1.0 + i, row.reverse_kl)} <= points
        assert [tuple(line.get_xydata()[0]) for line in lines(by_score, colour)] == [(row.forward_kl, scores[row.run])]
    assert by_score.get_lines()[-1].get_ydata()[0] == scores["base"]


def test_attribution_has_a_cell_per_run_and_part():
    built = sample(3)
    panels = [ax for ax in figures.every_figure()["attribution"](built, REFERENCE).axes if ax.get_title()]
    table = built["attribution"].set_index("run")
    for ax, column in zip(panels, ("alone", "lost", "norm_share"), strict=True):
        (mesh,) = ax.collections
        drawn = np.ma.filled(mesh.get_array(), np.nan).reshape(3, -1)
        for i, run in enumerate(table.index.unique()):
            np.testing.assert_allclose(drawn[i], table.loc[run, column].to_numpy(float))


def test_paths_from_the_base_begin_at_the_base_and_end_at_each_run():
    built = sample(3)
    drawn = {ax.get_title(): ax for ax in figures.every_figure()["held_out_from_base"](built, REFERENCE).axes}
    assert list(drawn) == METHODS[:3]
    for run, ax in drawn.items():
        path = built["held_out_from_base"].query("a == @run")
        known = list(zip(path["alpha"], path["loss"], strict=True))
        assert [tuple(point) for point in lines(ax, palette.COLOURS[run])[0].get_xydata()] == known
        assert tuple(lines(ax, palette.COLOURS["base"])[0].get_xydata()[0]) == known[0]


def test_accuracy_is_drawn_by_the_share_of_the_other_end():
    built = sample(3)
    drawn = {ax.get_title(): ax for ax in figures.every_figure()["held_out_accuracy"](built, REFERENCE).axes}
    assert list(drawn) == [*METHODS[1:3], "base"]
    for other, ax in drawn.items():
        rows = [row for row in built["held_out_accuracy"].itertuples() if {row.a, row.b} == {REFERENCE, other}]
        known = {(1 - row.alpha if row.a == REFERENCE else row.alpha, row.accuracy) for row in rows}
        (line,) = lines(ax, palette.COLOURS[other])
        assert {tuple(point) for point in line.get_xydata()} == known


def test_the_loss_plane_has_its_models_at_their_places():
    built = sample(3)
    ax = figures.every_figure()["loss_plane"](built, REFERENCE).axes[0]
    points = [tuple(line.get_xydata()[0]) for line in ax.get_lines()]
    assert points == [(0, 0), (1, 1), (2, 2)]


# layout and files


FEW = ("training_curves", "accuracy", "cosine_heatmap", "cka_by_layer", "principal_angles", "connectivity_paths")
FEW += ("gradients", "behaviour", "representations", "attribution", "loss_plane", "logit_lens")
FEW += ("held_out_from_base", "held_out_accuracy")
MANY = ("training_curves", "cosine_heatmap", "cosine_by_layer", "connectivity_paths")  # the others are laid out alike


@pytest.mark.parametrize(
    ("name", "count", "layers"),
    [(n, 2, 2) for n in figures.every_figure()] + [(n, 7, 4) for n in FEW] + [(n, 20, 36) for n in MANY],
)
def test_no_text_is_cut_off_or_overlaps(name, count, layers):
    figure = figures.every_figure()[name](sample(count, layers, gaps=True), REFERENCE)
    figure.canvas.draw()
    turned = [t for t in texts(figure) if t.get_rotation() % 90]
    boxes = {t: t.get_window_extent() for t in texts(figure)}
    for text, box in boxes.items():
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} is cut off"
    for (one, box), (other, box2) in combinations(((t, b) for t, b in boxes.items() if t not in turned), 2):
        over = min(box.x1, box2.x1) - max(box.x0, box2.x0), min(box.y1, box2.y1) - max(box.y0, box2.y0)
        assert min(over) < 1, f"{one.get_text()!r} lies over {other.get_text()!r}"


@pytest.mark.parametrize("name", ["accuracy", "cka_by_layer"])
def test_saved_twice_gives_equal_bytes_without_a_date(tmp_path, name):
    for folder in ("one", "two"):
        for kind in ("svg", "png", "pdf"):
            drawing.save(figures.every_figure()[name](sample(3), REFERENCE), tmp_path / folder / f"{name}.{kind}")
    for kind in ("svg", "png", "pdf"):
        one, two = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two
    svg = (tmp_path / "one" / f"{name}.svg").read_text()
    assert "<text" in svg
    assert "rft" in svg
    assert "date>" not in svg


def test_names_are_shown_as_they_are():
    built = sample(2)
    built = {name: table.replace({"rft": "rft_$a$_" + "x" * 40}) for name, table in built.items()}
    figure = figures.cosine_by_layer(built, REFERENCE)
    figure.canvas.draw()
    assert figure.legends[0].get_texts()[0].get_text() == "rft_$a$_xxxxxxxxx…xxxxxxxxxx"
