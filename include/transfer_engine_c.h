/* The transfer engine for C: names, layouts and values of the public project's header of this name,
 * so that programs that were built for that one run on libtransfer_engine.so as they are.
 *
 * Any thread may call anything, any number at once, except destroyTransferEngine(). Functions that
 * return int give 0 or a negative number; a line on stderr says why what they were asked for has
 * failed, and why a request ended as STATUS_FAILED or STATUS_TIMEOUT. NULL and ids that are not
 * known are refused in silence. Strings are copied before a function returns. */
#ifndef TRANSFER_ENGINE_C
#define TRANSFER_ENGINE_C

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define segment_handle_t int32_t
#define segment_id_t int32_t
#define batch_id_t uint64_t
#define LOCAL_SEGMENT (0) /* the engine's own memory */
#define INVALID_BATCH UINT64_MAX

#define OPCODE_READ (0)  /* from the segment */
#define OPCODE_WRITE (1) /* to the segment */

#define STATUS_WAITING (0)
#define STATUS_PENDING (1)
#define STATUS_INVALID (2)
#define STATUS_CANCELED (3)
#define STATUS_COMPLETED (4)
#define STATUS_TIMEOUT (5)
#define STATUS_FAILED (6)

struct transfer_request {
  int opcode;
  void* source;           /* in registered memory of this engine, for both opcodes */
  segment_id_t target_id; /* from openSegment() */
  uint64_t target_offset; /* an address in the memory of the segment's process */
  uint64_t length;        /* bytes; 0 moves nothing */
};
typedef struct transfer_request transfer_request_t;

struct notify_msg {
  char* name; /* both end with a NUL */
  char* msg;
};
typedef struct notify_msg notify_msg_t;

struct transfer_status {
  int status;
  uint64_t transferred_bytes; /* all of the request's once it is completed, else 0 */
};
typedef struct transfer_status transfer_status_t;

struct buffer_entry {
  void* addr;
  size_t length; /* bytes */
};
typedef struct buffer_entry buffer_entry_t;

typedef void* transfer_engine_t;
typedef void* transport_t;

/* `metadata_conn_string`: "P2PHANDSHAKE" (then peers call this engine by getLocalIpAndPort()), or a
 * directory: etcd://, http://, redis://, or host:port for etcd (then they call it
 * `local_server_name`). The other arguments are taken as they are and choose nothing. NULL: it did
 * not start. */
transfer_engine_t createTransferEngine(const char* metadata_conn_string,
                                       const char* local_server_name, const char* ip_or_host_name,
                                       uint64_t rpc_port, int auto_discover);
/* Ends its transfers. The last call for this engine. Memory that peers may still be copying from or
 * to is unregistered before. */
void destroyTransferEngine(transfer_engine_t engine);
/* "host:port" with its NUL; fails where `buf_len` is too short. */
int getLocalIpAndPort(transfer_engine_t engine, char* buf_out, size_t buf_len);

/* Transports choose themselves: nothing happens. Not NULL for an engine. */
transport_t installTransport(transfer_engine_t engine, const char* proto, void** args);
int uninstallTransport(transfer_engine_t engine, const char* proto);

/* An id for submitTransfer(), the same for the same name; negative: nobody answers there. */
segment_id_t openSegment(transfer_engine_t engine, const char* segment_name);
/* The same, after asking the peer for its memory again. */
segment_id_t openSegmentNoCache(transfer_engine_t engine, const char* segment_name);
/* The id is shared by all who have opened the name, and stays good. */
int closeSegment(transfer_engine_t engine, segment_id_t segment_id);
int removeLocalSegment(transfer_engine_t engine, const char* segment_name);
/* What a peer registers is found when it is used: nothing to do. */
int syncSegmentCache(transfer_engine_t engine);

/* -7 where some of it is registered already. `location`: "cpu:0", "cuda:3", "*" or NULL. With
 * `remote_accessible` 0 no peer is told of it. */
int registerLocalMemory(transfer_engine_t engine, void* addr, size_t length, const char* location,
                        int remote_accessible);
/* After 0 neither a peer nor a request of this engine touches it any more: what is under way is
 * waited for. -3: nothing begins at `addr`. -1, within seconds: something does still touch it, a
 * peer that does not answer perhaps, though the registration has ended. */
int unregisterLocalMemory(transfer_engine_t engine, void* addr);
/* All or nothing. */
int registerLocalMemoryBatch(transfer_engine_t engine, buffer_entry_t* buffer_list,
                             size_t buffer_len, const char* location);
int unregisterLocalMemoryBatch(transfer_engine_t engine, void** addr_list, size_t addr_len);

/* Room for requests, which get the numbers 0, 1, 2 and so on in the order of their submission.
 * `batch_size` is a hint. INVALID_BATCH: no engine. */
batch_id_t allocateBatchID(transfer_engine_t engine, size_t batch_size);
/* May be called again for the same batch. Requests to several segments, or of both directions, are
 * started one group after another: where one cannot start, those before it are waited for, and none
 * has a number. After a request has ended, however that was, its local memory is left alone. */
int submitTransfer(transfer_engine_t engine, batch_id_t batch_id, struct transfer_request* entries,
                   size_t count);
/* The owner of the first request's segment gets `notify_msg` (its name is UTF-8) after the bytes of
 * these requests, once. Where they go to several segments, or in both directions, all but the first
 * request's group have ended when it returns. */
int submitTransferWithNotify(transfer_engine_t engine, batch_id_t batch_id,
                             struct transfer_request* entries, size_t count,
                             notify_msg_t notify_msg);
int getTransferStatus(transfer_engine_t engine, batch_id_t batch_id, size_t task_id,
                      struct transfer_status* status);
/* Fails, and changes nothing, while a request of it is under way: ask getTransferStatus() first. */
int freeBatchID(transfer_engine_t engine, batch_id_t batch_id);

/* What has arrived since the last call; `*size` of them, for freeNotifsMsgBuf(). NULL with 0:
 * nothing. */
notify_msg_t* getNotifsFromEngine(transfer_engine_t engine, int* size);
int freeNotifsMsgBuf(notify_msg_t* msg, int size);
int genNotifyInEngine(transfer_engine_t engine, uint64_t target_id, notify_msg_t notify_msg);

#ifdef __cplusplus
}
#endif

#endif
