"""A secret and certificates: who has them works as ever, who has not gets one clear answer, and nothing readable is on the wire."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest
import urllib.request

from support import SMALL, Etcd, Instance, Namespace, Process, PROGRAM, free_port, run

SO_RCVBUFFORCE = 33  # of Linux; the module does not name it
NO_OPENSSL = None if shutil.which("openssl") else "the program openssl is missing"


class Certificates:
    """An issuer of the test's own, and what it signs."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="mooncake-test-tls-")
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                      "-subj", "/CN=issuer", "-keyout", self.path("ca.key"), "-out", self.path("ca.pem"))

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)

    def issue(self, name, host="127.0.0.1"):
        key, request_, certificate, extensions = (self.path(name + end) for end in (".key", ".csr", ".pem", ".ext"))
        with open(extensions, "w", encoding="ascii") as file:
            file.write(f"subjectAltName=IP:{host}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", key, "-out", request_)
        self._openssl("x509", "-req", "-days", "1", "-in", request_, "-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key"),
                      "-CAcreateserial", "-extfile", extensions, "-out", certificate)
        return certificate, key

    def cluster_flags(self, name):
        certificate, key = self.issue(name)
        return ["--tls-certificate", certificate, "--tls-key", key, "--tls-ca", self.path("ca.pem")]

    def close(self):
        self.folder.cleanup()


class Tap:
    """What passes over the loopback interface of a namespace, whole, until stop()."""

    def __init__(self, namespace):
        self.socket = namespace.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.socket.settimeout(0.1)
        self.packets = []
        self.stopped = False
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        while not self.stopped:
            try:
                self.packets.append(self.socket.recv(1 << 17))
            except TimeoutError:
                continue

    def stop(self):
        self.stopped = True
        self.thread.join()
        self.socket.close()
        return b"".join(self.packets)


class Secured(unittest.TestCase):
    def setUp(self):
        self.certificates = Certificates()
        self.addCleanup(self.certificates.close)
        self.secret = self.write("secret", "a secret that the whole cluster shares\n")

    def write(self, name, text):
        path = self.certificates.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def start(self, *flags, namespace=None):
        instance = Instance("--host", "127.0.0.1", *SMALL, *flags, namespace=namespace)
        self.addCleanup(instance.close)
        return instance

    def directory(self, *flags, namespace=None):
        server = Process([PROGRAM, "directory", "--listen", "127.0.0.1:0", *flags], "is ready", namespace=namespace)
        self.addCleanup(server.close)
        return ["--metadata-server", server.ready_line.split('"')[1]]

    def replay(self, instances, *flags, namespace=None):
        trace, report = self.certificates.path("trace.jsonl"), self.certificates.path("report.json")
        made = run("trace", "generate", "--requests", "40", "--mean-input", "2048", "--mean-output", "16", "--out", trace)
        self.assertEqual(made.returncode, 0, made.stderr)
        done = run("replay", "--trace", trace, "--to", ",".join(one.url for one in instances), "--speed", "0", "--concurrency", "4",
                   "--verify", "--json", report, *flags, namespace=namespace)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(report, encoding="utf-8") as file:
            outcome = json.load(file)
        self.assertEqual((outcome["right"], outcome["wrong"], outcome["failed"]), (40, 0, 0))


class SecretOnly(Secured):
    def test_who_knows_it_serves_and_who_does_not_is_told(self):
        flags = ["--cluster-secret-file", self.secret]
        where = self.directory(*flags)
        prefill = self.start("--role", "prefill", "--transports", "tcp", *flags, *where)
        decode = self.start("--role", "decode", *flags, *where)
        self.replay([decode, prefill], *flags)

        other = self.write("other", "a secret of which nobody else knows\n")
        for wrong in ([], ["--cluster-secret-file", other]):
            refused = run("instance", "--host", "127.0.0.1", "--role", "decode", *SMALL, *where, *wrong)
            self.assertEqual(refused.returncode, 1, refused.stderr)
            self.assertIn("E117", refused.stderr)
            self.assertIn("Do: Give every process of the cluster the same cluster_secret_file.", refused.stderr)

    def test_http_wants_the_token(self):
        flags = ["--cluster-secret-file", self.secret]
        instance = self.start("--role", "both", *flags, *self.directory(*flags))
        code, text = instance.get("/status")
        self.assertEqual(code, 401)
        self.assertIn("E117", text)
        token = run("http-token", *flags).stdout.strip()
        with urllib.request.urlopen(urllib.request.Request(f"{instance.url}/status", headers={"Authorization": f"Bearer {token}"})) as answer:
            self.assertEqual(answer.status, 200)
        self.assertEqual(run("status", instance.url, *flags).returncode, 0)
        self.assertEqual(run("status", instance.url).returncode, 1)

    def test_a_secret_that_cannot_be_used_is_named(self):
        for text, word in (("short\n", "16"), ("", "is empty")):
            bad = self.write("bad", text)
            refused = run("instance", "--host", "127.0.0.1", "--cluster-secret-file", bad)
            self.assertEqual(refused.returncode, 2, refused.stderr)
            self.assertIn("E019", refused.stderr)
            self.assertIn(word, refused.stderr)
        refused = run("instance", "--host", "127.0.0.1", "--cluster-secret-file", "/nonexistent")
        self.assertIn("E014", refused.stderr)


@unittest.skipIf(NO_OPENSSL, NO_OPENSSL)
class Encrypted(Secured):
    @unittest.skipIf(Namespace.why_not(), Namespace.why_not())
    def test_nothing_readable_is_on_the_wire(self):
        host = Namespace([])
        self.addCleanup(host.close)
        for encrypted in (False, True):
            flags = (lambda name: self.certificates.cluster_flags(name)) if encrypted else (lambda name: [])
            tap = Tap(host)
            try:
                where = self.directory(*flags("directory"), namespace=host)
                prefill = self.start("--role", "prefill", "--transports", "tcp", *flags("prefill"), *where, namespace=host)
                decode = self.start("--role", "decode", "--transports", "tcp", *flags("decode"), *where, namespace=host)
                self.assertTrue(prefill.url.startswith("https://" if encrypted else "http://"), prefill.url)
                self.replay([decode], *flags("client"), namespace=host)
            finally:
                seen = tap.stop()
            for word in (b"MCK1", b"llama-3-8b", b"POST /v1/completions"):
                self.assertEqual(word in seen, not encrypted, (word, len(seen)))
            self.assertGreater(len(seen), 1 << 20)
            prefill.close()
            decode.close()

    def test_a_browser_a_plain_caller_and_a_stranger(self):
        flags = self.certificates.cluster_flags("instance")
        instance = self.start("--role", "both", *flags, *self.directory(*flags))
        plain = instance.url.replace("https://", "http://")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{plain}/status")
        self.assertEqual(refused.exception.code, 400)
        self.assertIn("https://", refused.exception.read().decode())
        browser = ssl.create_default_context(cafile=self.certificates.path("ca.pem"))
        browser.load_cert_chain(*self.certificates.issue("browser"))
        with urllib.request.urlopen(f"{instance.url}/status", context=browser) as answer:
            self.assertEqual(json.loads(answer.read())["role"], "both")
        self.assertEqual(run("status", instance.url, *flags).returncode, 0)
        strangers = Certificates()
        self.addCleanup(strangers.close)
        refused = run("status", instance.url, *strangers.cluster_flags("stranger"))
        self.assertEqual(refused.returncode, 1)
        self.assertIn("E116", refused.stderr)

    @unittest.skipIf(Etcd.why_not(), Etcd.why_not())
    def test_etcd_with_client_certificates(self):
        certificate, key = self.certificates.issue("etcd")
        folder = tempfile.TemporaryDirectory(prefix="mooncake-test-etcd-")
        self.addCleanup(folder.cleanup)
        port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
        client = f"https://127.0.0.1:{port}"
        etcd = Process(["etcd", "--name", "test", "--data-dir", folder.name, "--listen-client-urls", client, "--advertise-client-urls",
                        client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"test={peer}",
                        "--cert-file", certificate, "--key-file", key, "--trusted-ca-file", self.certificates.path("ca.pem"),
                        "--client-cert-auth"], "serving client")
        self.addCleanup(etcd.close)
        own, own_key = self.certificates.issue("client")
        right = ["--directory-certificate", own, "--directory-key", own_key, "--directory-ca", self.certificates.path("ca.pem")]
        where = ["--metadata-server", f"etcds://127.0.0.1:{port}"]
        prefill = self.start("--role", "prefill", *where, *right)
        decode = self.start("--role", "decode", *where, *right)
        self.replay([prefill, decode])
        for flags, error, word in ((["--metadata-server", f"etcd://127.0.0.1:{port}"], "E007", "if it speaks TLS, write etcds://"),
                                   (where, "E116", "is not accepted"), ([*where, *right[4:]], "E116", "it refuses: ")):
            refused = run("instance", "--host", "127.0.0.1", *SMALL, "--directory-wait", "1s", *flags)
            self.assertEqual(refused.returncode, 1, refused.stderr)
            self.assertIn(error, refused.stderr.splitlines()[-1])
            self.assertIn(word, refused.stderr.splitlines()[-1])
        misplaced = run("instance", "--host", "127.0.0.1", "--metadata-server", "etcd://127.0.0.1:1", *right)
        self.assertEqual(misplaced.returncode, 2)
        self.assertIn("E002", misplaced.stderr)


if __name__ == "__main__":
    unittest.main()
