"""Per-request data of imported files gives intervals of times, from batches of consecutive requests."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import pytest
from scipy.stats import t

from slim_eval.results.importers.importer import RequestSample, request_metrics
from slim_eval.stats import batches


def requests(ttfts: list[float]) -> list[RequestSample]:
    return [RequestSample(None, index, None, ttft, None, None, 10, 10) for index, ttft in enumerate(ttfts)]


def test_batches_are_consecutive_and_contain_every_request_once() -> None:
    for count in (0, 1, 2, 3, 10, 99, 100, 101):
        rows = list(range(count))
        found = batches(rows)
        assert [row for batch in found for row in batch] == rows
        assert len(found) == math.isqrt(count)
        assert all(found)


def test_a_mean_has_the_interval_of_its_batches() -> None:
    rng = random.Random(3)
    ttfts = [rng.gauss(0.2, 0.02) for _ in range(900)]
    metrics = request_metrics(requests(ttfts))
    low, high = metrics["intervals"]["ttft_s"]
    means = [fmean(ttfts[start : start + 30]) for start in range(0, 900, 30)]
    half = t.ppf(0.975, 29) * stdev(means) / math.sqrt(30)
    assert (low, high) == pytest.approx((fmean(ttfts) - half, fmean(ttfts) + half), abs=0.25 * half)
    assert low < metrics["ttft_s"] < high
    assert {"ttft_s", "median_ttft_s"} == metrics["intervals"].keys()  # a p95 takes 72 batches


def test_requests_that_influence_each_other_count_less() -> None:
    rng = random.Random(4)
    levels = [rng.gauss(0.2, 0.02) for _ in range(90)]
    slow = [level for level in levels for _ in range(10)]  # ten in a row wait for the same thing
    shuffled = rng.sample(slow, len(slow))
    widths = [
        ends[1] - ends[0]
        for ends in (request_metrics(requests(times))["intervals"]["ttft_s"] for times in (slow, shuffled))
    ]
    assert widths[0] > 1.5 * widths[1]


def test_few_requests_have_no_interval() -> None:
    assert request_metrics(requests([0.1, 0.2, 0.3]))["intervals"] == {}
    assert request_metrics([])["intervals"] == {}
