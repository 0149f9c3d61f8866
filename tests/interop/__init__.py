"""End-to-end tests: a real twistd, real sockets, and the DICOM programs that people have."""
