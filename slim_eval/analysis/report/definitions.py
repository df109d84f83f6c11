"""How each number was measured, in a few words each; docs/metrics.md has the whole."""

from __future__ import annotations

DEFINITIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Every number", (
        ("not measured", "no number exists; it is never 0"),
        ("±", "half of the 95 % interval; a field tells both ends when pointed at. Intervals of speed and "
              "energy resample whole batches or blocks of the window; with only a standard error it is ±1.96 of it"),
        ("equal work", "every request generates exactly the same number of tokens, greedily, without reuse of cached "
                       "prefixes; where lengths differ by more than 1 % the number is marked confounded"),
        ("GiB, MiB", "2^30 and 2^20 bytes"),
    )),
    ("Speed", (
        ("TTFT", "time from submitting a request to its first token; in a batch it includes queueing"),
        ("TPOT", "(last token - first token) / (tokens - 1), mean over requests"),
        ("E2E latency", "time from submitting a request to its last token"),
        ("amortised latency", "wall time of a batch / batch size: not what a request waits"),
        ("output tokens/s", "output tokens / wall time of all batches; prompt tokens do not count"),
        ("model bandwidth utilisation", "bytes read a token / TPOT / bandwidth of the device; native GPU kernels only"),
        ("emulated kernels", "quantized arithmetic imitated in 16 bit: accuracy holds, speed and energy do not"),
    )),
    ("Memory", (
        ("weights on disk, weights as loaded", "the checkpoint's weight files; what the engine holds of them"),
        ("KV cache, tokens", "tokens that the reserved cache holds"),
        ("requests of full context at once", "KV cache tokens / longest context"),
        ("peak memory", "peak of the serving process; with vLLM mostly the cache it reserves, not the model"),
    )),
    ("Energy", (
        ("J/output token", "energy of the window / output tokens, idle power included"),
        ("source", "NVML's counter, or the integral of its power samples; CodeCarbon estimates"),
        ("invalid", "window under 2 s, a foreign process on the GPU, throttling, or counter and integral more than 5 % "
                    "apart: such a record has no energy"),
    )),
    ("Accuracy", (
        ("accuracy", "the lm-eval metric named beside the task, over all its items"),
        ("drop on the same items", "fp16 minus this precision, item by item, in percentage points, with its paired "
                                   "95 % interval (Bonett and Price 2012; Miller, arXiv 2411.00640)"),
        ("flips", "share of items whose answer changed from right to wrong or back (Dutta et al., arXiv 2407.09141)"),
        ("p, corrected", "exact McNemar test, corrected by Holm over all tasks and precisions shown"),
        ("equivalent", "the drop is surely below the margin"),
        ("degraded", "not equivalent; the drop is surely above 0 and the corrected p is at most 0.05"),
        ("underpowered", "neither: more items are needed to tell"),
    )),
    ("Comparison", (
        ("ratio, speed-up", "against fp16 of the same model; above 1 is better; only for equal engine, hardware, "
                            "kernels and settings"),
        ("Pareto frontier", "configurations that no other one beats in every objective, among those of one setting"),
        ("cannot tell", "by their intervals, the chance of standing on the frontier is between 5 and 95 %"),
        ("noise floor", "how much one variant measured twice differs though nothing changed (slim-eval noise)"),
    )),
)  # fmt: skip
