"""Makes ``twistd dicom`` known. Every twistd start imports this file: nothing heavy belongs here."""

from twisted.application.service import ServiceMaker

dicom = ServiceMaker("dicomtw", "dicomtw.tap", "A DICOM network server and archive", "dicom")
