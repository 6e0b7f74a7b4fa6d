"""Gradient rules: how gradients travel back through the time loop; one file each.

What a rule is to a layer: an object that is called as `rule(loop, state, engine) -> Pass` once for each layer and run.

- `loop` holds all of the pass: neuron, coefficients, the input of each port [T, B, *N], the recurrent connection
  (`Feedback`), and for each port its `Source`: the connection, what went into it, and `call`, which applies it.
  What waits in a `Delayed` connection is part of what went in: [K + T, B, *N], the K steps before the call first.
- `engine(loop, state, start, stop, edge)` runs steps of a loop, any loop: a rule may hand it one of its own, so that
  what it computes step by step (a costate going back, a trace going forward) runs on the engine that was chosen.
- `owns_connection`: False where the layer applies its connection under autograd and the rule sees the product only;
  True where the rule needs both ends of a synapse. Then the input comes without history, and the rule is one autograd
  node from `Source.presynaptic`, the connections' parameters, coefficients and state to output, records and state.
- What a rule keeps from one call to the next, such as eligibility traces, is `LoopState.rule`; it is carried in the
  layer's state. What it counts is `Pass.counts`, which `Run.counts` hands on.
"""

from .bptt import BPTT as BPTT
from .eprop import OTTT as OTTT
from .eprop import RTRL as RTRL
from .eprop import EProp as EProp
from .eventprop import EventProp as EventProp
from .synapses import with_feedback as with_feedback
