//! A guard that reads a list of a million names again while clients ask: how late its answers come meanwhile.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{AUDIT, AnyError, DESTGUARD, Running, SERVER_PORT, START, UPSTREAM_PORT, ask, dnsperf, output};
use crate::wait::wait_until;

/// Names of the list, all denied.
const NAMES: u32 = 1_000_000;
/// Reloads, and the pause before each.
const RELOADS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Seconds of questions, and how many a second.
const LOAD: (&str, &str) = ("14", "2000");

/// Prints what the answers to cached names took, in milliseconds.
pub(super) fn measure(binary: &Path, dir: &Path, hits: &Path) -> Result<(), AnyError> {
    let own = dir.join("reload");
    std::fs::create_dir_all(own.join("state"))?;
    let (list, config, socket) = (own.join("list"), own.join("config"), own.join("control"));
    let mut names = String::new();
    for number in 0..NAMES {
        writeln!(names, "bad{number}.denied{}.test", number % 1000)?;
    }
    std::fs::write(&list, &names)?;
    let more =
        format!("[[policy.list]]\npath = \"{}\"\nformat = \"domains\"\naction = \"deny\"\n{AUDIT}", list.display());
    let text = DESTGUARD.replace("MORE", &more).replace("DIR", &own.display().to_string());
    let text = text.replace("UPSTREAM", &UPSTREAM_PORT.to_string()).replace("PORT", &SERVER_PORT.to_string());
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(own.join("log"))?;
    let guard = |command: &str| {
        let mut guard = Command::new(binary);
        guard.arg("--config").arg(&config).arg("--socket").arg(&socket).arg(command).stdin(Stdio::null());
        guard
    };
    let server = Running(guard("run").stdout(log.try_clone()?).stderr(log).spawn()?);
    if !wait_until(START, || ask("n1000.bench.example").is_ok_and(|reply| reply.rcode == 0 && reply.answers > 0)) {
        return Err(format!("no answer\n{}", std::fs::read_to_string(own.join("log"))?).into());
    }
    dnsperf(hits, &["-n", "2", "-q", "50"])?;
    let (times, text) = std::thread::scope(|scope| -> Result<_, AnyError> {
        let load =
            scope.spawn(|| dnsperf(hits, &["-l", LOAD.0, "-Q", LOAD.1, "-v"]).map_err(|error| error.to_string()));
        let mut times = Vec::new();
        for number in 0..RELOADS {
            std::thread::sleep(PAUSE);
            writeln!(names, "more{number}.test")?;
            std::fs::write(&list, &names)?;
            let begin = Instant::now();
            output(&mut guard("reload"))?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok((times, load.join().map_err(|_| "the load ended early")??))
    })?;
    drop(server);
    let mut all: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("> NOERROR"))
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    let at =
        |part: usize| all.get((all.len() * part / 1000).min(all.len().saturating_sub(1))).map_or(f64::NAN, |s| s * 1e3);
    let lost = text.lines().find(|line| line.contains("Queries lost")).unwrap_or_default().trim();
    println!("{NAMES} denied names read again {RELOADS} times, {}/s cached answers: ", LOAD.1);
    println!(
        "  a reload took {times:.2?} s; answers: {}, p50 {:.2}, p99 {:.2}, p999 {:.2}, longest {:.2} ms; {lost}",
        all.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    Ok(())
}
