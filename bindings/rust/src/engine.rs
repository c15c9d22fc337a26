//! The engine: who peers reach, and where transfers start.

use std::ops::Range;
use std::os::raw::c_char;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Batch, Request, Segment, SUBMIT_WITH_NOTIFY};
use crate::error::{c_string, check, Error};
use crate::ffi;
use crate::handle::Handle;
use crate::notification::{copy_and_free, Notification, NotifyText};
use crate::region::{Region, Registration};

const CREATE: &str = "createTransferEngine";
const OPEN: &str = "openSegment";
const REGISTER: &str = "registerLocalMemory";
const NOTIFY: &str = "genNotifyInEngine";
const ADDRESS: &str = "getLocalIpAndPort";

/// Enough for a host name of 253 characters and a port.
const ADDRESS_BYTES: usize = 512;

/// One transfer engine: its own port, threads and connections; any number in a process. Any thread
/// may call anything, any number at once.
///
/// It ends, and its port is free, when it and its last [`Region`] and [`Batch`] have been dropped:
/// the last of these drops blocks for a moment.
#[derive(Debug)]
pub struct Engine {
    handle: Arc<Handle>,
}

impl Engine {
    /// `metadata_server` is "P2PHANDSHAKE" (then peers call this engine by
    /// [`local_address`](Self::local_address)) or a directory: `etcd://`, `http://`, `redis://`, or
    /// `host:port` for etcd (then they call it `local_name`). Blocks until the directory has it.
    ///
    /// # Errors
    /// [`Error::Library`]: it did not start.
    pub fn new(metadata_server: &str, local_name: &str) -> Result<Self, Error> {
        let metadata_server = c_string(CREATE, metadata_server)?;
        let local_name = c_string(CREATE, local_name)?;
        // SAFETY: the texts are copied. The other arguments choose nothing.
        let engine = Handle::new(unsafe {
            let unused: *const c_char = c"".as_ptr();
            ffi::createTransferEngine(metadata_server.as_ptr(), local_name.as_ptr(), unused, 0, 1)
        });
        let handle = Arc::new(engine.ok_or(Error::Library {
            call: CREATE,
            code: -1, // it has none of its own
        })?);
        Ok(Engine { handle })
    }

    /// "host:port", where peers reach this process.
    ///
    /// # Errors
    /// [`Error::Library`]: it is longer than host names are.
    pub fn local_address(&self) -> Result<String, Error> {
        let mut text = [0u8; ADDRESS_BYTES];
        // SAFETY: written to during the call only, with a NUL at the end.
        check(ADDRESS, unsafe {
            ffi::getLocalIpAndPort(self.handle.get(), text.as_mut_ptr().cast(), text.len())
        })?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    /// Lets peers read and write `memory` (a `Vec<u8>` or a `Box<[u8]>`), which belongs to the
    /// region until [`Region::unregister`] gives it back or a drop frees it. `location` says where
    /// it is: "cpu:0", or "*" to have it found out.
    ///
    /// # Errors
    /// [`Error::Library`], with the memory freed: it is empty.
    pub fn register(&self, memory: impl Into<Box<[u8]>>, location: &str) -> Result<Region, Error> {
        let location = c_string(REGISTER, location)?;
        Registration::of_box(&self.handle, memory.into(), &location)
    }

    /// The same for memory of the application's own, such as a mapping. The region's drop does not
    /// free it.
    ///
    /// # Errors
    /// [`Error::Library`]: code -7 where some of it is registered already.
    ///
    /// # Safety
    /// `length_bytes` bytes at `start` may be read and written, by this process and by its peers at
    /// any time, until [`Region::unregister`] has returned `Ok`; where it fails, or the region is
    /// dropped instead, for the life of the process. Meanwhile no reference to them is used.
    pub unsafe fn register_raw(
        &self,
        start: *mut u8,
        length_bytes: usize,
        location: &str,
    ) -> Result<Region, Error> {
        let location = c_string(REGISTER, location)?;
        // SAFETY: the caller's word.
        unsafe { Registration::of_raw(&self.handle, start, length_bytes, &location, false) }
    }

    /// Finds the peer that is called `segment_name`, or this engine itself. Blocks until it answers,
    /// at most seconds.
    ///
    /// # Errors
    /// [`Error::Library`]: nobody answers there.
    pub fn open(&self, segment_name: &str) -> Result<Segment, Error> {
        let name = c_string(OPEN, segment_name)?;
        // SAFETY: the handle is alive, the text is copied.
        let id = unsafe { ffi::openSegment(self.handle.get(), name.as_ptr()) };
        if id < 0 {
            let call = OPEN;
            return Err(Error::Library { call, code: id });
        }
        // It is never closed: an id is the same for everybody who opens the name.
        let engine = Arc::downgrade(&self.handle);
        Ok(Segment { engine, id })
    }

    /// Starts all of `requests`, whose bytes move in no order. The regions that they name stay
    /// registered until the batch has been dropped.
    ///
    /// # Errors
    /// [`Error::Library`]: a peer that is gone, or has not registered what a request names; some may
    /// have moved, and local memory is not touched any more. [`Error::Argument`]: a range outside
    /// its region, or a region or segment of another engine; nothing has moved.
    pub fn submit(&self, requests: &[Request<'_>]) -> Result<Batch, Error> {
        Batch::start(&self.handle, requests, None)
    }

    /// The same; the owner of the first request's segment gets the notification once all bytes have
    /// arrived. Blocks for the others where the requests go to several segments, or are both reads
    /// and writes.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Error::Library`] for no request at all.
    pub fn submit_with_notify(
        &self,
        requests: &[Request<'_>],
        name: &str,
        message: impl AsRef<[u8]>,
    ) -> Result<Batch, Error> {
        let text = NotifyText::new(SUBMIT_WITH_NOTIFY, name, message.as_ref())?;
        Batch::start(&self.handle, requests, Some(&text))
    }

    /// One [`Request::write`], to its end.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Error::Transfer`].
    pub fn write(
        &self,
        segment: &Segment,
        remote_address: u64,
        region: &Region,
        range: Range<usize>,
    ) -> Result<(), Error> {
        let request = Request::write(segment, remote_address, region, range);
        self.submit(&[request])?.wait(Duration::MAX)
    }

    /// One [`Request::read`], to its end.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Error::Transfer`].
    pub fn read(
        &self,
        segment: &Segment,
        remote_address: u64,
        region: &Region,
        range: Range<usize>,
    ) -> Result<(), Error> {
        let request = Request::read(segment, remote_address, region, range);
        self.submit(&[request])?.wait(Duration::MAX)
    }

    /// Tells the segment's owner, once. `name` and `message` have no NUL. Blocks until it has been
    /// delivered, at most `MC_TRANSFER_TIMEOUT` seconds.
    ///
    /// # Errors
    /// [`Error::Library`]: it may or may not have been delivered.
    pub fn notify(
        &self,
        segment: &Segment,
        name: &str,
        message: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        let id = segment.id_in(NOTIFY, &self.handle)?;
        let text = NotifyText::new(NOTIFY, name, message.as_ref())?;
        // SAFETY: the handle is alive, the texts are copied. open() refused negative ids.
        check(NOTIFY, unsafe {
            ffi::genNotifyInEngine(self.handle.get(), id as u64, text.to_ffi())
        })
    }

    /// What has arrived since the last call, in the order of arrival. Does not block.
    pub fn take_notifications(&self) -> Vec<Notification> {
        let mut count = 0;
        // SAFETY: the handle is alive, and the list is ours to give back.
        unsafe {
            let list = ffi::getNotifsFromEngine(self.handle.get(), ptr::addr_of_mut!(count));
            copy_and_free(list, count)
        }
    }
}
