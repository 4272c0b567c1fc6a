"""The demo: a whole DAO on one machine, told step by step, with real processes on a real chain.

What lives here: the world (who owns which Nouns, under which licences), the processes, the story and its measurements.
For demo and tests only: every wallet key in use is anvil's, public knowledge. Nothing that runs in a real DAO may
import this.
"""
