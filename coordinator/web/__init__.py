"""HTTP: the API that clients speak, the pages for visitors, members and admins, the stream of events, the IPFS gateway.

Views are thin: they read a request, ask the rooms next door, and write an answer. Pages are in ``public``, ``own`` and
``desk``; who may use which route stands in ``access`` alone.
"""
