"""What a DICOM server must do on the wire, case by case, as anybody sees it who has a socket.

``python -m tests.conformance HOST PORT AET`` asks any server; `test_server` asks one of ours. A case is data
and a small script of bytes; the tables are `connection`, `negotiation`, `transfer`, `storage` and `query`.
"""
