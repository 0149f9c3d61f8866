"""Whether a user is who the requestor says: checkers, their strings, and our own ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker
from twisted.cred.credentials import IAnonymous, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomtw import named_checkers
from dicomtw.authentication import (
    OF_A_HOST,
    Authenticated,
    Authentication,
    IJSONWebToken,
    IKerberosTicket,
    ISAMLAssertion,
    IUsername,
    Unavailable,
    credentials_of,
    reason,
)
from dicomtw.checkers import ScryptChecker, UsernamesChecker
from dicomtw.named_checkers import AuthFault, authentication_of, checker_of
from dicomtw.security.identity import Demand, Identity, IdentityPolicy
from dicomtw.security.passwords import Hashed, put
from dicomtw.threaded import AT_A_TIME, WAITING, InThreads
from dicomtw.ul.items import UserIdentityRQ, UserIdentityType

POLICY = IdentityPolicy(demand=Demand.OPTIONAL, kinds=frozenset(UserIdentityType))


def item(kind: int = 2, name: bytes = b"alice", passcode: bytes = b"sesame") -> UserIdentityRQ:
    return UserIdentityRQ(kind, True, name, passcode if kind == 2 else b"")


@implementer(ICredentialsChecker)
class Checker:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self, answers: Any, *interfaces: Any) -> None:
        self.credentialInterfaces = interfaces or (IUsernamePassword,)
        self.answers = answers
        self.asked: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked.append(credentials)
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def hashed(passcode: bytes) -> Hashed:
    """A hash that is quick to check."""
    return Hashed(2, 1, 1, b"salt", hashlib.scrypt(passcode, salt=b"salt", n=2, r=1, p=1, dklen=32))


class AuthenticationTests(SynchronousTestCase):
    def check(self, asked: UserIdentityRQ, *checkers: Any) -> tuple[Identity, bytes]:
        return self.successResultOf(Authentication(POLICY, checkers).check(asked))

    def failure(self, asked: UserIdentityRQ, *checkers: Any) -> Exception:
        error = self.failureResultOf(Authentication(POLICY, checkers).check(asked)).value
        assert isinstance(error, Exception)
        return error

    def test_credentials(self) -> None:
        """Each type of user identity is credentials of an interface of its own, secrets not in their repr."""
        interfaces = [IUsername, IUsernamePassword, IKerberosTicket, ISAMLAssertion, IJSONWebToken]
        for kind, interface in enumerate(interfaces, 1):
            credentials = credentials_of(item(kind, b"the field"))
            verifyObject(interface, credentials)
            self.assertEqual([one for one in interfaces if one.providedBy(credentials)], [interface])
            self.assertEqual("the field" in repr(credentials), kind <= 2)
        passcode = credentials_of(item())
        verifyObject(IUsernameHashedPassword, passcode)
        self.assertEqual((passcode.checkPassword(b"sesame"), passcode.checkPassword(b"other")), (True, False))
        self.assertNotIn("sesame", repr(passcode))

    def test_who(self) -> None:
        """The avatar ID, bytes or text, at once or later, is the user's name."""
        later: Deferred[bytes] = Deferred()
        checking = Authentication(POLICY, [Checker(later)]).check(item())
        self.assertNoResult(checking)
        later.callback(b"alice")
        alice = Identity("alice", UserIdentityType.USERNAME_AND_PASSCODE), b""
        self.assertEqual(self.successResultOf(checking), alice)
        for avatar in (b"alice", "alice", Authenticated("alice")):
            self.assertEqual(self.check(item(), Checker(avatar)), alice)

    def test_response(self) -> None:
        """A checker may return a server response along with the name, and knows whether one is wanted."""
        checker = Checker(Authenticated(b"alice", b"ticket"), IKerberosTicket)
        identity, response = self.check(item(3), checker)
        self.assertEqual((identity, response), (Identity("alice", UserIdentityType.KERBEROS), b"ticket"))
        self.assertTrue(checker.asked[0].response_requested)

    def test_in_turn(self) -> None:
        """Checkers that take the type are asked in turn, until one says yes."""
        no, yes, last = Checker(UnauthorizedLogin()), Checker(b"alice"), Checker(b"mallory")
        other = Checker(b"mallory", IJSONWebToken)
        identity, _ = self.check(item(), other, no, yes, last)
        self.assertEqual(identity.name, "alice")
        self.assertEqual([len(one.asked) for one in (other, no, yes, last)], [0, 1, 1, 0])

    def test_no(self) -> None:
        """If all say no the login has failed; if one cannot say it is not known, unless another says yes."""
        no, broken, yes = Checker(UnauthorizedLogin("no")), Checker(OSError("down")), Checker(b"alice")
        self.assertIsInstance(self.failure(item(), no), UnauthorizedLogin)
        self.assertIsInstance(self.failure(item(), Checker(fail(UnauthorizedLogin()))), UnauthorizedLogin)
        self.assertIsInstance(self.failure(item(), no, broken, no), OSError)
        self.assertIsInstance(self.failure(item(), broken, no), OSError)
        self.assertEqual(self.check(item(), broken, yes)[0].name, "alice")
        self.assertIsInstance(self.failure(item(5), yes), UnauthorizedLogin)

    def test_nobody(self) -> None:
        """An anonymous or empty name is nobody's; what is no name at all is the checker's fault."""
        for avatar in ((), b"", ""):
            self.assertIsInstance(self.failure(item(), Checker(avatar)), UnauthorizedLogin)
        for avatar in (
            None,
            7,
            SimpleNamespace(name="alice"),
            Authenticated("alice", bytes(0x8001)),
            Authenticated("alice", None),  # type: ignore[arg-type]
        ):
            self.assertIsInstance(self.failure(item(), Checker(avatar)), TypeError)
        self.assertEqual(
            len(self.check(item(5), Checker(Authenticated("a", bytes(0x8000)), IJSONWebToken))[1]), 0x8000
        )

    def test_cancelled(self) -> None:
        """When nobody waits any more the checker at work is cancelled, and the next one is not asked."""
        cancelled = []
        slow, after = Checker(Deferred(cancelled.append)), Checker(b"alice")
        checking = Authentication(POLICY, [slow, after]).check(item())
        checking.cancel()
        self.failureResultOf(checking, CancelledError)
        self.assertEqual((len(cancelled), after.asked), (1, []))

    def test_of_a_host(self) -> None:
        """So many are checked for one host at a time; others, and this machine itself, are not concerned."""
        slow = Checker(None)
        made = Authentication(POLICY, [slow])
        waiting: list[Deferred[Any]] = []

        def check(address: str) -> Deferred[Any]:
            slow.answers = Deferred()
            waiting.append(slow.answers)
            return made.check(item(), address)

        checks = [check("192.0.2.1") for _ in range(OF_A_HOST)]
        for one in checks:
            self.assertNoResult(one)
        fault = self.failureResultOf(check("::ffff:192.0.2.1"), Unavailable)
        self.assertEqual(fault.getErrorMessage(), "8 users from 192.0.2.1 are being checked")
        self.assertNoResult(check("192.0.2.2"))
        for _ in range(OF_A_HOST + 1):
            self.assertNoResult(check(""))
        waiting[0].callback(b"alice")
        checks[1].cancel()
        self.failureResultOf(checks[1], CancelledError)
        self.successResultOf(checks[0])
        for _ in range(2):
            self.assertNoResult(check("192.0.2.1"))
        self.failureResultOf(check("192.0.2.1"), Unavailable)

    def test_forgets_hosts(self) -> None:
        """Of a host for which nobody is being checked nothing is kept."""
        made = Authentication(POLICY, [Checker(b"alice")])
        for number in range(3):
            self.successResultOf(made.check(item(), f"192.0.2.{number}"))
        self.assertEqual(dict(made._under_way), {})

    def test_reason(self) -> None:
        """What a checker says of a login it refuses is for the log, on one line, unless it has the secret."""
        self.assertEqual(reason(LoginFailed("expired\n"), item(5)), "expired?")
        self.assertEqual(reason(LoginFailed(), item()), "")
        self.assertIsNone(reason(LoginFailed("not sesame"), item()))
        self.assertIsNone(reason(LoginFailed("token abc.def"), item(5, b"abc.def")))
        for secret in ("pässwörd", "a\\b'c", "a\tb"):
            asked = item(2, passcode=secret.encode())
            for spelling in (secret, secret.encode().decode("latin-1"), repr(secret), repr(secret.encode())):
                self.assertIsNone(reason(LoginFailed(f"bind: alice/{spelling}"), asked), spelling)
        self.assertIsNone(reason(LoginFailed("not \xfc"), item(passcode=b"\xfc")))
        self.assertEqual(reason(LoginFailed("no alice"), item()), "no alice")


class CheckerStringTests(SynchronousTestCase):
    def fault(self, text: str) -> str:
        said = str(self.assertRaises(AuthFault, checker_of, text))
        self.assertEqual(said.splitlines(), [said])
        return said

    def test_twisteds(self) -> None:
        """A checker of Twisted's is made of its string."""
        path = Path(self.mktemp())
        path.write_bytes(b"alice:sesame\n")
        made = authentication_of(Demand.OPTIONAL, [f"file:{path}"])
        assert made is not None
        self.assertIsInstance(made.checkers[0], FilePasswordDB)
        self.assertEqual(made.policy.kinds, {UserIdentityType.USERNAME_AND_PASSCODE})
        identity, _ = self.successResultOf(made.check(item()))
        self.assertEqual(identity.name, "alice")
        self.failureResultOf(made.check(item(passcode=b"other")), UnauthorizedLogin)

    def test_ours(self) -> None:
        """Ours are found by Twisted, as those of any other package would be."""
        path = Path(self.mktemp())
        put(path, "alice", hashed(b"sesame"))
        self.assertIsInstance(checker_of(f"scrypt:{path}"), ScryptChecker)
        self.assertIsInstance(checker_of("usernames:alice:bob"), UsernamesChecker)
        made = authentication_of(Demand.OPTIONAL, [f"scrypt:{path}", "usernames:bob"])
        assert made is not None
        self.assertIsNone(authentication_of(Demand.IGNORE, ["no such checker"]))
        self.assertEqual(
            made.policy.kinds, {UserIdentityType.USERNAME, UserIdentityType.USERNAME_AND_PASSCODE}
        )

    def test_faults(self) -> None:
        """What is wrong is one line that says what there is, and does not repeat what may be secret."""
        bad = Path(self.mktemp())
        bad.write_text("alice:sesame\n")
        self.assertIn("no checker 'ldap' is installed; there are file, ", self.fault("ldap:host"))
        self.assertIn("it checks nothing that DICOM has", self.fault("anonymous"))
        self.assertIn("there is no file /nowhere/passwd", self.fault("file:/nowhere/passwd"))
        self.assertIn("cannot read /nowhere/passwd: No such file", self.fault("scrypt:/nowhere/passwd"))
        self.assertIn("the file is missing (it takes: the path of a file)", self.fault("scrypt"))
        self.assertIn("line 1 of ", self.fault(f"scrypt:{bad}"))
        self.assertIn("a name is missing", self.fault("usernames:alice::bob"))
        for text in (f"scrypt:{bad}", "memory:alice:sesame:bob"):
            self.assertNotIn("sesame", self.fault(text))

    def test_unreadable(self) -> None:
        """Which files can no longer be read is told, and what becomes of it."""
        path = Path(self.mktemp()).absolute()
        put(path, "alice", hashed(b"sesame"))
        made = authentication_of(Demand.OPTIONAL, [f"scrypt:{path}", f"file:{path}", "usernames:bob"])
        assert made is not None
        self.assertEqual(made.unreadable(), [])
        path.unlink()
        (line,) = made.unreadable()
        self.assertTrue(line.startswith(f"--auth: {path} cannot be read by user "), line)
        for text, then in (
            (f"scrypt:{path}", "a new one is used after a restart only"),
            (f"file:{path}", "none of its users is let in"),
            ("unix", "no user of this machine is let in"),
        ):
            self.assertEqual(named_checkers._file_of(text)[1], then)  # type: ignore[index]
        self.assertIsNone(named_checkers._file_of("usernames:bob"))

    def test_of_another_kind(self) -> None:
        """A plugin whose checker takes nothing that DICOM has is refused, whatever it says of itself."""
        odd = SimpleNamespace(
            authType="odd",
            argStringFormat="",
            credentialInterfaces=(IUsernamePassword,),
            generateChecker=lambda _: Checker(b"alice", IAnonymous),
        )
        self.patch(named_checkers, "findCheckerFactory", lambda _: odd)
        self.assertIn("has made no checker of user identities", self.fault("odd"))


class Threads:
    """Threads that begin and end when the test says."""

    def __init__(self) -> None:
        self.running: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], Any]) -> Deferred[Any]:
        self.running.append((function, Deferred()))
        return self.running[-1][1]

    def end_one(self) -> None:
        function, ended = self.running.pop(0)
        ended.callback(function())


class ScryptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        put(self.path, "alice", hashed(b"sesame"))

    def login(self, checker: ScryptChecker, name: str = "alice", passcode: str = "sesame") -> Deferred[Any]:
        return checker.requestAvatarId(credentials_of(item(2, name.encode(), passcode.encode())))

    def test_login(self) -> None:
        """The right passcode of a user, and nothing else, is right."""
        checker = ScryptChecker(self.path, maybeDeferred)
        verifyObject(ICredentialsChecker, checker)
        self.assertEqual(self.successResultOf(self.login(checker)), b"alice")
        for name, passcode in (("alice", "other"), ("bob", "sesame"), ("Alice", "sesame"), ("", "")):
            self.failureResultOf(self.login(checker, name, passcode), UnauthorizedLogin)

    def test_same_work(self) -> None:
        """Somebody who is not in the file is checked as long as somebody who is."""
        work = []
        matches = Hashed.matches
        self.patch(Hashed, "matches", lambda one, passcode: work.append(one.cost) or matches(one, passcode))
        checker = ScryptChecker(self.path, maybeDeferred)
        self.login(checker, "alice", "other").addErrback(lambda _: None)
        self.login(checker, "nobody", "other").addErrback(lambda _: None)
        self.assertEqual(work, [2, 2])

    def test_changes(self) -> None:
        """A user that is added to the file, or gets another passcode, is known at once."""
        checker = ScryptChecker(self.path, maybeDeferred)
        self.successResultOf(self.login(checker))
        put(self.path, "alice", hashed(b"changed"))
        put(self.path, "bob", hashed(b"sesame"))
        self.failureResultOf(self.login(checker), UnauthorizedLogin)
        self.successResultOf(self.login(checker, "alice", "changed"))
        self.successResultOf(self.login(checker, "bob"))

    def test_file_gone(self) -> None:
        """Without its file it cannot say; a bad line costs the others nothing, and is logged once."""
        checker = ScryptChecker(self.path, maybeDeferred)
        self.path.write_text(f"alice:{hashed(b'sesame')}\nbob\n")
        self.successResultOf(self.login(checker))
        self.successResultOf(self.login(checker))
        self.path.unlink()
        self.failureResultOf(self.login(checker), FileNotFoundError)

    def test_root_dropped(self) -> None:
        """What root has read at the start is good for a server that may not read it."""
        checker = ScryptChecker(self.path, maybeDeferred).load()
        opened: list[Path] = []

        def stat(path: Path, **more: Any) -> Any:
            opened.append(path)
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "stat", stat)
        self.assertEqual(self.successResultOf(self.login(checker)), b"alice")
        self.failureResultOf(self.login(checker, "alice", "other"), UnauthorizedLogin)
        self.assertEqual(opened, [self.path] * 2)

    def test_costs(self) -> None:
        """A file in which some are checked faster than others is told of when it is read."""
        slow = Hashed(4, 1, 1, b"salt", hashlib.scrypt(b"x", salt=b"salt", n=4, r=1, p=1, dklen=32))
        for other, lines in ((hashed(b"x"), 0), (slow, 1)):
            put(self.path, "bob", other)
            with capturedLogs() as events:
                ScryptChecker(self.path, maybeDeferred).load()
            told = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
            self.assertEqual(len([line for line in told if "at different costs" in str(line)]), lines)

    def test_bounded(self) -> None:
        """So many are checked at a time and so many wait; one more is told that it cannot be checked now."""
        threads = Threads()
        checker = ScryptChecker(self.path, threads)
        logins = [self.login(checker) for _ in range(AT_A_TIME + WAITING)]
        self.assertEqual(len(threads.running), AT_A_TIME)
        self.failureResultOf(self.login(checker), Unavailable)
        threads.end_one()
        self.assertEqual(self.successResultOf(logins[0]), b"alice")
        self.assertEqual(len(threads.running), AT_A_TIME)
        logins.append(self.login(checker))
        for _ in logins[1:]:
            threads.end_one()
        self.assertEqual(
            [self.successResultOf(one) for one in logins[1:]], [b"alice"] * (AT_A_TIME + WAITING)
        )

    def test_who_leaves(self) -> None:
        """Who goes away while he waits gives up his place; a thread at work keeps its own until it ends."""
        threads = Threads()
        checker = ScryptChecker(self.path, threads)
        working, other, waiting = (self.login(checker) for _ in range(3))
        waiting.cancel()
        working.cancel()
        for one in (waiting, working):
            self.failureResultOf(one, CancelledError)
        last = self.login(checker)
        self.assertEqual(len(threads.running), AT_A_TIME)
        threads.end_one()
        self.assertEqual(len(threads.running), AT_A_TIME)
        threads.end_one()
        threads.end_one()
        self.assertEqual([self.successResultOf(one) for one in (other, last)], [b"alice"] * 2)
        self.assertEqual(threads.running, [])


class UsernamesTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Those in the list are believed, without proof, and nobody else."""
        checker = UsernamesChecker(["alice", "Jürgen"])
        verifyObject(ICredentialsChecker, checker)
        for name, known in (("alice", True), ("Jürgen", True), ("Alice", False), ("", False)):
            answer = checker.requestAvatarId(credentials_of(item(1, name.encode())))
            if known:
                self.assertEqual(self.successResultOf(answer), name.encode())
            else:
                self.failureResultOf(answer, UnauthorizedLogin)


class InThreadsTests(SynchronousTestCase):
    def test_answers(self) -> None:
        """A checker that blocks is asked in a thread, and what it says is what it says."""
        for answer, expected in ((b"alice", b"alice"), (succeed(b"alice"), b"alice")):
            threads = Threads()
            checker = InThreads(Checker(answer), threads)
            verifyObject(ICredentialsChecker, checker)
            self.assertEqual(checker.credentialInterfaces, (IUsernamePassword,))
            asked = checker.requestAvatarId(credentials_of(item()))
            self.assertNoResult(asked)
            threads.end_one()
            self.assertEqual(self.successResultOf(asked), expected)
        for fault in (UnauthorizedLogin(), OSError("down")):
            checker = InThreads(Checker(fault), maybeDeferred)
            self.failureResultOf(checker.requestAvatarId(credentials_of(item())), type(fault))

    def test_no_text(self) -> None:
        """A passcode that such a checker cannot decode is a wrong one, for users that there are too."""
        checker = InThreads(Checker(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")), maybeDeferred)
        self.failureResultOf(checker.requestAvatarId(credentials_of(item())), UnauthorizedLogin)

    def test_users_of_the_machine(self) -> None:
        """Twisted's checker of the users of this machine is one that blocks."""
        try:
            checker = checker_of("unix")
        except AuthFault as fault:
            self.assertIn("it needs the module crypt", str(fault))
        else:
            self.assertIsInstance(checker, InThreads)
