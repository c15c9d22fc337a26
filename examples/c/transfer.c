/* Two processes of one host, or of two, exchange bytes with the C interface of the transfer engine.
 *
 *   transfer                    waits for a peer's bytes; prints its name and the address of its memory
 *   transfer NAME ADDRESS       writes a greeting there, reads it back, and tells the peer
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <transfer_engine_c.h>

enum { kBytes = 1 << 20 };
static const char kGreeting[] = "hello from C";

static void pause_ms(long ms) {
  struct timespec time = {0, ms * 1000000L};
  nanosleep(&time, NULL);
}

/* One request, to its end. 0 or -1. */
static int transfer(transfer_engine_t engine, struct transfer_request request) {
  struct transfer_status status = {STATUS_WAITING, 0};
  batch_id_t batch = allocateBatchID(engine, 1);
  int code = submitTransfer(engine, batch, &request, 1);
  while (code == 0 && status.status <= STATUS_PENDING) code = getTransferStatus(engine, batch, 0, &status);
  freeBatchID(engine, batch);
  return code == 0 && status.status == STATUS_COMPLETED && status.transferred_bytes == request.length ? 0 : -1;
}

static int serve(transfer_engine_t engine, const char* name, const char* memory) {
  int count = 0;
  notify_msg_t* messages = NULL;
  printf("%s %llu\n", name, (unsigned long long)(size_t)memory);
  fflush(stdout);
  while (count == 0) {
    pause_ms(1);
    messages = getNotifsFromEngine(engine, &count);
  }
  printf("%s: %s: %s\n", messages[0].name, messages[0].msg, memory);
  freeNotifsMsgBuf(messages, count);
  return 0;
}

static int greet(transfer_engine_t engine, char* memory, const char* peer, const char* address) {
  segment_id_t segment = openSegment(engine, peer);
  if (segment < 0) return 1;
  struct transfer_request request = {OPCODE_WRITE, memory, segment, strtoull(address, NULL, 10), sizeof kGreeting};
  memcpy(memory, kGreeting, sizeof kGreeting);
  if (transfer(engine, request) != 0) return 1;
  request.opcode = OPCODE_READ;
  request.source = memory + 4096;
  if (transfer(engine, request) != 0) return 1;
  printf("read back: %s\n", memory + 4096);
  notify_msg_t notify = {(char*)"greeting", (char*)"1"};
  return genNotifyInEngine(engine, (uint64_t)segment, notify) == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  char name[64];
  char* memory = calloc(1, kBytes);
  transfer_engine_t engine = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 1);
  int code = 1;
  if (memory && engine && getLocalIpAndPort(engine, name, sizeof name) == 0 &&
      registerLocalMemory(engine, memory, kBytes, "*", 1) == 0) {
    code = argc == 3 ? greet(engine, memory, argv[1], argv[2]) : serve(engine, name, memory);
    unregisterLocalMemory(engine, memory);
  }
  if (engine) destroyTransferEngine(engine);
  free(memory);
  return code;
}
