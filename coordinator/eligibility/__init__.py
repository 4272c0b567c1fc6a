"""What a wallet may train on: the chain's answers at one snapshot, put to the policy.

The rules themselves are ``protocol.policy``; here they are only asked for the tokens a wallet has.
"""
