//! Transfers: what is asked for, and what becomes of it.

use std::mem;
use std::ops::Range;
use std::os::raw::c_int;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{check, Error};
use crate::ffi;
use crate::handle::Handle;
use crate::notification::NotifyText;
use crate::region::{Region, Registration};

/// A peer, or the engine itself, as [`Engine::open`](crate::Engine::open) found it. It names the
/// peer, and holds nothing: neither a connection nor the engine.
#[derive(Debug, Clone)]
pub struct Segment {
    pub(crate) engine: Weak<Handle>,
    pub(crate) id: i32,
}

impl Segment {
    /// Its id, if it is one of `engine`: another engine means something else by it.
    pub(crate) fn id_in(&self, call: &'static str, engine: &Arc<Handle>) -> Result<i32, Error> {
        if Weak::as_ptr(&self.engine) == Arc::as_ptr(engine) {
            return Ok(self.id);
        }
        Err(Error::Argument {
            call,
            reason: "a segment that another engine has opened",
        })
    }
}

/// One range of bytes to move. An empty one moves nothing.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    opcode: c_int,
    segment: &'a Segment,
    remote_address: u64,
    region: &'a Region,
    range: Range<usize>,
}

impl<'a> Request<'a> {
    /// Moves the bytes at `range` of `region` to `remote_address`, which the segment's process has
    /// registered.
    pub fn write(
        segment: &'a Segment,
        remote_address: u64,
        region: &'a Region,
        range: Range<usize>,
    ) -> Self {
        Request {
            opcode: ffi::OPCODE_WRITE,
            segment,
            remote_address,
            region,
            range,
        }
    }

    /// Moves as many bytes from `remote_address`, which the segment's process has registered, to
    /// `range` of `region`.
    pub fn read(
        segment: &'a Segment,
        remote_address: u64,
        region: &'a Region,
        range: Range<usize>,
    ) -> Self {
        Request {
            opcode: ffi::OPCODE_READ,
            ..Request::write(segment, remote_address, region, range)
        }
    }

    /// For the library, once it is known to be about memory that `engine` has registered.
    fn to_ffi(
        &self,
        call: &'static str,
        engine: &Arc<Handle>,
    ) -> Result<ffi::TransferRequest, Error> {
        let registration = self.region.registration();
        if !registration.is_of(engine) {
            return Err(Error::Argument {
                call,
                reason: "a region that another engine has registered",
            });
        }
        Ok(ffi::TransferRequest {
            opcode: self.opcode,
            source: registration.at(call, &self.range)?.cast(),
            target_id: self.segment.id_in(call, engine)?,
            target_offset: self.remote_address,
            length: self.range.len() as u64,
        })
    }
}

/// What has become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Not begun, or under way.
    Waiting,
    /// Under way.
    Pending,
    /// It could not be carried out as it was.
    Invalid,
    /// Its engine ended it.
    Canceled,
    /// Every byte is in the destination's memory.
    Completed,
    /// It was not done within `MC_TRANSFER_TIMEOUT`. Written bytes may still land at the peer.
    TimedOut,
    /// It broke off.
    Failed,
}

impl Status {
    /// Whether it stays as it is.
    pub fn has_ended(self) -> bool {
        !matches!(self, Status::Waiting | Status::Pending)
    }

    fn from_ffi(status: c_int) -> Self {
        match status {
            ffi::STATUS_WAITING => Status::Waiting,
            ffi::STATUS_PENDING => Status::Pending,
            ffi::STATUS_INVALID => Status::Invalid,
            ffi::STATUS_CANCELED => Status::Canceled,
            ffi::STATUS_COMPLETED => Status::Completed,
            ffi::STATUS_TIMEOUT => Status::TimedOut,
            _ => Status::Failed,
        }
    }
}

/// Requests that were started together. Any thread may ask for it.
///
/// Dropping it waits for them, as the library uses local memory until they have ended: at most
/// `MC_TRANSFER_TIMEOUT` seconds (30 unless set).
#[derive(Debug)]
#[must_use = "dropping a batch waits for its end, and does not tell how it was"]
pub struct Batch {
    engine: Arc<Handle>,
    id: u64,
    requests: usize,                 // 0 until they are submitted
    regions: Vec<Arc<Registration>>, // local memory, which stays registered until the end
}

const SUBMIT: &str = "submitTransfer";
pub(crate) const SUBMIT_WITH_NOTIFY: &str = "submitTransferWithNotify";

impl Batch {
    /// Starts all of `requests`, of which `notify` tells the owner of the first one's segment.
    pub(crate) fn start(
        engine: &Arc<Handle>,
        requests: &[Request<'_>],
        notify: Option<&NotifyText>,
    ) -> Result<Self, Error> {
        let call = if notify.is_some() {
            SUBMIT_WITH_NOTIFY
        } else {
            SUBMIT
        };
        let mut entries = requests
            .iter()
            .map(|request| request.to_ffi(call, engine))
            .collect::<Result<Vec<_>, _>>()?;
        let mut batch = Batch::allocate(engine, requests)?;
        let (handle, list, count) = (engine.get(), entries.as_mut_ptr(), entries.len());
        // SAFETY: the handle is alive, the list is read during the call, and the memory that it
        // names is kept by `batch`, which is dropped when nothing uses it any more.
        check(call, unsafe {
            match notify {
                None => ffi::submitTransfer(handle, batch.id, list, count),
                Some(text) => {
                    ffi::submitTransferWithNotify(handle, batch.id, list, count, text.to_ffi())
                }
            }
        })?;
        batch.requests = requests.len();
        Ok(batch)
    }

    fn allocate(engine: &Arc<Handle>, requests: &[Request<'_>]) -> Result<Self, Error> {
        let mut regions: Vec<_> = requests
            .iter()
            .map(|request| Arc::clone(request.region.registration()))
            .collect();
        // Neighbours alone: most lists have few regions, one after the other.
        regions.dedup_by(|a, b| Arc::ptr_eq(a, b));
        // SAFETY: the handle is alive.
        let id = unsafe { ffi::allocateBatchID(engine.get(), requests.len()) };
        if id == ffi::INVALID_BATCH {
            let call = "allocateBatchID";
            return Err(Error::Library { call, code: -1 });
        }
        Ok(Batch {
            engine: Arc::clone(engine),
            id,
            requests: 0,
            regions,
        })
    }

    /// How many requests it has.
    pub fn len(&self) -> usize {
        self.requests
    }

    /// Whether it has no request.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Of one request, by its place in the slice that was submitted. Does not block.
    ///
    /// # Errors
    /// [`Error::Library`]: there is no such request.
    pub fn status(&self, request: usize) -> Result<Status, Error> {
        let mut status = ffi::TransferStatus {
            status: ffi::STATUS_WAITING,
            transferred_bytes: 0,
        };
        // SAFETY: the handle is alive, and `status` is written to during the call only.
        check("getTransferStatus", unsafe {
            ffi::getTransferStatus(self.engine.get(), self.id, request, &mut status)
        })?;
        Ok(Status::from_ffi(status.status))
    }

    /// Blocks until every request has ended. `Ok`: every byte is in its destination's memory.
    ///
    /// # Errors
    /// [`Error::UnderWay`] after `timeout`; they go on. [`Error::Transfer`]: all have ended, and
    /// this is the first that is not complete.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(timeout); // None: so far that there is none
        let mut outcome = Ok(());
        for request in 0..self.requests {
            let status = self.wait_for(request, deadline)?;
            if outcome.is_ok() && status != Status::Completed {
                outcome = Err(Error::Transfer { request, status });
            }
        }
        outcome
    }

    fn wait_for(&self, request: usize, deadline: Option<Instant>) -> Result<Status, Error> {
        let mut pause = Pause::default();
        loop {
            let status = self.status(request)?;
            if status.has_ended() {
                return Ok(status);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::UnderWay);
            }
            pause.rest();
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let _how_it_was = self.wait(Duration::MAX);
        // SAFETY: the handle is alive, and the id is not used again.
        let code = unsafe { ffi::freeBatchID(self.engine.get(), self.id) };
        if code != 0 {
            // It fails only while a request is under way. Should that be, after all, the memory
            // stays the library's for ever.
            mem::forget(mem::take(&mut self.regions));
        }
    }
}

/// The library has nothing to wait on: ask, and rest longer each time.
#[derive(Default)]
struct Pause {
    rests: u32,
}

impl Pause {
    const YIELDS: u32 = 32; // a transfer within a host may be that quick
    const REST_MIN: Duration = Duration::from_micros(16);
    const DOUBLINGS_MAX: u32 = 6; // to a millisecond

    fn rest(&mut self) {
        match self.rests.checked_sub(Self::YIELDS) {
            None => thread::yield_now(),
            Some(rests) => thread::sleep(Self::REST_MIN * (1 << rests.min(Self::DOUBLINGS_MAX))),
        }
        self.rests = self.rests.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_numbers_of_the_header() {
        let all = [0, 1, 2, 3, 4, 5, 6].map(Status::from_ffi);
        let expected = [
            Status::Waiting,
            Status::Pending,
            Status::Invalid,
            Status::Canceled,
            Status::Completed,
            Status::TimedOut,
            Status::Failed,
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn rests_become_no_longer_than_a_millisecond_and_never_overflow() {
        let mut pause = Pause { rests: u32::MAX };
        let begin = Instant::now();
        pause.rest();
        assert!(begin.elapsed() >= Duration::from_millis(1));
        assert_eq!(pause.rests, u32::MAX);
    }
}
