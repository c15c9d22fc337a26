//! The C engine, ended once, after everything that needs it.

use std::os::raw::c_void;
use std::ptr::NonNull;

use crate::ffi;

/// Shared by the engine, its regions and its batches: memory may be given back only while there is
/// an engine to take it from, whichever of them the application drops first.
#[derive(Debug)]
pub(crate) struct Handle(NonNull<c_void>);

// SAFETY: the header allows any thread to call anything, any number at once, but for the end, and
// drop() has the handle alone.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// None for null. `engine` is of createTransferEngine(), and nobody else's.
    pub(crate) fn new(engine: *mut c_void) -> Option<Self> {
        NonNull::new(engine).map(Handle)
    }

    pub(crate) fn get(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the last call for this engine, as nobody else has the handle.
        unsafe { ffi::destroyTransferEngine(self.get()) }
    }
}
