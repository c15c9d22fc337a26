//! What this crate uses of `transfer_engine_c.h`, word for word.

use std::os::raw::{c_char, c_int, c_void};

pub(crate) const INVALID_BATCH: u64 = u64::MAX;
pub(crate) const OPCODE_READ: c_int = 0;
pub(crate) const OPCODE_WRITE: c_int = 1;

pub(crate) const STATUS_WAITING: c_int = 0;
pub(crate) const STATUS_PENDING: c_int = 1;
pub(crate) const STATUS_INVALID: c_int = 2;
pub(crate) const STATUS_CANCELED: c_int = 3;
pub(crate) const STATUS_COMPLETED: c_int = 4;
pub(crate) const STATUS_TIMEOUT: c_int = 5;

#[repr(C)]
pub(crate) struct TransferRequest {
    pub opcode: c_int,
    pub source: *mut c_void,
    pub target_id: i32,
    pub target_offset: u64,
    pub length: u64,
}

#[repr(C)]
pub(crate) struct NotifyMsg {
    pub name: *mut c_char,
    pub msg: *mut c_char,
}

#[repr(C)]
pub(crate) struct TransferStatus {
    pub status: c_int,
    pub transferred_bytes: u64,
}

extern "C" {
    pub(crate) fn createTransferEngine(
        metadata_conn_string: *const c_char,
        local_server_name: *const c_char,
        ip_or_host_name: *const c_char,
        rpc_port: u64,
        auto_discover: c_int,
    ) -> *mut c_void;
    pub(crate) fn destroyTransferEngine(engine: *mut c_void);
    pub(crate) fn getLocalIpAndPort(
        engine: *mut c_void,
        buf_out: *mut c_char,
        buf_len: usize,
    ) -> c_int;

    pub(crate) fn openSegment(engine: *mut c_void, segment_name: *const c_char) -> i32;

    pub(crate) fn registerLocalMemory(
        engine: *mut c_void,
        addr: *mut c_void,
        length: usize,
        location: *const c_char,
        remote_accessible: c_int,
    ) -> c_int;
    pub(crate) fn unregisterLocalMemory(engine: *mut c_void, addr: *mut c_void) -> c_int;

    pub(crate) fn allocateBatchID(engine: *mut c_void, batch_size: usize) -> u64;
    pub(crate) fn submitTransfer(
        engine: *mut c_void,
        batch_id: u64,
        entries: *mut TransferRequest,
        count: usize,
    ) -> c_int;
    pub(crate) fn submitTransferWithNotify(
        engine: *mut c_void,
        batch_id: u64,
        entries: *mut TransferRequest,
        count: usize,
        notify_msg: NotifyMsg,
    ) -> c_int;
    pub(crate) fn getTransferStatus(
        engine: *mut c_void,
        batch_id: u64,
        task_id: usize,
        status: *mut TransferStatus,
    ) -> c_int;
    pub(crate) fn freeBatchID(engine: *mut c_void, batch_id: u64) -> c_int;

    pub(crate) fn getNotifsFromEngine(engine: *mut c_void, size: *mut c_int) -> *mut NotifyMsg;
    pub(crate) fn freeNotifsMsgBuf(msg: *mut NotifyMsg, size: c_int) -> c_int;
    pub(crate) fn genNotifyInEngine(
        engine: *mut c_void,
        target_id: u64,
        notify_msg: NotifyMsg,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    // The numbers that tests/integration/c_interface_test.py holds the header to.
    #[test]
    fn a_request_lies_in_memory_as_the_header_says() {
        assert_eq!(offset_of!(TransferRequest, opcode), 0);
        assert_eq!(offset_of!(TransferRequest, source), 8);
        assert_eq!(offset_of!(TransferRequest, target_id), 16);
        assert_eq!(offset_of!(TransferRequest, target_offset), 24);
        assert_eq!(offset_of!(TransferRequest, length), 32);
        assert_eq!(size_of::<TransferRequest>(), 40);
        assert_eq!(align_of::<TransferRequest>(), 8);
    }

    #[test]
    fn a_status_lies_in_memory_as_the_header_says() {
        assert_eq!(offset_of!(TransferStatus, status), 0);
        assert_eq!(offset_of!(TransferStatus, transferred_bytes), 8);
        assert_eq!(size_of::<TransferStatus>(), 16);
    }

    #[test]
    fn a_notification_lies_in_memory_as_the_header_says() {
        assert_eq!(offset_of!(NotifyMsg, name), 0);
        assert_eq!(offset_of!(NotifyMsg, msg), 8);
        assert_eq!(size_of::<NotifyMsg>(), 16);
    }
}
