//! `lab`: a containerlab file as network namespaces.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use lab::attack::Kind;
use lab::live::place::Place;
use lab::{Error, Lab, cleanup};

type AnyError = Box<dyn std::error::Error>;

const USAGE: &str = "\
usage: lab up FILE.clab.yml [--hold NODE]...   bring it up; down again when stdin ends or on Ctrl-C
       lab check FILE.clab.yml...              say whether the runner honours all of a file
       lab destroy --all-stale                 removes labs left behind by killed runs
       lab demo --destguard BINARY             show what destguard does, on the FRR lab
       lab bench --destguard BINARY            measure what the guard costs
       lab bench --enforcer BINARY             measure nftables, ipset and eBPF side by side; lab/bench runs both
       lab first-syns --destguard BINARY       connect at once after each of thousands of answers, through BIRD and FRR
       lab bench-start --destguard BINARY [STARTS]
                                               measure how long a start with 100,000 leases takes
       lab bench-guards --destguard BINARY     measure what it costs guards to tell each other of their leases
       lab bench-dns --destguard BINARY --in EMPTY-DIRECTORY [NAME]...
                                               measure the resolver beside others (or these alone; behind a name \"+\":
                                               with nftables, \"=\": validating); lab/bench-dns runs it as needed
       lab soak --destguard BINARY --in EMPTY-DIRECTORY SECONDS
                                               load it and see that nothing grows; lab/soak runs it as needed
       lab reload-soak --destguard BINARY --in EMPTY-DIRECTORY TIMES [KEY]...
                                               change every key, or those that begin so, so often while clients ask;
                                               lab/reload-soak runs it as needed
       lab live --destguard BINARY MINUTES [PLACE]...
                                               let people live behind it and judge every connect, at all places or those
                                               named: single, gateway, gateway-client, frr, bird, each also with \"-short\"
       lab attack --destguard BINARY --in EMPTY-DIRECTORY SECONDS [ATTACK]...
                                               attack it, all ways or those named, with honest clients beside;
                                               lab/attack runs it as needed
       lab faults --destguard BINARY KILLS|whole|quick [FAULT]...
                                               kill, stop, starve it and lie to it, all faults or those whose names begin so,
                                               while clients ask; lab/faults runs it as needed
       lab bench-bgp --announcer BINARY --in EMPTY-DIRECTORY [NAME]...
                                               measure the BGP speaker beside others, all or those named;
                                               lab/bench-bgp runs it as needed";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["up", file, rest @ ..] => up(file, rest).map_err(Into::into),
        ["check", files @ ..] if !files.is_empty() => check(files).map_err(Into::into),
        ["destroy", "--all-stale"] => destroy_stale().map_err(Into::into),
        ["demo", "--destguard", binary] => demo(binary),
        ["bench", "--destguard", binary] => bench(binary),
        ["bench", "--enforcer", binary] => bench_backends(binary),
        ["first-syns", "--destguard", binary] => first_syns(binary),
        ["bench-start", "--destguard", binary, starts @ ..] => bench_start(binary, starts),
        ["bench-guards", "--destguard", binary] => bench_guards(binary),
        ["bench-dns", "--destguard", binary, "--in", dir, only @ ..] => bench_dns(binary, dir, only),
        ["soak", "--destguard", binary, "--in", dir, seconds] => soak(binary, dir, seconds),
        ["reload-soak", "--destguard", binary, "--in", dir, times, only @ ..] => reload_soak(binary, dir, times, only),
        ["attack", "--destguard", binary, "--in", dir, seconds, kinds @ ..] => attack(binary, dir, seconds, kinds),
        ["live", "--destguard", binary, minutes, places @ ..] => live(binary, minutes, places),
        ["faults", "--destguard", binary, much, only @ ..] => faults(binary, much, only),
        ["bench-bgp", "--announcer", binary, "--in", dir, only @ ..] => bench_bgp(binary, dir, only),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn up(file: &str, rest: &[&str]) -> Result<(), Error> {
    let mut builder = Lab::builder(file);
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match (*word, rest.next()) {
            ("--hold", Some(node)) => builder = builder.hold(node),
            _ => return Err(Error::Topology { path: PathBuf::from(file), reason: USAGE.to_owned() }),
        }
    }
    let lab = builder.up()?;
    println!("{} is up until end of file (Ctrl-D) or Ctrl-C. To run a command in a node, put before it:", lab.id());
    for node in lab.nodes() {
        println!("  {:<10} {}", node.name(), node.entrance());
    }
    // Until the terminal's end of file, or that of whoever started this. Ctrl-C ends the process; the cleaner does the rest.
    let mut sink = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut sink) {
        eprintln!("lab: stdin: {error}");
    }
    lab.down()
}

fn check(files: &[&str]) -> Result<(), Error> {
    for file in files {
        let topology = lab::topology::Topology::read(file.as_ref())?;
        println!("{file}: {} nodes, {} links", topology.nodes.len(), topology.links.len());
    }
    Ok(())
}

fn destroy_stale() -> Result<(), Error> {
    for run in cleanup::destroy_stale()? {
        println!("removed {run}");
    }
    Ok(())
}

fn demo(binary: &str) -> Result<(), AnyError> {
    // A node's programs run in the root directory.
    let binary = PathBuf::from(binary).canonicalize()?;
    Ok(lab::demo::show(&binary)?)
}

fn bench(binary: &str) -> Result<(), AnyError> {
    lab::bench::run(&PathBuf::from(binary).canonicalize()?)
}

fn bench_backends(binary: &str) -> Result<(), AnyError> {
    lab::bench::backends::run(&PathBuf::from(binary).canonicalize()?)
}

fn first_syns(binary: &str) -> Result<(), AnyError> {
    lab::bench::first_syns::run(&PathBuf::from(binary).canonicalize()?)
}

fn bench_start(binary: &str, starts: &[&str]) -> Result<(), AnyError> {
    let starts = match starts {
        [] => lab::bench_start::STARTS,
        [number] => number.parse()?,
        _ => return Err(USAGE.into()),
    };
    lab::bench_start::run(&PathBuf::from(binary).canonicalize()?, starts)
}

fn bench_guards(binary: &str) -> Result<(), AnyError> {
    lab::bench_guards::run(&PathBuf::from(binary).canonicalize()?)
}

fn bench_dns(binary: &str, dir: &str, only: &[&str]) -> Result<(), AnyError> {
    lab::bench_dns::run(&PathBuf::from(binary).canonicalize()?, &PathBuf::from(dir).canonicalize()?, only)
}

fn soak(binary: &str, dir: &str, seconds: &str) -> Result<(), AnyError> {
    let length = std::time::Duration::from_secs(seconds.parse()?);
    let plan = lab::soak::Plan {
        binary: PathBuf::from(binary).canonicalize()?,
        dir: PathBuf::from(dir).canonicalize()?,
        length,
    };
    let outcome = lab::soak::run(&plan)?;
    outcome.print();
    let growth = outcome.growth();
    if growth.is_empty() { Ok(()) } else { Err(growth.join("; ").into()) }
}

fn reload_soak(binary: &str, dir: &str, times: &str, only: &[&str]) -> Result<(), AnyError> {
    let plan = lab::reload_soak::Plan {
        binary: PathBuf::from(binary).canonicalize()?,
        dir: PathBuf::from(dir).canonicalize()?,
        times: times.parse()?,
        rate: 500,
        deadline: std::time::Duration::from_secs(1),
        only: only.iter().map(ToString::to_string).collect(),
    };
    let outcome = lab::reload_soak::run(&plan)?;
    outcome.print();
    let wrong = outcome.wrong();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n     ").into()) }
}

fn attack(binary: &str, dir: &str, seconds: &str, kinds: &[&str]) -> Result<(), AnyError> {
    let named = |name: &&str| Kind::parse(name).ok_or_else(|| format!("no attack {name:?}\n{USAGE}"));
    let kinds = kinds.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let plan = lab::attack::Plan {
        binary: PathBuf::from(binary).canonicalize()?,
        dir: PathBuf::from(dir).canonicalize()?,
        length: std::time::Duration::from_secs(seconds.parse()?),
        kinds: if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds },
    };
    let outcome = lab::attack::run(&plan).map_err(|error| error.to_string())?;
    lab::attack::Result::print_head();
    outcome.results.iter().for_each(lab::attack::Result::print);
    let wrong: Vec<String> = outcome.results.iter().flat_map(|one| [one.losses(), one.delays()].concat()).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n     ").into()) }
}

fn live(binary: &str, minutes: &str, places: &[&str]) -> Result<(), AnyError> {
    let named = |name: &&str| Place::parse(name).ok_or_else(|| format!("no place {name:?}\n{USAGE}"));
    let places = places.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let plan = lab::live::Plan {
        binary: PathBuf::from(binary).canonicalize()?,
        length: std::time::Duration::try_from_secs_f64(minutes.parse::<f64>()? * 60.0)?,
        places: if places.is_empty() { Place::all() } else { places },
    };
    let outcome = lab::live::run(&plan).map_err(|error| error.to_string())?;
    outcome.print();
    let wrong = outcome.wrong();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n     ").into()) }
}

fn faults(binary: &str, much: &str, only: &[&str]) -> Result<(), AnyError> {
    let binary = PathBuf::from(binary).canonicalize()?;
    let mut plan = match much {
        "quick" => lab::faults::Plan::quick(&binary),
        _ => lab::faults::Plan::whole(&binary),
    };
    if !matches!(much, "quick" | "whole") {
        plan.kills = much.parse().map_err(|_| USAGE)?;
    }
    plan.only = only.iter().map(ToString::to_string).collect();
    let outcome = lab::faults::run(&plan).map_err(|error| error.to_string())?;
    outcome.print();
    let wrong = outcome.wrong();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n     ").into()) }
}

fn bench_bgp(binary: &str, dir: &str, only: &[&str]) -> Result<(), AnyError> {
    lab::bench_bgp::run(&PathBuf::from(binary).canonicalize()?, &PathBuf::from(dir).canonicalize()?, only)
}
