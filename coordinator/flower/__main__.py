"""``python -m coordinator.flower``: the programs that ``SuperLinkProcess`` starts. Not meant to be typed."""

from coordinator.flower.link import main

main()
