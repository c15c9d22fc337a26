"""What ./run demo does once the program is built: it ends by itself, says what it saw, and leaves nothing behind."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import tempfile
import unittest

from support import PROGRAM, Etcd, run, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "scripts", "demo_session.sh")


def processes_of(session):
    """Command lines of the living processes of a session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                state, _, _, owner = file.read().rsplit(")", 1)[1].split()[:4]
            if int(owner) == session and state != "Z":
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    found.append(file.read().replace("\0", " "))
    return found


class Demo(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mooncake-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.scratch = os.path.join(self.folder, "scratch")  # what the demo itself makes goes here
        os.mkdir(self.scratch)
        self.trace = os.path.join(self.folder, "trace.jsonl")
        made = run("trace", "generate", "--requests", "24", "--rate", "100", "--conversations", "6", "--mean-input", "2048",
                   "--mean-output", "16", "--out", self.trace)
        self.assertEqual(made.returncode, 0, made.stderr)

    def start(self, *arguments, **streams):
        demo = subprocess.Popen(
            [SCRIPT, PROGRAM, *arguments], stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT,
            env={**os.environ, "TMPDIR": self.scratch, "TERM": "xterm"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **streams)
        self.addCleanup(self.end, demo)
        return demo

    @staticmethod
    def end(demo):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(demo.pid, signal.SIGKILL)
        demo.wait()
        for stream in (demo.stdout, demo.stderr):
            if stream:
                stream.close()

    def assert_nothing_is_left(self, demo):
        self.assertEqual(processes_of(demo.pid), [])
        self.assertEqual(os.listdir(self.scratch), [])

    def finish(self, demo):
        output, errors = demo.communicate(timeout=120)
        return output.decode(), errors.decode()

    def test_without_a_terminal_it_prints_plain_lines_and_a_summary(self):
        demo = self.start(self.trace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = self.finish(demo)
        self.assertEqual(demo.returncode, 0, output + errors)
        self.assertRegex(output, r"live page +http://127\.0\.0\.1:\d+/")
        self.assertIn("24 of 24 answered", output)
        self.assertIn("24 of 24 equal to those of one undivided computation", output)
        self.assertRegex(output, r"KV cache moved +[\d.]+ [KMG]iB over \w+ at [\d.]+ GB/s")
        self.assertRegex(output, r"prefix hits +\d")
        self.assertRegex(output, r"time to first token +\d")
        self.assertRegex(output, r"throughput +\d")
        self.assertIn("prefill -> decode", output)
        self.assertRegex(errors, r"\[#+\] 24/24")
        self.assertNotIn("\x1b", output + errors)
        self.assert_nothing_is_left(demo)

    def test_on_a_terminal_it_draws_the_instances_in_place(self):
        ours, theirs = pty.openpty()
        demo = self.start(self.trace, stdout=theirs, stderr=theirs)
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := os.read(ours, 65536):
                output += data
        os.close(ours)
        self.assertEqual(demo.wait(60), 0, output.decode())
        text = output.decode()
        self.assertRegex(text, r"\x1b\[\d+A\r")
        self.assertIn("24 of 24 equal", text)
        self.assertRegex(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text), r"INSTANCE +ROLE")
        self.assert_nothing_is_left(demo)

    @unittest.skipIf(Etcd.why_not(), Etcd.why_not())
    def test_with_an_etcd_of_its_own(self):
        demo = self.start("--etcd", self.trace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = self.finish(demo)
        self.assertEqual(demo.returncode, 0, output + errors)
        self.assertRegex(output, r"directory +etcd://127\.0\.0\.1:\d+")
        self.assert_nothing_is_left(demo)

    def test_a_failure_shows_the_logs_and_fails(self):
        with open(self.trace, "w", encoding="ascii") as file:  # more than the instances have memory for
            blocks = list(range(2000))
            file.write(f'{{"timestamp": 0, "input_length": {512 * len(blocks)}, "output_length": 1, "hash_ids": {blocks}}}\n')
        demo = self.start(self.trace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = self.finish(demo)
        self.assertEqual(demo.returncode, 1, output + errors)
        self.assertIn("E503", output)
        self.assertIn("the last lines of prefill", errors)
        self.assert_nothing_is_left(demo)

    def test_a_bad_trace_is_said_with_its_line(self):
        with open(self.trace, "a", encoding="ascii") as file:
            file.write('{"timestamp": -1}\n')
        demo = self.start(self.trace, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = self.finish(demo)
        self.assertEqual(demo.returncode, 2, output + errors)
        self.assertIn("line 25", errors)
        self.assert_nothing_is_left(demo)

    def test_an_interrupt_stops_everything(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number), tempfile.TemporaryFile("w+") as log:
                demo = self.start(stdout=log, stderr=log)

                def text(file=log):
                    file.seek(0)
                    return file.read()

                wait_until(lambda: "live page" in text(), 60, text)
                demo.send_signal(number)
                self.assertEqual(demo.wait(30), code, text())
                self.assert_nothing_is_left(demo)


class DemoArguments(unittest.TestCase):
    def test_wrong_ones_are_refused_before_anything_is_installed(self):
        for arguments, said in ((["--ectd"], "--ectd"), (["no-such-file"], "no-such-file"), (["a", "b"], "no file")):
            with self.subTest(arguments):
                done = subprocess.run([os.path.join(ROOT, "run"), "demo", *arguments], capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(said, done.stderr)


if __name__ == "__main__":
    unittest.main()
