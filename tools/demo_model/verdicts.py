"""The verdicts of the demonstration by seed of the calibration: ``python -m tools.demo_model.verdicts --seeds 5``.

Each checkpoint is quantized as `slim-eval demo` does, and scored in this process on the items of the test, without
examples, as `slim-eval demo` asks them: this takes a tenth of the time of a run, which starts a worker per precision.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from slim_eval import demo, stats
from slim_eval.analysis.compare.items import verdict
from slim_eval.config import DemoConfig
from tools.demo_model import corpus
from tools.demo_model.corpus import Item
from tools.demo_model.sequences import few_shot_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from slim_eval.stats import PairedDifference

_BATCH: Final = 64
MARGIN_PP: Final = 1.0
PRECISIONS: Final = ("int8", "int4")


class Outcome(NamedTuple):
    """One task under one precision against 16 bit."""

    seed: int
    precision: str
    task: str
    baseline: float
    accuracy: float
    difference: PairedDifference
    verdict: str


def _texts(item: Item) -> list[tuple[str, int]]:
    """Each choice, or the worked answer, as a text with its prompt; and where in it the answer begins."""
    doc = item.doc
    answers = [item.answer] if "choices" not in doc else list(corpus.LETTERS) if "answer" in doc else doc["choices"]
    found = [few_shot_text([item._replace(answer=answer)]) for answer in answers]
    return [(text, spans[-1][0]) for text, spans in found]


def right_answers(model: Any, tokenizer: Tokenizer, task: str) -> list[bool]:
    """Whether each item of the test is right: the likeliest choice per byte, or each token of the worked answer."""
    import torch

    items = corpus.task_items(task, "test")
    texts = [(row, *text) for row, item in enumerate(items) for text in _texts(item)]
    texts.sort(key=lambda each: len(each[1]))  # texts of a batch are about as long
    scores: dict[int, dict[str, tuple[float, bool]]] = {}
    for first in range(0, len(texts), _BATCH):
        part = texts[first : first + _BATCH]
        encodings = [tokenizer.encode(text, add_special_tokens=False) for _, text, _ in part]
        tokens = torch.zeros(len(part), max(len(each.ids) for each in encodings), dtype=torch.long)
        for row, encoding in enumerate(encodings):
            tokens[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits
        for row, ((item, text, start), encoding) in enumerate(zip(part, encodings, strict=True)):
            places = [place for place, (begin, _) in enumerate(encoding.offsets) if begin >= start]
            table = logits[row, [place - 1 for place in places]].float().log_softmax(-1)
            answer = tokens[row, places]
            likelihood = float(table.gather(1, answer[:, None]).sum()) / len(text[start + 1 :].encode())
            greedy = bool((table.argmax(-1) == answer).all())
            scores.setdefault(item, {})[text[start + 1 :]] = likelihood, greedy
    right = []
    for row, item in enumerate(items):
        if "choices" not in item.doc:
            right.append(scores[row][item.answer][1])
            continue
        best = max(scores[row], key=lambda choice: scores[row][choice][0])
        is_letter = "answer" in item.doc
        gold = corpus.LETTERS[item.doc["answer"]] if is_letter else item.doc["choices"][item.doc["gold"]]
        right.append(best == gold)
    return right


def outcomes(seeds: Iterable[int], folder: Path) -> Iterator[Outcome]:
    """The outcome on each task, for a calibration from each seed; checkpoints are made in the folder."""
    import torch
    from tokenizers import Tokenizer as Tokens

    from slim_eval.models import loading, source
    from slim_eval.quantization import cache, llmcompressor

    tokenizer = Tokens.from_file(str(demo.MODEL_DIR / "tokenizer.json"))
    members = {name: name.rsplit("_", 1)[0] if name.startswith("demo_mmlu") else name for name in corpus.subtasks()}

    def answers(path: Path) -> dict[str, list[bool]]:
        model = loading.load(path, dtype=torch.float32)
        return {name: right_answers(model, tokenizer, name) for name in members}

    before = answers(demo.MODEL_DIR)
    config = DemoConfig().run().quantization.model_copy(update={"calibration_dataset": str(demo.CALIBRATION_FILE)})
    for seed in seeds:
        for precision in PRECISIONS:
            request = cache.QuantizeRequest(
                source=source.fetch(source.resolve("demo")), precision=precision, directory=folder / str(seed),
                config=config, seed=seed,
            )  # fmt: skip
            after = answers(llmcompressor.quantize(request).path)
            for task in demo.TASKS:
                own = [name for name in members if members[name] == task]
                a, b = ([float(right) for name in own for right in side[name]] for side in (before, after))
                clusters = [name for name in own for _ in before[name]] if len(own) > 1 else None
                found = stats.paired_difference(a, b, clusters)
                ends = found.interval and (found.interval.low * 100, found.interval.high * 100)
                share = [sum(side) / len(side) for side in (a, b)]
                # Corrected for all that a demonstration shows together.
                p_holm = found.p_value and min(1.0, found.p_value * len(demo.TASKS) * len(PRECISIONS))
                yield Outcome(seed, precision, task, *share, found, verdict(ends, p_holm, MARGIN_PP) or "")


def main(arguments: list[str] | None = None) -> None:
    """Prints one line per seed, precision and task."""
    parser = argparse.ArgumentParser(description="The verdicts of the demonstration by seed of the calibration.")
    parser.add_argument("--seeds", type=int, default=5, help="number of calibrations, each from another seed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for each in outcomes(range(options.seeds), Path(folder)):
            found = each.difference
            low, high = (100 * end for end in found.interval or (float("nan"), float("nan")))
            sys.stdout.write(
                f"seed {each.seed} {each.precision} {each.task}: {100 * each.baseline:.1f} % to "
                f"{100 * each.accuracy:.1f} %, drop {100 * found.difference:.2f} pp [{low:.2f}, {high:.2f}], "
                f"lost {found.lost}, gained {found.gained} of {found.num_items}: {each.verdict}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
