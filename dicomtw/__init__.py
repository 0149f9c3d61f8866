"""dicomtw: a DICOM network server, archive and client library on Twisted."""

__version__ = "0.1.0"
