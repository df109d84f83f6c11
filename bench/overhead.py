"""Overhead of slim-eval over the engine it measures, on vLLM's CPU build (or the engine given as argument).

Two ratios, each against a peer in the same run:

1. output tokens per second in the performance benchmark / in a bare loop over the same engine's own ``generate``;
   the two alternate on one loaded engine. Target: at least 0.98.
2. wall time of `slim-eval run` with performance and energy / wall time of a bare script that loads the engine and
   generates the same requests. Target: at most 1.25.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from slim_eval import engines
from slim_eval.benchmarks import performance
from slim_eval.benchmarks.base import full_batches
from slim_eval.config import EngineConfig, PerformanceConfig
from slim_eval.demo import MODEL_DIR

ROUNDS = 9
SETTINGS = PerformanceConfig(num_warmup=8, num_runs=96, batch_size=8, max_new_tokens=128)
RUN_ROUNDS = 3
RUN = PerformanceConfig(num_runs=200)
ENERGY_REQUESTS = 20
CONTEXT = 1024


def load(choice: str) -> engines.Engine:
    """Load the embedded model."""
    decision = engines.choose(choice, "fp16")
    config = EngineConfig(engine=choice, enforce_eager=True)
    return engines.ENGINES[decision.name].load(
        engines.LoadRequest(checkpoint=MODEL_DIR, config=config, max_model_len=CONTEXT)
    )


def bare_loop(engine: engines.Engine, config: PerformanceConfig, requests: int, batch_size: int) -> float:
    """Output tokens per second of the engine's own ``generate`` in a plain loop, including its result objects."""
    prompts = [config.prompt] * batch_size
    tokens, start = 0, time.perf_counter()
    for _ in range(full_batches(requests, batch_size)):
        tokens += count_tokens(engine, prompts, config.max_new_tokens)
    return tokens / (time.perf_counter() - start)


def count_tokens(engine: engines.Engine, prompts: Sequence[str], max_new_tokens: int) -> int:
    """Generate once with the library's own call, without slim-eval's adapter, and count the output tokens."""
    if engine.name == "vllm":
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, min_tokens=max_new_tokens, ignore_eos=True,
            skip_reading_prefix_cache=True, detokenize=True,
        )  # fmt: skip
        outputs = engine._llm.generate(list(prompts), params, use_tqdm=False)  # type: ignore[attr-defined]
        return sum(len(output.outputs[0].token_ids) for output in outputs)
    batch = engine._tokenizer(list(prompts), return_tensors="pt", padding=True)  # type: ignore[attr-defined]
    output = engine._model.generate(  # type: ignore[attr-defined]
        **batch, do_sample=False, max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens
    )
    return int(output.shape[0] * (output.shape[1] - batch["input_ids"].shape[1]))


def throughput_ratio(engine: engines.Engine) -> float:
    """Median over rounds of the throughput in the benchmark / in the bare loop; the order alternates per round."""
    ratios = []
    performance.run(engine, SETTINGS)
    for number in range(ROUNDS):
        speeds = {}
        for side in ("bare", "benchmark") if number % 2 else ("benchmark", "bare"):
            if side == "bare":
                speeds[side] = bare_loop(engine, SETTINGS, SETTINGS.num_runs, SETTINGS.batch_size)
            else:
                metrics = performance.run(engine, SETTINGS.model_copy(update={"num_warmup": 0})).metrics
                speeds[side] = metrics.tokens_per_second  # type: ignore[union-attr,assignment]
        print(f"  round {number + 1}: benchmark {speeds['benchmark']:.0f} tok/s, bare loop {speeds['bare']:.0f} tok/s")
        ratios.append(speeds["benchmark"] / speeds["bare"])
    return statistics.median(ratios)


def bare_script(choice: str) -> None:
    """Only load the engine and generate the same requests: the peer of a whole run."""
    engine = load(choice)
    bare_loop(engine, RUN, RUN.num_warmup, RUN.batch_size)
    bare_loop(engine, RUN, RUN.num_runs, RUN.batch_size)
    bare_loop(engine, RUN, ENERGY_REQUESTS, 1)
    engine.close()


def wall(command: Sequence[str], folder: Path) -> float:
    """Wall time, in seconds, of a Python command that runs in a folder."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def wall_ratio(choice: str) -> float:
    """Median over rounds of the wall time of a whole run / of `bare_script`."""
    bare = [str(Path(__file__).resolve()), choice, "bare"]
    run = ["-m", "slim_eval", "run", "--models", "demo", "--tasks", "performance energy", "--engine", choice,
           "--enforce-eager", "--num-runs", str(RUN.num_runs), "--energy-sample-runs", str(ENERGY_REQUESTS),
           "--no-wandb-enabled"]  # fmt: skip
    ratios = []
    for number in range(RUN_ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            seconds = {side: wall(run if side == "run" else bare, Path(name)) for side in ("bare", "run")}
        print(f"  round {number + 1}: run {seconds['run']:.1f} s, alone {seconds['bare']:.1f} s")
        ratios.append(seconds["run"] / seconds["bare"])
    return statistics.median(ratios)


def main() -> None:
    """Print both ratios."""
    choice = sys.argv[1] if len(sys.argv) > 1 else "vllm"
    if sys.argv[2:] == ["bare"]:
        bare_script(choice)
        return
    engine = load(choice)
    ratio = throughput_ratio(engine)
    engine.close()
    print(f"{choice}: tokens/s in the benchmark / bare loop: {ratio:.3f} (target: at least 0.98)")
    print(f"{choice}: run / load and generation alone: {wall_ratio(choice):.2f} (target: at most 1.25)")


if __name__ == "__main__":
    main()
