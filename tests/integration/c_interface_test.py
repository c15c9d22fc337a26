"""libtransfer_engine.so as a C program meets it: installed, linked, called, and nothing else visible."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

from installed import ROOT, environment_of, install, library_folder, run_checked

HEADER = os.path.join(ROOT, "include", "transfer_engine_c.h")

# Offsets as the public project's header lays them out on 64-bit machines.
LAYOUT = r"""
#include <transfer_engine_c.h>
#define AT(type, field, offset) _Static_assert(offsetof(struct type, field) == offset, #type "." #field)
AT(transfer_request, opcode, 0); AT(transfer_request, source, 8); AT(transfer_request, target_id, 16);
AT(transfer_request, target_offset, 24); AT(transfer_request, length, 32);
_Static_assert(sizeof(struct transfer_request) == 40 && sizeof(struct transfer_status) == 16, "sizes");
AT(transfer_status, status, 0); AT(transfer_status, transferred_bytes, 8);
AT(notify_msg, name, 0); AT(notify_msg, msg, 8); AT(buffer_entry, addr, 0); AT(buffer_entry, length, 8);
_Static_assert(STATUS_WAITING == 0 && STATUS_PENDING == 1 && STATUS_INVALID == 2 && STATUS_CANCELED == 3 &&
               STATUS_COMPLETED == 4 && STATUS_TIMEOUT == 5 && STATUS_FAILED == 6, "states");
"""

HOSTILE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <transfer_engine_c.h>
#define CHECK(condition) if (!(condition)) { printf("line %d: %s\n", __LINE__, #condition); return 1; }
int main(void) {
  static char memory[65536];
  char name[64];
  int count = 7;
  struct transfer_status status;
  notify_msg_t message = {(char*)"n", (char*)"m"};
  CHECK(createTransferEngine("gopher://x", "127.0.0.1", "", 0, 1) == NULL);
  CHECK(createTransferEngine(NULL, NULL, NULL, 0, 1) == NULL || 1);
  CHECK(openSegment(NULL, "x") < 0 && registerLocalMemory(NULL, memory, 1, "*", 1) < 0);
  CHECK(allocateBatchID(NULL, 1) == INVALID_BATCH && getNotifsFromEngine(NULL, &count) == NULL && count == 0);
  transfer_engine_t engine = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 1);
  CHECK(engine != NULL);
  CHECK(getLocalIpAndPort(engine, name, 5) < 0 && getLocalIpAndPort(engine, name, sizeof name) == 0);
  CHECK(registerLocalMemory(engine, memory, sizeof memory, NULL, 1) == 0);
  CHECK(registerLocalMemory(engine, memory + 1, 8, "*", 1) == -7);
  CHECK(registerLocalMemory(engine, NULL, 8, "*", 1) < 0 && unregisterLocalMemory(engine, memory + 1) == -3);
  CHECK(openSegment(engine, NULL) < 0 && openSegment(engine, "127.0.0.1:1") < 0 && openSegment(engine, name) == LOCAL_SEGMENT);
  batch_id_t batch = allocateBatchID(engine, 1024);
  struct transfer_request request = {OPCODE_WRITE, memory, 99, (uint64_t)(size_t)memory, 8};
  CHECK(submitTransfer(engine, batch, &request, 1) < 0);      /* no such segment */
  request.target_id = LOCAL_SEGMENT;
  CHECK(submitTransfer(engine, 4711, &request, 1) < 0);       /* no such batch */
  CHECK(submitTransfer(engine, batch, NULL, 1) < 0);
  request.opcode = 5;
  CHECK(submitTransfer(engine, batch, &request, 1) < 0);
  request.opcode = OPCODE_WRITE;
  request.target_offset = 64;
  CHECK(submitTransfer(engine, batch, &request, 1) < 0);      /* memory of nobody */
  CHECK(getTransferStatus(engine, batch, 0, &status) < 0);    /* and nothing was begun */
  memory[0] = 'a';
  request.target_offset = (uint64_t)(size_t)memory + 100;
  CHECK(submitTransferWithNotify(engine, batch, &request, 1, message) == 0);
  request.target_offset += 100;
  CHECK(submitTransfer(engine, batch, &request, 1) == 0);     /* again on one batch */
  for (size_t task = 0; task < 2; ++task) {
    do CHECK(getTransferStatus(engine, batch, task, &status) == 0) while (status.status <= STATUS_PENDING);
    CHECK(status.status == STATUS_COMPLETED && status.transferred_bytes == 8);
  }
  CHECK(memory[100] == 'a' && memory[200] == 'a');
  CHECK(getTransferStatus(engine, batch, 2, &status) < 0 && getTransferStatus(engine, batch, 0, NULL) < 0);
  CHECK(genNotifyInEngine(engine, 99, message) < 0 && genNotifyInEngine(engine, LOCAL_SEGMENT, message) == 0);
  notify_msg_t* messages = getNotifsFromEngine(engine, &count);
  CHECK(count == 2 && messages[0].name[0] == 'n' && messages[1].msg[0] == 'm' && freeNotifsMsgBuf(messages, count) == 0);
  CHECK(freeBatchID(engine, batch) == 0 && freeBatchID(engine, batch) < 0);
  CHECK(installTransport(engine, "rdma", NULL) != NULL && syncSegmentCache(engine) == 0 && closeSegment(engine, 99) < 0);
  CHECK(unregisterLocalMemory(engine, memory) == 0 && unregisterLocalMemory(engine, memory) == -3);
  destroyTransferEngine(engine);
  destroyTransferEngine(NULL);
  return 0;
}
"""


class CInterface(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="mooncake-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        install(cls.folder + "/first")
        os.rename(cls.folder + "/first", cls.folder + "/moved")  # an installed tree may be moved
        folder = library_folder(cls.folder)
        cls.library, cls.environment = os.path.join(folder, "libtransfer_engine.so"), environment_of(folder)

    def compile(self, name, source=None):
        path = os.path.join(self.folder, name)
        if source is not None:
            with open(path + ".c", "w", encoding="ascii") as file:
                file.write(source)
        flags = run_checked("pkg-config", "--cflags", "--libs", "transfer_engine", env=self.environment).split()
        run_checked("cc", "-std=c11", "-D_POSIX_C_SOURCE=199309L", "-Wall", "-Wextra", "-Werror", source and path + ".c" or os.path.join(ROOT, "examples", "c", "transfer.c"),
            "-o", path, *flags)
        return path

    def test_two_processes_of_the_example(self):
        program = self.compile("transfer")
        with subprocess.Popen([program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.environment) as peer:
            name, address = peer.stdout.readline().split()
            self.assertEqual(run_checked(program, name, address, env=self.environment), "read back: hello from C\n")
            self.assertEqual(peer.stdout.readline(), "greeting: 1: hello from C\n")
            self.assertEqual(peer.wait(timeout=20), 0)

    def test_wrong_arguments_fail_and_right_ones_do_not(self):
        run_checked(self.compile("hostile", HOSTILE), env=self.environment)

    def test_layout(self):
        self.compile("layout", LAYOUT + "int main(void) { return 0; }\n")

    def test_exactly_the_functions_of_the_header_are_visible(self):
        symbols = {line.split()[2] for line in run_checked("nm", "-D", "--defined-only", self.library).splitlines() if line.split()[1] in "TWBDR"}
        with open(HEADER, encoding="ascii") as file:
            declared = set(re.findall(r"^[a-z_]+\*? \*?(\w+)\(", file.read(), re.MULTILINE))
        self.assertEqual({symbol.split("@")[0] for symbol in symbols}, declared)
        self.assertTrue(all(symbol.endswith("@@MOONCAKE_1") for symbol in symbols), symbols)

    def test_cmake_finds_it(self):
        project = os.path.join(self.folder, "project")
        os.makedirs(project)
        with open(os.path.join(project, "CMakeLists.txt"), "w", encoding="ascii") as file:
            file.write(f"cmake_minimum_required(VERSION 3.25)\nproject(p C)\nfind_package(mooncake 0.1 REQUIRED)\n"
                       f"add_executable(transfer {ROOT}/examples/c/transfer.c)\ntarget_link_libraries(transfer mooncake::transfer_engine)\n")
        run_checked("cmake", "-S", project, "-B", project + "/build", f"-DCMAKE_PREFIX_PATH={self.folder}/moved")
        run_checked("cmake", "--build", project + "/build")


if __name__ == "__main__":
    unittest.main()
