"""Training on this machine: a LoRA adapter on a frozen base, and held-out scores.

``engine`` trains, ``drift`` holds an adapter to the base's answers, ``scoring`` judges candidates. Peft is imported
here and nowhere else in the client; nothing here reads the chain or talks to the coordinator.
"""
