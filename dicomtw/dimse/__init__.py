"""PS3.7: DICOM messages. No I/O and no Twisted in here.

Read it in this order: `command` (section 6.3, Annex E: command elements and their encoding), `messages`
(section 9.3, 10.3: the 23 messages), `status` (Annex C), `reader` and `writer` (PS3.8 Annex E: messages
to and from fragments).
"""
