"""How the embedded model of `slim_eval.demo` was made: `python -m tools.demo_model.train --output DIR`."""
