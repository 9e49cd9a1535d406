//! What the systemd unit has the program do: `ExecStop=` asks whether the guard will be back, before SIGTERM comes.

use std::process::Command;

use hyper::Method;

use super::ask::{Daemon, Failure};
use super::{Exit, complain, say};
use crate::control::client::ClientError;

/// Tells the daemon to leave the packet filter as it is, where systemd stops `unit` only to start it again.
pub fn restarting(daemon: &Daemon, unit: &str) -> Exit {
    match is_back_soon(unit) {
        Ok(true) => {}
        Ok(false) => return Exit::Done,
        Err(error) => return complain(&error, Exit::Failed),
    }
    match daemon.ask(Method::POST, "/api/v1/restarting") {
        Ok(_) => say("systemd starts the guard again: the packet filter stays as it is"),
        // It has ended by itself: nobody is to be told.
        Err(Failure::Client(ClientError::Unreachable { .. })) => Exit::Done,
        Err(failure) => failure.exit(),
    }
}

/// Why it isn't known what systemd is about to do.
#[derive(Debug, thiserror::Error)]
enum UnitError {
    /// The program can't be run.
    #[error("systemctl: {0}")]
    Run(#[from] std::io::Error),
    /// The program said no.
    #[error("systemctl list-jobs: {0}")]
    Refused(String),
}

fn is_back_soon(unit: &str) -> Result<bool, UnitError> {
    let mut asked = Command::new("systemctl");
    asked.args(["list-jobs", "--no-legend", "--no-pager", "--full", "--plain"]).env("LC_ALL", "C");
    let told = asked.output()?;
    if !told.status.success() {
        return Err(UnitError::Refused(String::from_utf8_lossy(&told.stderr).trim().to_owned()));
    }
    Ok(starts_again(&String::from_utf8_lossy(&told.stdout), unit))
}

/// Of lines `JOB UNIT TYPE STATE`. A restart is one job until the unit is down; a start that follows a stop takes its place.
fn starts_again(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != unit).skip(1);
        words.next().is_some_and(|kind| kind.contains("start"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_from_a_stop() {
        let jobs = |kind: &str| {
            format!(" 301 destguard-lock.service {kind} waiting\n 302 destguard.service        {kind} running\n")
        };
        for (kind, again) in [("restart", true), ("start", true), ("try-restart", true), ("stop", false)] {
            assert_eq!(starts_again(&jobs(kind), "destguard.service"), again, "{kind}");
        }
        let other = " 301 destguard-lock.service restart running\n 302 destguard.service stop running\n";
        assert!(!starts_again(other, "destguard.service"));
        assert!(!starts_again("", "destguard.service"));
        assert!(!starts_again("No jobs running.\n", "destguard.service"));
    }
}
