//! Registered memory.

use std::ffi::CStr;
use std::ops::Range;
use std::ptr::{slice_from_raw_parts_mut, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use crate::error::{check, Error};
use crate::ffi;
use crate::handle::Handle;

/// Memory that peers read and write, until this and every [`Batch`](crate::Batch) that uses it are
/// dropped; the last of these drops blocks while a peer copies, at most seconds. Any thread may use
/// it.
///
/// Peers write into it at any time, so there is no slice of it: [`copy_from`](Self::copy_from) and
/// [`copy_to`](Self::copy_to) copy byte by byte, some GB/s, and [`unregister`](Self::unregister)
/// gives the memory back as a whole.
#[derive(Debug)]
pub struct Region {
    registration: Arc<Registration>,
}

impl Region {
    /// The address that peers name its first byte by.
    pub fn address(&self) -> u64 {
        self.as_ptr() as u64
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.registration.length_bytes
    }

    /// False: the library registers no empty memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of its first byte; valid as long as the memory is registered. Whoever reads or writes through
    /// it makes sure that no peer, no transfer and no other thread is at the same bytes meanwhile.
    pub fn as_ptr(&self) -> *mut u8 {
        self.registration.start.as_ptr()
    }

    /// Copies `bytes` to `offset` (bytes from the beginning). What a peer reads meanwhile is old or
    /// new, byte by byte.
    ///
    /// # Errors
    /// [`Error::Argument`]: it is not large enough; nothing was copied.
    pub fn copy_from(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let cells = self.registration.cells("copy_from", offset, bytes.len())?;
        for (cell, byte) in cells.iter().zip(bytes) {
            cell.store(*byte, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Fills `bytes` from `offset` (bytes from the beginning). What a peer writes meanwhile arrives
    /// or not, byte by byte; what was written before its notification is there.
    ///
    /// # Errors
    /// [`Error::Argument`]: it is not large enough; nothing was copied.
    pub fn copy_to(&self, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let cells = self.registration.cells("copy_to", offset, bytes.len())?;
        for (cell, byte) in cells.iter().zip(bytes) {
            *byte = cell.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends the registration, which no peer touches after that, and gives the memory back; `None`
    /// for memory of [`Engine::register_raw`](crate::Engine::register_raw), which is its owner's.
    /// Blocks while a peer copies, at most seconds.
    ///
    /// # Errors
    /// [`Error::Argument`]: a batch uses it; dropping that one will end the registration.
    /// [`Error::Library`]: a peer may touch the memory still, so it is never freed.
    pub fn unregister(self) -> Result<Option<Box<[u8]>>, Error> {
        let alone = Arc::into_inner(self.registration).ok_or(Error::Argument {
            call: UNREGISTER,
            reason: "a batch that uses the region has not been dropped",
        });
        alone?.end()
    }

    /// Shared with the batches that use it.
    pub(crate) fn registration(&self) -> &Arc<Registration> {
        &self.registration
    }
}

const REGISTER: &str = "registerLocalMemory";
const UNREGISTER: &str = "unregisterLocalMemory";

#[derive(Debug)]
pub(crate) struct Registration {
    engine: Arc<Handle>,
    start: NonNull<u8>,
    length_bytes: usize,
    owned: bool, // `start` came out of a Box
    ended: bool,
}

// SAFETY: the memory is reached only through atomics and through the library, both from any thread.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    pub(crate) fn of_box(
        engine: &Arc<Handle>,
        memory: Box<[u8]>,
        location: &CStr,
    ) -> Result<Region, Error> {
        let length_bytes = memory.len();
        // A Box that lay here would claim that nobody else reaches its bytes.
        let start = Box::leak(memory).as_mut_ptr();
        // SAFETY: nothing but Registration::end() frees the memory, after the registration.
        let region = unsafe { Self::of_raw(engine, start, length_bytes, location, true) };
        if region.is_err() {
            // SAFETY: leaked above, and the library did not take it.
            drop(unsafe { Box::from_raw(slice_from_raw_parts_mut(start, length_bytes)) });
        }
        region
    }

    /// # Safety
    /// As [`Engine::register_raw`](crate::Engine::register_raw); with `owned`, the memory is what a
    /// `Box<[u8]>` has leaked.
    pub(crate) unsafe fn of_raw(
        engine: &Arc<Handle>,
        start: *mut u8,
        length_bytes: usize,
        location: &CStr,
        owned: bool,
    ) -> Result<Region, Error> {
        let start = NonNull::new(start).ok_or(Error::Argument {
            call: REGISTER,
            reason: "there is no memory at null",
        })?;
        // SAFETY: the caller keeps the memory valid; the text is copied.
        check(REGISTER, unsafe {
            let address = start.as_ptr().cast();
            ffi::registerLocalMemory(engine.get(), address, length_bytes, location.as_ptr(), 1)
        })?;
        let registration = Registration {
            engine: Arc::clone(engine),
            start,
            length_bytes,
            owned,
            ended: false,
        };
        Ok(Region {
            registration: Arc::new(registration),
        })
    }

    pub(crate) fn is_of(&self, engine: &Arc<Handle>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }

    /// The bytes of `range`, for the library.
    pub(crate) fn at(&self, call: &'static str, range: &Range<usize>) -> Result<*mut u8, Error> {
        if range.start > range.end || range.end > self.length_bytes {
            return Err(Error::Argument {
                call,
                reason: "a range that is not inside its region",
            });
        }
        // SAFETY: inside the memory, or one past its end.
        Ok(unsafe { self.start.as_ptr().add(range.start) })
    }

    fn cells(
        &self,
        call: &'static str,
        offset: usize,
        length_bytes: usize,
    ) -> Result<&[AtomicU8], Error> {
        // An end that overflows is refused as the largest one is.
        let start = self.at(call, &(offset..offset.saturating_add(length_bytes)))?;
        // SAFETY: inside the memory, which lives as long as `self` and is reached through atomics
        // alone on this side.
        Ok(unsafe { std::slice::from_raw_parts(start.cast(), length_bytes) })
    }

    fn end(&mut self) -> Result<Option<Box<[u8]>>, Error> {
        self.ended = true;
        // SAFETY: begun by of_raw(), ended once. No transfer of this engine uses it, as batches
        // hold on to it until their end.
        check(UNREGISTER, unsafe {
            ffi::unregisterLocalMemory(self.engine.get(), self.start.as_ptr().cast())
        })?;
        // SAFETY: leaked by of_box(), and nobody else's any more.
        Ok(self.owned.then(|| unsafe {
            Box::from_raw(slice_from_raw_parts_mut(
                self.start.as_ptr(),
                self.length_bytes,
            ))
        }))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.ended {
            // Memory that a peer may touch still is leaked; the library has said so on stderr.
            drop(self.end());
        }
    }
}
