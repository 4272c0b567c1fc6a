"""What both sides must agree on: policy, messages, adapter format, manifest, UnixFS and CAR.

Pure code only: no network, no database, no clock, and nothing imported from ``client`` or
``coordinator``. Whatever is signed or hashed is defined here and nowhere else.
"""
