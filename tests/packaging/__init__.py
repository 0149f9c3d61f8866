"""Installing: that ``twistd dicom`` is there, however the package was installed."""
