"""Training on this machine: a frozen base, a LoRA adapter, the statistics of what it reads, held-out scores.

``base`` loads and encodes, ``engine`` trains, ``statistics`` draws and measures, ``scoring`` judges
candidates. Torch, diffusers and peft are imported here and nowhere else in the client; nothing here
reads the chain or talks to the coordinator.
"""
