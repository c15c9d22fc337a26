//! Finds libtransfer_engine.so: in `MOONCAKE_LIB_DIR` if that is set, else where pkg-config says.

use std::env;
use std::process::{exit, Command};

const PACKAGE: &str = "transfer_engine";

fn main() {
    for variable in ["MOONCAKE_LIB_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Ok(folder) = env::var("MOONCAKE_LIB_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-lib=dylib={PACKAGE}");
        return;
    }
    match ask_pkg_config() {
        Ok(flags) => tell_cargo(&flags),
        Err(reason) => {
            eprintln!(
                "libtransfer_engine.so is not found: {reason}.\n\
                 Set MOONCAKE_LIB_DIR to the folder that holds it, or PKG_CONFIG_PATH to the one that\n\
                 holds transfer_engine.pc (PREFIX/lib/pkgconfig after cmake --install build --prefix PREFIX)."
            );
            exit(1);
        }
    }
}

fn ask_pkg_config() -> Result<String, String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let answer = Command::new(&program)
        .args(["--libs", PACKAGE])
        .output()
        .map_err(|error| format!("{program} does not start ({error})"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if answer.status.success() {
        return Ok(text(&answer.stdout));
    }
    Err(format!(
        "{program} --libs {PACKAGE} says: {}",
        text(&answer.stderr)
    ))
}

fn tell_cargo(flags: &str) {
    for flag in split(flags) {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
}

/// At blanks, but not at those that pkg-config has put a backslash before.
fn split(flags: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = flags.chars();
    while let Some(each) = rest.next() {
        match each {
            '\\' => words.last_mut().unwrap().extend(rest.next()),
            ' ' => words.push(String::new()),
            _ => words.last_mut().unwrap().push(each),
        }
    }
    words
}
