//! Two processes of one host, or of two, exchange bytes.
//!
//!   transfer                waits for a peer's bytes; prints its name and the address of its memory
//!   transfer NAME ADDRESS   writes a greeting there, reads it back, and tells the peer

use std::env;
use std::error::Error;
use std::thread;
use std::time::Duration;

use mooncake_transfer_engine::{Engine, Region};

const REGION_BYTES: usize = 1 << 20;
const GREETING: &[u8] = b"hello from Rust\0"; // with a NUL, for peers in C
const READ_BACK_AT: usize = 4096;

/// The text that ends with a NUL, or with the 256th byte.
fn text_at(region: &Region, offset: usize) -> Result<String, Box<dyn Error>> {
    let mut bytes = [0; 256];
    region.copy_to(offset, &mut bytes)?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn serve(engine: &Engine, region: &Region) -> Result<(), Box<dyn Error>> {
    println!("{} {}", engine.local_address()?, region.address());
    let first = loop {
        if let Some(first) = engine.take_notifications().into_iter().next() {
            break first;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let message = String::from_utf8_lossy(&first.message);
    println!("{}: {message}: {}", first.name, text_at(region, 0)?);
    Ok(())
}

fn greet(engine: &Engine, region: &Region, peer: &str, address: u64) -> Result<(), Box<dyn Error>> {
    let segment = engine.open(peer)?;
    region.copy_from(0, GREETING)?;
    engine.write(&segment, address, region, 0..GREETING.len())?;
    let back = READ_BACK_AT..READ_BACK_AT + GREETING.len();
    engine.read(&segment, address, region, back)?;
    println!("read back: {}", text_at(region, READ_BACK_AT)?);
    engine.notify(&segment, "greeting", "1")?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new("P2PHANDSHAKE", "127.0.0.1")?;
    let region = engine.register(vec![0; REGION_BYTES], "*")?;
    match &env::args().collect::<Vec<_>>()[..] {
        [_, peer, address] => greet(&engine, &region, peer, address.parse()?),
        _ => serve(&engine, &region),
    }
}
