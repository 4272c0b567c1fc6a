"""The chain as this project sees it: ABIs and the readers over them.

What lives here: selectors, event signatures, and readers that ask everything at one pinned block.
Nothing here decides; licences and eligibility are judged elsewhere, from what is read here.
"""
