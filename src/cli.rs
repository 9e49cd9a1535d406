//! The command line.
//!
//! - This file: what can be typed, and what each exit code means.
//! - [`ask`]: the commands that ask a running daemon. [`show`]: how its answers look to people.
//! - [`live`]: what the guard would refuse on this host now.
//! - [`init`]: a first configuration.
//! - [`log`]: the query log.
//! - [`suggest`]: an allow list of what was used in audit.
//! - [`lock`]: the host before its guard runs, and the way back in.
//! - [`wait`]: until the guard answers.
//! - [`configuration`]: the commands that need only the file. [`router_config`]: the router's side of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::value::Span;
use crate::control::sources::Wish;
use crate::daemon::error::RunError;
use crate::daemon::{self, RunOptions};

pub mod ask;
pub mod configuration;
pub mod init;
pub mod live;
pub mod lock;
pub mod log;
pub mod replay;
mod router_config;
pub mod show;
mod suggest;
pub mod table;
mod top;
mod unit;
mod wait;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command did what it was told.
    Done,
    /// The command failed, and said why.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The daemon is not reachable.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

/// Connect only to what DNS told you.
#[derive(Debug, Parser)]
#[command(
    name = "destguard",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 daemon not reachable."
)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/destguard/destguard.toml")]
    config: PathBuf,
    /// The daemon's control socket.
    #[arg(long, global = true, value_name = "PATH", default_value = crate::control::client::SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// Every read command takes it.
#[derive(Clone, Copy, Debug, Args)]
struct Json {
    /// Print JSON, with "version": 1, for scripts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Run {
        /// Where leases are kept, instead of state.dir.
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
        /// Take the place of the daemon that runs: its sockets are handed over, no question is lost. Under systemd: systemctl restart.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        record: replay::Record,
    },
    /// Run a recording through the core again: every event, plan and decision, and where one is another than was recorded.
    Replay {
        /// What `run --record` wrote.
        file: PathBuf,
        /// Print only where decisions differ, and the sum.
        #[arg(long)]
        quiet: bool,
    },
    /// Write a first configuration, in audit: asks, or takes the answers as flags; looks at this host, and says what it found.
    Init(init::Wanted),
    /// Show every error and warning of the configuration file.
    Check {
        /// Say as well what the guard would refuse on this host now.
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show the default file, the schema, or what is in effect.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show on one screen how the guard is.
    Status(Json),
    /// Wait until the guard answers and holds what it restored: for CI jobs and entrypoints. 1: not in time, 3: it doesn't run.
    WaitReady(wait::Wanted),
    /// Show live leases.
    Leases {
        /// Only those of this address, prefix or name.
        #[arg(value_name = "ADDRESS|NAME|PREFIX")]
        of: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show why an address or a name is open or not.
    Explain {
        /// What to explain.
        #[arg(value_name = "ADDRESS|NAME")]
        of: String,
        /// As it is for this client, instead of everybody.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<std::net::IpAddr>,
        /// As it is for somebody of this [[policy.group]], by whatever that is known.
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show the BGP sessions.
    Peers(Json),
    /// Ask for a name and say what its answer would get; nothing is opened.
    Test {
        /// The name that is asked for.
        name: String,
        /// As it is for this client, instead of everybody.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<std::net::IpAddr>,
        /// As it is for somebody of this [[policy.group]], by whatever that is known.
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// This type alone.
        #[arg(long = "type", value_name = "A|AAAA", value_parser = ["A", "AAAA", "a", "aaaa"])]
        qtype: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show who asked most, and what for.
    Top(top::Wanted),
    /// Write an allow list of what clients used in audit, to be reviewed and loaded.
    Suggest(suggest::Wanted),
    /// Show what was refused.
    Denied {
        #[command(flatten)]
        only: top::Only,
        /// Keep showing what comes.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show the last questions, and what became of each.
    Log(log::Wanted),
    /// Close an address, or all that a name alone opened, now.
    Revoke {
        /// What to close.
        #[arg(value_name = "ADDRESS|NAME")]
        of: String,
        #[command(flatten)]
        json: Json,
    },
    /// Deny a name, and those below it, for a while, whatever the configuration says; --undo takes it back.
    Deny {
        /// The name; "*.x": only those below, "=x": only itself.
        #[arg(value_name = "NAME")]
        of: String,
        /// For how long: "30m", "1h", "7d".
        #[arg(long = "for", value_name = "DURATION", required_unless_present = "undo", conflicts_with = "undo")]
        span: Option<Span>,
        /// Take the exception back.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Allow a name, and those below it, for a while, whatever the configuration says of names; --undo takes it back.
    Allow {
        /// The name; "*.x": only those below, "=x": only itself.
        #[arg(value_name = "NAME")]
        of: String,
        /// Only to this client.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<std::net::IpAddr>,
        /// For how long: "30m", "1h", "7d".
        #[arg(long = "for", value_name = "DURATION", required_unless_present = "undo", conflicts_with = "undo")]
        span: Option<Span>,
        /// Take the exception back.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Check the file, print the difference, apply it; what needs a restart is named.
    Reload {
        /// Only print the difference.
        #[arg(long, conflicts_with = "confirm")]
        dry_run: bool,
        /// Go back by itself after so long ("5m"), unless `destguard confirm` comes first.
        #[arg(long, value_name = "DURATION")]
        confirm: Option<Span>,
        #[command(flatten)]
        json: Json,
    },
    /// Keep a change that is on trial (reload --confirm).
    Confirm(Json),
    /// Go back to what was in force before the last reload; once more: forth again.
    Undo(Json),
    /// Remove the nftables table: the only command that opens the host.
    Disarm(Json),
    /// Close the host before the daemon runs: the ruleset of the configuration, with empty sets. For the boot, before the network.
    Lock {
        /// Where the last configuration lies, should the file be unreadable, instead of the default state.dir.
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// Open the host, by whatever it was closed, as disarm does; says how to keep it open.
    Unlock(Json),
    /// Stop the daemon, as SIGTERM does: with bgp.graceful_restart routers keep the routes until it is back.
    Stop {
        /// Routers drop the routes at once (after bgp.shutdown_drain), whatever bgp.graceful_restart says.
        #[arg(long)]
        withdraw: bool,
        #[command(flatten)]
        json: Json,
    },
    /// For ExecStop= of the systemd unit: the packet filter stays, where systemd is to start the unit again.
    #[command(hide = true)]
    Restarting {
        /// The unit, "%n".
        unit: String,
    },
    /// Print the router's side of this configuration.
    RouterConfig {
        /// What the router runs.
        kind: RouterKind,
        /// Only for this [[bgp.peer]].
        #[arg(long, value_name = "NAME")]
        peer: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the documented default file.
    Default,
    /// Print the JSON Schema of the file.
    Schema,
    /// Print every value in effect, defaults included, passwords masked.
    Show(Json),
}

/// What a router runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RouterKind {
    /// Configuration of `FRRouting`.
    Frr,
    /// Configuration of BIRD 2.
    Bird,
    /// Configuration of `GoBGP`.
    Gobgp,
    /// Configuration of `OpenBGPD`.
    Openbgpd,
    /// Configuration of Junos OS.
    Junos,
    /// Cisco IOS XR.
    Iosxr,
    /// Configuration of Arista EOS.
    Eos,
    /// Nokia SR Linux.
    Srlinux,
    /// `MikroTik` `RouterOS` 7.
    Routeros,
}

/// All that can be typed, for manuals and completions.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program: reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, to stdout and with 0.
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return match error.print() {
                Ok(()) => code.into(),
                Err(_) => Exit::Failed.into(),
            };
        }
    };
    dispatch(cli).into()
}

impl Command {
    /// Whether what it prints is for scripts.
    fn is_json(&self) -> bool {
        match self {
            Self::Status(json) | Self::Peers(json) | Self::Confirm(json) | Self::Undo(json) => json.json,
            Self::Disarm(json) | Self::Unlock(json) | Self::Config(ConfigCommand::Show(json)) => json.json,
            Self::Check { json, .. } | Self::Leases { json, .. } | Self::Explain { json, .. } => json.json,
            Self::Denied { json, .. } | Self::Revoke { json, .. } | Self::Deny { json, .. } => json.json,
            Self::Allow { json, .. } | Self::Reload { json, .. } | Self::Stop { json, .. } => json.json,
            Self::Log(wanted) => wanted.json,
            Self::Top(wanted) => wanted.json,
            Self::Suggest(wanted) => wanted.json,
            Self::Test { json, .. } => json.json,
            Self::Run { .. } | Self::Replay { .. } | Self::Init(_) | Self::Config(_) | Self::Lock { .. } => false,
            Self::Restarting { .. } | Self::RouterConfig { .. } | Self::WaitReady(_) => false,
        }
    }
}

/// Errors are for scripts too.
static JSON: AtomicBool = AtomicBool::new(false);

fn dispatch(cli: Cli) -> Exit {
    let Cli { config, socket, command } = cli;
    JSON.store(command.is_json(), Ordering::Relaxed);
    let daemon = ask::Daemon { socket };
    match command {
        Command::Run { state_dir, replace, record } => {
            run(RunOptions { config, state_dir, socket: daemon.socket, replace, record: record.wanted() })
        }
        Command::Replay { file, quiet } => replay::replay(&file, quiet),
        Command::Init(wanted) => init::init(&config, wanted),
        Command::Check { live: false, json: Json { json } } => configuration::check(&config, json),
        Command::Check { live: true, json: Json { json } } => live::check(&config, json),
        Command::Config(ConfigCommand::Default) => say(crate::config::default::TEXT),
        Command::Config(ConfigCommand::Schema) => configuration::schema(),
        Command::Config(ConfigCommand::Show(Json { json })) => configuration::show(&config, json),
        Command::Status(Json { json }) => daemon.status(json),
        Command::WaitReady(wanted) => daemon.wait_ready(&wanted),
        Command::Leases { of, json: Json { json } } => daemon.leases(of.as_deref(), json),
        Command::Explain { of, client, group, json: Json { json } } => {
            daemon.explain(&of, ask::Whose { client, group: group.as_deref() }, json)
        }
        Command::Peers(Json { json }) => daemon.peers(json),
        Command::Test { name, client, group, qtype, json: Json { json } } => {
            daemon.test(&name, ask::Whose { client, group: group.as_deref() }, qtype.as_deref(), json)
        }
        Command::Top(wanted) => daemon.top(&wanted),
        Command::Suggest(wanted) => daemon.suggest(&wanted),
        Command::Denied { follow, only, json: Json { json } } => daemon.denied(follow, &only, json),
        Command::Log(wanted) => daemon.log(&wanted),
        Command::Revoke { of, json: Json { json } } => daemon.revoke(&of, json),
        Command::Deny { of, span, undo: _, json: Json { json } } => daemon.except("deny", &of, None, span, json),
        Command::Allow { of, client, span, undo: _, json: Json { json } } => {
            daemon.except("allow", &of, client, span, json)
        }
        Command::Reload { dry_run, confirm, json: Json { json } } => {
            daemon.reload(Wish { dry_run, confirm: confirm.map(|span| span.0) }, json)
        }
        Command::Confirm(Json { json }) => daemon.confirm(json),
        Command::Undo(Json { json }) => daemon.undo(json),
        Command::Disarm(Json { json }) => ask::Daemon::disarm(json),
        Command::Lock { state_dir } => lock::lock(&config, state_dir),
        Command::Unlock(Json { json }) => lock::unlock(json),
        Command::Stop { withdraw, json: Json { json } } => daemon.stop(withdraw, json),
        Command::Restarting { unit } => unit::restarting(&daemon, &unit),
        Command::RouterConfig { kind, peer } => configuration::router(&config, kind, peer.as_deref()),
    }
}

fn run(options: RunOptions) -> Exit {
    match daemon::run(&options) {
        Ok(()) => Exit::Done,
        Err(error @ RunError::Config(_)) => complain(&error, Exit::Usage),
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no failure.
fn say(text: &str) -> Exit {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Done,
    }
}

/// Of a command that fails and whose answer would have been for scripts: the error in its place. What isn't an error goes to stderr.
fn complain_to_scripts(what: &dyn std::fmt::Display, exit: Exit) -> bool {
    if exit == Exit::Done || !JSON.load(Ordering::Relaxed) {
        return false;
    }
    let body = serde_json::json!({ "version": crate::control::types::VERSION, "error": what.to_string() });
    say(&format!("{body:#}")) == Exit::Done
}

/// Prints a sentence that names the program itself to stderr, and ends so.
fn complain_plainly(what: &dyn std::fmt::Display, exit: Exit) -> Exit {
    if complain_to_scripts(what, exit) {
        return exit;
    }
    use std::io::Write;
    // Nobody is left to tell when stderr is gone.
    drop(writeln!(std::io::stderr(), "{what}"));
    exit
}

/// Prints to stderr, and ends so. A daemon that nobody reads ends too.
fn complain(what: &dyn std::fmt::Display, exit: Exit) -> Exit {
    if complain_to_scripts(what, exit) {
        return exit;
    }
    crate::sys::log::say(&format!("destguard: {what}"));
    exit
}
