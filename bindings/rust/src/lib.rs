//! Mooncake's transfer engine for Rust: moves bytes between registered memories of processes, of one
//! host or of several. A thin layer over `libtransfer_engine.so`.
//!
//! ```no_run
//! use mooncake_transfer_engine::Engine;
//!
//! # fn main() -> Result<(), mooncake_transfer_engine::Error> {
//! let engine = Engine::new("P2PHANDSHAKE", "127.0.0.1")?;
//! let region = engine.register(vec![0; 1 << 20], "*")?;
//! region.copy_from(0, b"hello")?;
//! let peer = engine.open("127.0.0.1:12345")?; // what its local_address() is
//! engine.write(&peer, 0x7f00_0000_0000, &region, 0..5)?; // what its Region::address() is
//! # Ok(())
//! # }
//! ```
//!
//! The library's own lines go to stderr. After a `fork()` the child's copy of an engine fails every
//! call.

mod batch;
mod engine;
mod error;
mod ffi;
mod handle;
mod notification;
mod region;

pub use batch::{Batch, Request, Segment, Status};
pub use engine::Engine;
pub use error::Error;
pub use notification::Notification;
pub use region::Region;
