"""The fast engine: the searches of AutoAttack in slots of fixed shape, confirmed by the float32 model.

search.py              what the engine asks of a search; streams.py: random numbers of each example
apgd.py, fab.py, square.py   the searches
engine.py              slots, queue, confirmation; graph.py: CUDA graphs
autoattack.py          the four searches as an attack
"""

from mixbench.attacks.fast.autoattack import EngineHost, FastAutoAttack, FastStage
from mixbench.attacks.fast.engine import Engine, Outcome
from mixbench.attacks.fast.search import margins

__all__ = ["Engine", "EngineHost", "FastAutoAttack", "FastStage", "Outcome", "margins"]
