//! The `destguard` program; everything is in the library.

fn main() -> std::process::ExitCode {
    destguard::cli::main()
}
