"""PS3.8: the DICOM Upper Layer Protocol for TCP/IP. No I/O and no Twisted in here.

Read it in this order: `pdu` and `items` (section 9.3 and PS3.7 Annex D: what is on the wire),
`framer` (bytes to PDUs), `machine` (section 9.2: Table 9-10), `provider` (section 7: the service
that the machine offers), `negotiation` (section 7.1.1: what an acceptor answers).
"""
