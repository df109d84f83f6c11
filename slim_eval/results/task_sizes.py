"""How many items well-known lm-eval tasks have: the only table of it.

It is used for results that contain an accuracy without a standard error, a number of items or a limit: if all items
were used, chance alone moves such an accuracy by a known amount. Whatever rests on it is marked as assumed.

The sizes are those of the split that lm-eval scores, as ``n-samples`` in its result files has them. They were checked
against published result files with all digits, in which a share and its standard error s determine the number of items
(``1 + share (1 - share) / s²``), or the share is a whole number of items; the others are from the data sets' cards.
"""

from __future__ import annotations

#: lm-eval's task or group -> number of its items.
FULL_SIZES = {
    "arc_challenge": 1172,  # ARC, Clark et al. 2018, arXiv 1803.05457; test split
    "arc_easy": 2376,
    "boolq": 3270,  # Clark et al. 2019, arXiv 1905.10044; validation split
    "commonsense_qa": 1221,  # Talmor et al. 2019, arXiv 1811.00937; validation split
    "copa": 100,  # SuperGLUE, Wang et al. 2019, arXiv 1905.00537; validation split
    "gsm8k": 1319,  # Cobbe et al. 2021, arXiv 2110.14168; test split
    "gsm8k_cot": 1319,
    "hellaswag": 10042,  # Zellers et al. 2019, arXiv 1905.07830; validation split
    "humaneval": 164,  # Chen et al. 2021, arXiv 2107.03374
    "ifeval": 541,  # Zhou et al. 2023, arXiv 2311.07911
    "lambada_openai": 5153,  # Paperno et al. 2016, arXiv 1606.06031; test split
    "lambada_standard": 5153,
    "mathqa": 2985,  # Amini et al. 2019, arXiv 1905.13319; test split
    "mbpp": 500,  # Austin et al. 2021, arXiv 2108.07732; test split
    "mmlu": 14042,  # Hendrycks et al. 2021, arXiv 2009.03300; test split of 57 subjects
    "mmlu_pro": 12032,  # Wang et al. 2024, arXiv 2406.01574; test split
    "openbookqa": 500,  # Mihaylov et al. 2018, arXiv 1809.02789; test split
    "piqa": 1838,  # Bisk et al. 2020, arXiv 1911.11641; validation split
    "rte": 277,  # GLUE, Wang et al. 2018, arXiv 1804.07461; validation split
    "sciq": 1000,  # Welbl et al. 2017, arXiv 1707.06209; test split
    "truthfulqa_mc1": 817,  # Lin et al. 2022, arXiv 2109.07958
    "truthfulqa_mc2": 817,
    "winogrande": 1267,  # Sakaguchi et al. 2019, arXiv 1907.10641; validation split of winogrande_xl
}
