//! What calls return when they fail.

use std::ffi::CString;
use std::fmt;
use std::os::raw::c_int;

use crate::Status;

/// Why a call failed, so that its caller knows what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The library refused, or could not. It says on stderr why, with an error id and a remedy
    /// (docs/errors.md).
    Library {
        /// The function of `transfer_engine_c.h`.
        call: &'static str,
        /// What it returned: negative.
        code: i32,
    },
    /// An argument that the library was not even shown: a bug of the caller's, nothing has happened.
    Argument {
        /// The call that it was meant for.
        call: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// All requests of the batch have ended, and this is the first that did not move all its bytes.
    /// Some may have moved. Local memory is not touched any more.
    Transfer {
        /// Its place in the slice that was submitted.
        request: usize,
        /// How it ended.
        status: Status,
    },
    /// The time to wait has passed and requests are under way still: wait again.
    UnderWay,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Library { call, code } => {
                write!(out, "{call} failed with {code}; the reason is on stderr")
            }
            Error::Argument { call, reason } => write!(out, "{call}: {reason}"),
            Error::Transfer { request, status } => {
                write!(out, "request {request} of the batch ended as {status:?}")
            }
            Error::UnderWay => out.write_str("requests of the batch are under way still"),
        }
    }
}

impl std::error::Error for Error {}

pub(crate) fn check(call: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    Err(Error::Library { call, code })
}

/// `text` as C has it. An inner NUL would end it early, so it is refused.
pub(crate) fn c_string(call: &'static str, text: impl AsRef<[u8]>) -> Result<CString, Error> {
    CString::new(text.as_ref()).map_err(|_| Error::Argument {
        call,
        reason: "there is a NUL in a text",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_library_names_the_call_the_code_and_where_the_reason_is() {
        let error = check("openSegment", -1).unwrap_err();
        let text = error.to_string();
        assert_eq!(text, "openSegment failed with -1; the reason is on stderr");
    }

    #[test]
    fn a_text_with_a_nul_is_refused() {
        assert!(c_string("openSegment", "a\0b").is_err());
        assert_eq!(c_string("openSegment", "ab").unwrap().to_bytes(), b"ab");
    }
}
