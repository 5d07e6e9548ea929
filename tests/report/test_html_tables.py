"""Tables as HTML: well formed, escaped, numbers to sort by, intervals in one column."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from airwaystudy.report.html_tables import MOST_ROWS, cell, compact, html_table, with_interval


def parsed(table, **options):
    box = ElementTree.fromstring(html_table(table, "Caption & more", **options))
    return box.find("table")


def test_headers_are_buttons_that_tell_the_order():
    table = parsed(pd.DataFrame({"run": ["a"], "td": [90.123]}))
    heads = table.findall("thead/tr/th")
    assert [head.attrib for head in heads] == [{"scope": "col", "aria-sort": "none"}] * 2
    assert [head.find("button").text for head in heads] == ["run", "td"]
    assert table.find("caption/span").text == "Caption & more"


def test_box_scrolls_and_can_be_reached_by_keyboard():
    box = ElementTree.fromstring(html_table(pd.DataFrame({"a": [1]}), "Scores"))
    assert box.attrib == {"class": "box", "tabindex": "0", "role": "region", "aria-label": "Scores"}


def test_what_is_in_a_table_is_text():
    table = parsed(pd.DataFrame({"<b>": ["<script>alert(1)</script> & co", "said"]}), marked="<b>")
    assert [row.find("td").text for row in table.findall("tbody/tr")] == ["<script>alert(1)</script> & co", "said"]


@pytest.mark.parametrize(
    ("value", "html"),
    [
        (3, '<td class="number" data-value="3">3</td>'),
        (90.125, '<td class="number" data-value="90.125">90.12</td>'),
        (0.00321, '<td class="number" data-value="0.00321">0.0032</td>'),
        (-5.0, '<td class="number" data-value="-5">-5</td>'),
        (np.nan, '<td class="number"></td>'),
        (np.True_, "<td>yes</td>"),
        (None, "<td></td>"),
        ("dice", "<td>dice</td>"),
        (with_interval(1.26, 1, 2), '<td class="number" data-value="1.26">1.3 (1.0 to 2.0)</td>'),
    ],
)
def test_cells(value, html):
    assert cell(value) == html


def test_a_verdict_is_a_word_with_a_class_of_its_own():
    assert cell("holds partly", marked=True) == '<td class="verdict holds-partly">holds partly</td>'


def test_long_tables_are_cut_and_say_so():
    table = parsed(pd.DataFrame({"n": range(MOST_ROWS + 1)}))
    assert len(table.findall("tbody/tr")) == MOST_ROWS
    assert f"The first {MOST_ROWS} of {MOST_ROWS + 1} rows" in table.find("caption/span").text


def test_means_and_intervals_become_one_column():
    given = {"variant": ["a"], "td_mean": [90.0], "td_sd": [3.0], "td_low": [88.0], "td_high": [92.0]}
    assert compact(pd.DataFrame(given)).to_dict("records") == [{"variant": "a", "td": "90.0 (88.0 to 92.0)"}]
    effect = {
        "metric": ["td"],
        "difference": [0.5],
        "low": [0.25],
        "high": [0.75],
        "low_cases": [0.0],
        "high_cases": [1],
    }
    assert compact(pd.DataFrame(effect)).to_dict("records") == [{"metric": "td", "difference": "0.50 (0.25 to 0.75)"}]
    plain = pd.DataFrame({"dsc": [80.0], "dsc_low": [79.0], "dsc_high": [81.0], "run": ["a"]})
    assert list(compact(plain)) == ["dsc", "run"]


def test_a_mean_without_interval_stays_a_number():
    table = compact(pd.DataFrame({"bd_mean": [50.0], "seeds": [1]}))
    assert table.to_dict("records") == [{"bd": 50.0, "seeds": 1}]
