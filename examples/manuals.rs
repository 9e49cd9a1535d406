//! Writes man pages and completions of what can be typed: `cargo run --example manuals -- DIRECTORY`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap_complete::Shell;

fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: manuals DIRECTORY");
        std::process::exit(2);
    };
    write(&directory)
}

fn write(directory: &Path) -> std::io::Result<()> {
    let command = destguard::cli::command();
    let manuals = directory.join("man");
    fs::create_dir_all(&manuals)?;
    clap_mangen::generate_to(command.clone(), &manuals)?;
    let completions = directory.join("completions");
    for (shell, name) in [(Shell::Bash, "destguard"), (Shell::Zsh, "_destguard"), (Shell::Fish, "destguard.fish")] {
        let place = completions.join(shell.to_string());
        fs::create_dir_all(&place)?;
        let mut file = File::create(place.join(name))?;
        clap_complete::generate(shell, &mut command.clone(), "destguard", &mut file);
    }
    Ok(())
}
