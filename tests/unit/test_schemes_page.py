"""docs/schemes.md: its table is that of `slim_eval.schemes`."""

from __future__ import annotations

from pathlib import Path

from slim_eval.schemes import SCHEMES, Kernel, Scheme

PAGE = Path(__file__).parents[2] / "docs" / "schemes.md"


def row(held: Scheme) -> str:
    recipe, kernel = held.recipe, held.kernels.get("vllm", Kernel())
    lowest, end = (
        None if each is None else f"{each[0]}.{each[1]}" for each in (kernel.min_capability, kernel.end_capability)
    )
    on_gpu = f"{lowest or 'any'}" + (f", below {end}" if end else "")
    on_cpu = "no" if not kernel.on_cpu else "AVX-512" if kernel.cpu_flag == "avx512f" else kernel.cpu_flag or "yes"
    if kernel.exact_with:
        on_cpu += ", exact with VNNI"
    made_by = recipe.name if recipe is not None else "vLLM, while loading" if held.served_with else "-"
    group = "-" if recipe is None or recipe.group_size is None else str(recipe.group_size)
    calibrates = "yes" if recipe is not None and recipe.needs_calibration else "no"
    cells = (f"`{held.name}`", held.label, made_by, group, calibrates, on_gpu, on_cpu)
    return f"| {' | '.join(cells)} |"


def test_the_page_lists_every_scheme_as_it_is() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    expected = [row(held) for held in SCHEMES.values()]
    assert [line for line in lines if line.startswith("| `")] == expected, "\n".join(expected)
