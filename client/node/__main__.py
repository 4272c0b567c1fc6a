"""``python -m client.node``: the programs that ``SuperNodeProcess`` starts. Not meant to be typed."""

from client.node.link import main

main()
