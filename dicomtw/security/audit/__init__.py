"""PS3.15 Annex A: audit messages, how they are sent, and where they wait. No Twisted in here.

`events` makes the messages of A.5.3, which are `message.AuditMessage`s; `syslog` wraps them for A.6 and A.7;
`queue` keeps them on disk until somebody has taken them; `transfers` gathers what an association transfers,
`repeats` what would be said too often. Who a message may name is in it and nowhere else: not in a log.
"""
