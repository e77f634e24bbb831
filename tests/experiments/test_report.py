"""What a report shows: pictures, tables, sections, other protocols."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from scipy import stats

from diffrec_jax.assembly import HOW
from diffrec_jax.config import ConfigError
from diffrec_jax.training.run_directory import CONFIG_DIGEST
from experiments import kept
from experiments.blocks import Cell, Heading, Paragraph, Picture, TableBlock
from experiments.figures import COLOURS, dots, for_file, for_page, label_offsets, lines, pareto, pareto_front
from experiments.findings import CONFIRMED, Findings
from experiments.pages import markdown_table, to_html, to_markdown
from experiments.protocols import FILES, by_protocol
from experiments.sections import file_name, kendall, sections
from tests.experiments.found import ON_CLEAN, found_of

pytestmark = pytest.mark.once


def test_names_of_pictures_suit_every_file_system():
    assert file_name("sequences-beauty 8:1:1") == "sequences-beauty-811"
    assert file_name("pareto-s / 1,000 users-ml-1m clean") == "pareto-s--1000-users-ml-1m-clean"


def test_orders_and_fronts():
    rng = np.random.default_rng(0)
    labels = [f"m{number}" for number in range(9)]
    first, second = ({label: int(place) for label, place in zip(labels, rng.permutation(9))} for _ in range(2))
    expected = stats.kendalltau([first[label] for label in labels], [second[label] for label in labels]).statistic
    assert kendall(first, second) == pytest.approx(expected)
    points = {label: tuple(rng.random(2)) for label in labels}
    beaten = {
        a for a, b in itertools.permutations(labels, 2) if points[b][0] <= points[a][0] and points[b][1] >= points[a][1]
    }
    assert set(pareto_front(points)) == set(labels) - beaten


def test_labels_cover_neither_each_other_nor_points_where_there_is_room():
    rng = np.random.default_rng(0)
    places, labels = rng.uniform(0, 400, (12, 2)).tolist(), [f"model {number}" for number in range(12)]
    offsets = label_offsets(labels, places, [7.0] * 12)
    boxes = [(x + dx, y + dy, x + dx + 0.6 * 7 * len(label), y + dy + 7)
             for label, (x, y), (dx, dy) in zip(labels, places, offsets)]  # fmt: skip
    for number, (left, low, right, high) in enumerate(boxes):
        for other in boxes[:number]:
            assert other[0] >= right or left >= other[2] or other[1] >= high or low >= other[3]
        assert not any(left < x < right and low < y < high for x, y in places)


def test_a_run_by_several_protocols(tmp_path):
    """Whatever was measured; a file that is damaged, or of other results, counts as none."""
    results = {CONFIG_DIGEST: "a"}
    per_user = {"ndcg@7": np.array([0.5, 0.0, 0.2]), "num_relevant": np.array([2, 0, 1])}
    expected = {"official": 0.7 / 3, "relevant users": 0.35}
    assert by_protocol(tmp_path, results, per_user, "ndcg@7") == pytest.approx(expected)
    per_user["recall@7"], per_user["capped_recall@7"] = np.array([0.2, 0.0, 0.4]), np.array([0.4, 0.0, 0.8])
    np.savez(tmp_path / FILES["sampled"], **{"recall@7": np.ones(3), HOW: json.dumps({"config_sha256": "a"})})
    (tmp_path / FILES["valid-in-input"]).write_bytes(b"torn")
    found = by_protocol(tmp_path, results, per_user, "recall@7")
    assert found == pytest.approx({"official": 0.2, "relevant users": 0.3, "capped": 0.4, "sampled": 1.0})
    assert "sampled" not in by_protocol(tmp_path, {CONFIG_DIGEST: "b"}, per_user, "recall@7")


def test_a_report_asks_nothing_of_the_network_and_shows_what_was_found(tmp_path):
    found = {
        "models": found_of("models", ["DiffRec", "EASE", "MF"]),
        "steps": found_of("steps", ["2", "10", "40"]),
        "clusters": Findings("clusters", {}, []),  # not done yet
    }
    found["steps"].by_data["ml-1m clean"].users["2"] = {"recall@20": np.arange(3, dtype=np.float32)}
    for own in found.values():
        kept.write(own, tmp_path / "kept")
    stored = kept.read(tmp_path / "kept", found)
    assert stored == found
    assert stored["steps"].by_data["ml-1m clean"].users["2"]["recall@20"].tolist() == [0, 1, 2]
    (tmp_path / "kept" / "steps.npz").write_bytes(b"half")  # users' metrics of something else
    assert kept.read(tmp_path / "kept", ["steps"])["steps"].by_data["ml-1m clean"].users == {}
    (tmp_path / "kept" / "models.json").write_text("{")
    with pytest.raises(ConfigError, match=r"models\.json cannot be read .* delete it"):
        kept.read(tmp_path / "kept", found)
    assert list(kept.read(tmp_path / "kept", ["steps"])) == ["steps"]
    blocks = list(sections(found))
    markdown, page = to_markdown("Title", blocks, tmp_path), to_html("Title", blocks)
    mean = np.mean(found["models"].by_data["ml-1m clean"].rows[0].test["recall@20"])
    for text in (markdown, page):
        assert f"{mean:.4f}" in text and CONFIRMED in text and "--studies=steps" in text
        assert "clusters" not in text
    assert "a &lt; b" in page and "2 x cpu &lt;tm&gt;" in page
    named = re.findall(r"!\[.*?\]\((.+?)\)", markdown)
    assert len(named) == 5 and all((tmp_path / name).read_text().startswith("<?xml") for name in named)
    links = re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) + re.findall(r"url\((?!#)", page)
    assert links == [] and "default-src 'none'" in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    without = {"steps": dataclasses.replace(found["steps"], claims=[])}
    assert "claim" not in to_html("Title", list(sections(without))).split("</style>")[1].lower()
    assert markdown == to_markdown("Title", list(sections(found)), tmp_path)  # nothing of it depends on the moment


def test_a_table_says_what_its_rows_and_columns_are():
    """In HTML its caption is the last heading, a row has a heading; in both, text stands left and numbers right."""
    table = TableBlock(["model", "recall", "why"], [[Cell("a|b", "a|b"), Cell("-", float("-inf")), Cell("<", "<")]])
    page = to_html("Title", [table, Heading("One & two"), Paragraph("Text"), table, Heading("Three", 3), table])
    assert re.findall("<caption>(.*?)</caption>", page) == ["Title", "One &amp; two", "Three"]
    row = (
        '<tr><th scope="row" class="text" data-value="a|b">a|b</th><td data-value="-inf">-</td>'
        '<td class="text" data-value="&lt;">&lt;</td></tr>'
    )
    assert page.count(row) == 3
    assert re.findall('<th scope="col"(.*?)>', page)[:3] == [' class="text"', "", ' class="text"']
    assert markdown_table(table) == ["| model | recall | why |", "| --- | ---: | --- |", r"| a\|b | - | < |"]


def test_pictures_take_any_name():
    drawn = (
        lines("a", {"one": {"0": [1.0, 2.0], "$x": [1.5]}, "two": {"0": [1.0]}}, ["0", "$x"], "x", "y"),
        dots("b", {"$a": [1.0], "b": [1.0, 2.0]}, "y"),
        pareto("c", {"$a": ([1.0, 1.5], [2.0, 2.5]), "b": ([2.0], [1.0])}, "x", "y"),
    )
    for svg in drawn:
        assert "currentColor" in for_page(svg, "what it shows") and "#010203" not in for_page(svg, "what it shows")
        assert "#010203" not in for_file(svg) and svg.count("<svg") == 1


def texts_of(svg):
    """What is written in a picture, in its order; words of a place along the axis stand below each other."""
    return re.findall(r">([^<>\n]+)</t(?:ext|span)>", svg)


def line_of(svg, colour):
    """The steps of the line through a series: M starts anew, L goes on."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {colour.lower()}[^>]*linecap: square', svg)
    return re.findall("[ML]", paths[0])


def test_a_line_has_its_places_in_the_order_given_and_a_gap_where_one_is_missing():
    places = ["clean", "10%", "30%", "50%"]
    series = {"a": {"clean": [1.0], "30%": [2.0], "50%": [3.0]}, "b": {place: [1.0] for place in places}}
    svg = lines("a", series, places, "x", "y")
    assert texts_of(svg)[:4] == places
    assert [line_of(svg, colour) for colour in COLOURS[:2]] == [["M", "M", "L"], ["M", "L", "L", "L"]]


def test_pictures_along_an_axis_have_the_order_of_the_study():
    """Of datasets, and of variants, whatever was found first and whatever is missing."""
    measured = {
        data: found_of("random-noise", labels).by_data[ON_CLEAN]
        for data, labels in {
            "50% random": ["DiffRec", "EASE"],
            "10% random": ["EASE", "CDAE"],
            ON_CLEAN: ["DiffRec", "EASE"],
        }.items()
    }
    found = {
        "random-noise": Findings("random-noise", measured, []),
        "steps": found_of("steps", ["100", "2", "5"]),
    }
    along_data, along_axis = (block for block in sections(found) if isinstance(block, Picture))
    assert texts_of(along_data.svg)[:6] == ["ml-1m", "clean", "10%", "random", "50%", "random"]
    assert line_of(along_data.svg, COLOURS[0]) == ["M", "M"]
    assert texts_of(along_axis.svg)[:5] == ["2", "5", "10", "40", "100"]
    assert line_of(along_axis.svg, COLOURS[0]) == ["M", "L", "M"]
    assert "evenly spaced" in along_data.description and "evenly spaced" in along_axis.description
