"""A server as a Python program, for what a file of options cannot say: ``twistd -ny dicomtw.tac``."""

from pathlib import Path

from dicomtw.config import Configuration, Remote, Server
from dicomtw.service import DicomService
from twisted.application.service import Application

server = Server(
    aet="PMOD",
    listen=("tcp:4030", "haproxy:tcp:4031:interface=127.0.0.1"),
    store=Path("dicom-store"),
    accept_any_ae=True,
)
scanner = Remote(aet="SCANNER", host="127.0.0.1", port=11112, check_host=True)

application = Application("dicomtw")
service = DicomService(Configuration(servers=(server,), remotes=(scanner,)))
service.setServiceParent(application)
