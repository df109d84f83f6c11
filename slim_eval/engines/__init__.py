"""Inference engines. `ENGINES` is the registry; importing this package imports none of the engines' own packages."""

from slim_eval.engines import openai as openai
from slim_eval.engines import transformers as transformers
from slim_eval.engines import vllm as vllm
from slim_eval.engines.engine import ENGINES as ENGINES
from slim_eval.engines.engine import Capabilities as Capabilities
from slim_eval.engines.engine import Engine as Engine
from slim_eval.engines.engine import EngineDecision as EngineDecision
from slim_eval.engines.engine import EngineType as EngineType
from slim_eval.engines.engine import Generation as Generation
from slim_eval.engines.engine import LoadRequest as LoadRequest
from slim_eval.engines.engine import MemoryReport as MemoryReport
from slim_eval.engines.engine import Platform as Platform
from slim_eval.engines.engine import Prompt as Prompt
from slim_eval.engines.engine import ServedEngine as ServedEngine
from slim_eval.engines.engine import TokenScorer as TokenScorer
from slim_eval.engines.engine import choose as choose
from slim_eval.engines.engine import engines_for as engines_for
