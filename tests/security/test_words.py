"""The rules of access in words."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dicomtw.security.addresses import network_of
from dicomtw.security.remote import Remote
from dicomtw.security.words import access_warnings, hosts_in_words, is_overheard, is_plain, remote_in_words

PIN = "sha256:" + "ab" * 32


class WordsTests(SynchronousTestCase):
    def test_remotes(self) -> None:
        """A remote is said with all its rules, and without those that it has not."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "remote CT at any host"),
            ({"host": "h", "port": 104}, "remote CT at h:104"),
            ({"host": "h", "check_host": True}, "remote CT at h, from there only"),
            ({"host": "h", "port": 1, "tls": True}, "remote CT at h:1, over TLS, not verified"),
            ({"tls": True, "tls_ca": "a"}, "remote CT at any host, over TLS, certified by a"),
            (
                {"tls": True, "tls_sha256": ["ab" * 32]},
                "remote CT at any host, over TLS, known by its fingerprint",
            ),
            ({"networks": ["192.0.2.7"]}, "remote CT at any host, from 192.0.2.7/32 only"),
            (
                {"host": "h", "check_host": True, "networks": ["192.0.2.0/28", "2001:db8::/64"]},
                "remote CT at h, from there, 192.0.2.0/28 or 2001:db8::/64 only",
            ),
            ({"certificate": [PIN]}, f"remote CT at any host, with certificate {PIN} only"),
            ({"users": ["ann", "b\nc"]}, "remote CT at any host, for users 'ann' and 'b\\nc' only"),
            ({"operations": ["echo"]}, "remote CT at any host, for echo only"),
            ({"operations": []}, "remote CT at any host, for no operation"),
            ({"sop_classes": ["1.2.3"]}, "remote CT at any host, of 1.2.3 only"),
            (
                {"sop_classes": ["CTImageStorage", *(f"1.2.{number}" for number in range(9))]},
                "remote CT at any host, of CT Image Storage, 1.2.0, 1.2.1, 1.2.2 and 6 more only",
            ),
            ({"destinations": ["A", "B", "C"]}, "remote CT at any host, C-MOVE to A, B and C only"),
            ({"max_associations": 3}, "remote CT at any host, 3 associations at a time"),
            ({"associations_per_minute": 3}, "remote CT at any host, 3 associations a minute"),
        ]
        for settings, words in cases:
            self.assertEqual(remote_in_words(Remote(aet="CT", **settings)), words)

    def test_hosts(self) -> None:
        """What the server does about hosts is said, line by line, and nothing where it does nothing."""
        self.assertEqual(hosts_in_words((), 0, 0), [])
        networks = [network_of("192.0.2.0/24")]
        self.assertEqual(
            hosts_in_words(networks, 60, 600),
            [
                "peers are spoken with from 192.0.2.0/24 only",
                "a host may ask for 60 associations a minute",
                "a host that is rejected 600 times a minute is put off",
            ],
        )

    def test_plain(self) -> None:
        """Endpoints without TLS are one list, and what is sent to those of a network can be overheard."""
        for text, plain, overheard in (
            *((f"{kind}:104", True, True) for kind in ("tcp", "tcp4", "tcp6", "haproxy:tcp", "haproxy:tcp6")),
            ("systemd:domain=INET:index=0", True, True),
            ("haproxy:systemd:domain=INET6:name=dicom", True, True),
            ("systemd:INET:name=UNIXES", True, True),
            ("systemd:domain=UNIX:index=0", True, False),
            ("systemd:index=0:domain=UNIX", True, False),
            ("haproxy:systemd:UNIX:index=0", True, False),
            *((text, True, False) for text in ("unix:/run/d", "haproxy:unix:/run/d", "stdio:")),
            *((f"{kind}:104", False, False) for kind in ("ssl", "dicomtls", "haproxy:dicomtls", "tor")),
        ):
            self.assertEqual((is_plain(text), is_overheard(text)), (plain, overheard), text)

    def test_several_of_one_name(self) -> None:
        """Of remotes of one AE title one that anybody can be makes the rules of others worth little."""

        def warned(*remotes: Remote) -> list[str]:
            return access_warnings(remotes, (), ("dicomtls:1",), tls=False, asks_for_certificate=False)

        bound, anybody = Remote(aet="CT", certificate=[PIN]), Remote(aet="CT")
        said = "2 remotes are called CT, each for whom it fits: one is for anybody of that name"
        self.assertEqual(warned(bound, anybody), [said])
        self.assertEqual(warned(bound, bound), [])
        self.assertEqual(warned(anybody, anybody), [])
        self.assertEqual(warned(bound, Remote(aet="MR")), [])

    def test_warnings(self) -> None:
        """A rule that leaves out whom it is for is told; where TLS may be, it is not."""
        bound, networks = Remote(aet="CT", certificate=[PIN]), [network_of("192.0.2.0/24")]
        no_tls = "remote CT is bound to a certificate, and there is no TLS: its associations are rejected"
        not_asked = no_tls.replace("there is no TLS", "--tls-verify=none asks nobody for one")
        unix = "who comes through a unix: socket has no address, and so is not of --networks"
        cases: list[tuple[list[Any], list[str], dict[str, bool], list[str]]] = [
            ([], [], {}, []),
            ([], ["tcp:104"], {}, [no_tls]),
            ([], ["systemd:domain=INET:index=0", "haproxy:tcp:104"], {}, [no_tls]),
            ([], [], {"tls": True}, [not_asked]),
            ([], ["tcp:104"], {"tls": True, "asks_for_certificate": True}, []),
            ([], ["dicomtls:2762:cert=c"], {}, []),
            ([], ["haproxy:ssl:2762"], {}, []),
            (networks, ["unix:/run/d"], {}, [no_tls, unix]),
        ]
        for places, listen, tls, expected in cases:
            settings = {"tls": False, "asks_for_certificate": False, **tls}
            remotes = [bound, Remote(aet="MR")] if listen or tls else [Remote(aet="MR")]
            found = access_warnings(remotes, places, listen, **settings)
            self.assertEqual(found, expected, (listen, tls))
