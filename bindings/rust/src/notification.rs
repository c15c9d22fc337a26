//! Short messages between engines.

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int};

use crate::error::{c_string, Error};
use crate::ffi;

/// What a peer has told this engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// UTF-8; what is not was replaced by U+FFFD.
    pub name: String,
    /// Any bytes but NUL.
    pub message: Vec<u8>,
}

/// What a peer will be told, as C has it.
pub(crate) struct NotifyText {
    name: CString,
    message: CString,
}

impl NotifyText {
    pub(crate) fn new(call: &'static str, name: &str, message: &[u8]) -> Result<Self, Error> {
        Ok(NotifyText {
            name: c_string(call, name)?,
            message: c_string(call, message)?,
        })
    }

    /// Valid as long as `self`; the library copies it and changes nothing.
    pub(crate) fn to_ffi(&self) -> ffi::NotifyMsg {
        ffi::NotifyMsg {
            name: self.name.as_ptr().cast_mut(),
            msg: self.message.as_ptr().cast_mut(),
        }
    }
}

/// Copies the list and gives it back to the library.
///
/// # Safety
/// `list` and `count` are what getNotifsFromEngine() has returned, just now.
pub(crate) unsafe fn copy_and_free(list: *mut ffi::NotifyMsg, count: c_int) -> Vec<Notification> {
    let length = usize::try_from(count).unwrap_or(0);
    if list.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: that many, which are this function's alone.
    let messages = unsafe { std::slice::from_raw_parts(list, length) };
    let copies = messages
        .iter()
        // SAFETY: both texts end with a NUL, or are null.
        .map(|each| unsafe {
            Notification {
                name: String::from_utf8_lossy(bytes_of(each.name)).into_owned(),
                message: bytes_of(each.msg).to_vec(),
            }
        })
        .collect();
    // SAFETY: given back once, and not used any more. It cannot fail.
    unsafe { ffi::freeNotifsMsgBuf(list, count) };
    copies
}

/// # Safety
/// `text` is null, where memory had run out, or ends with a NUL; it lives as long as the result.
unsafe fn bytes_of<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}
