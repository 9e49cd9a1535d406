//! Builds the program of the eBPF enforcer, where that is wanted.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/enforce/ebpf/guard.bpf.c";
const HEADER: &str = "src/enforce/ebpf/kernel.h";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return Ok(());
    }
    [SOURCE, HEADER].iter().for_each(|file| println!("cargo::rerun-if-changed={file}"));
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("guard.bpf.o");
    // -g: the tables are described by type information.
    let status = Command::new(&clang)
        .args([
            "-target",
            target,
            "-mcpu=v2",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-ffile-prefix-map=src=/src",
            "-c",
            SOURCE,
            "-o",
        ])
        .arg(&out)
        .status()
        .map_err(|error| {
            format!("feature ebpf needs clang (package clang; CLANG names another): {clang:?}: {error}")
        })?;
    if status.success() { Ok(()) } else { Err(format!("{clang:?} can't build {SOURCE}: {status}")) }
}
