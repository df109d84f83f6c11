"""A plugin that adds an importer: a tool whose one file contains all variants of a model, with every request."""

from __future__ import annotations

from collections.abc import Iterator

from slim_eval.results.importers import IMPORTERS, ForeignFile, ForeignObject, ImportedRecord, Importer
from slim_eval.results.importers.importer import Count, Number, RequestSample, Text, request_metrics
from slim_eval.results.records import AccuracyMetrics, PerformanceMetrics


class Request(ForeignObject):
    """One request: first token, end, and tokens."""

    first_s: Number
    end_s: Number
    tokens: Count


class Run(ForeignObject):
    """One variant."""

    scheme: Text
    quiz: Number
    requests: list[Request]


class Report(ForeignObject):
    """The whole file."""

    toy_version: Text
    model: Text
    runs: list[Run]


class ToyImporter(Importer):
    """Reads ``*.toy`` files."""

    name = "toy"
    patterns = ("*.toy",)

    def detects(self, file: ForeignFile) -> bool:
        """By its version."""
        return "toy_version" in file.fields

    def read(self, file: ForeignFile) -> Iterator[ImportedRecord]:
        """A performance and an accuracy record per variant."""
        report = file.validate(Report, file.fields)
        for run in report.runs:
            samples = [
                RequestSample(
                    request=index,
                    ttft_s=request.first_s,
                    tpot_s=(request.end_s - request.first_s) / (request.tokens - 1),
                    e2e_s=request.end_s,
                    output_tokens=request.tokens,
                )
                for index, request in enumerate(run.requests)
            ]
            for metrics, rows in (
                (PerformanceMetrics(**request_metrics(samples), num_runs=len(samples)), samples),
                (AccuracyMetrics(task="quiz", accuracy=run.quiz, metric="acc,none", num_items=100), []),
            ):
                yield ImportedRecord(
                    self.name,
                    metrics,
                    version=report.toy_version,
                    model=report.model,
                    precision=run.scheme,
                    samples=[vars(row) for row in rows],
                )


IMPORTERS.register(ToyImporter())
