use prometheus_client::registry::Registry;

use super::state::ListState;
use super::*;
use crate::daemon::files::Copies;

fn config(path: &Path) -> Config {
    let text = format!("[[policy.list]]\npath = \"{}\"\nformat = \"domains\"\naction = \"deny\"\n", path.display());
    toml::from_str(&text).unwrap()
}

#[test]
fn what_can_not_be_used_is_an_error_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    let error = |config: &Config| Lists::load(config, &Lists::default()).unwrap_err().remove(0);
    assert!(error(&config(&file)).contains("No such file"));
    assert!(error(&config(directory.path())).contains("not a regular file"));
    std::fs::write(&file, "a.test\nb..test\nc.test\n*\n").unwrap();
    let error = error(&config(&file));
    assert!(error.starts_with(&format!("{}:2: ", file.display())), "{error}");
    assert!(error.contains("1 more lines"), "{error}");
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    std::fs::write(&file, "a.test\n").unwrap();
    let config = config(&file);
    let first = Lists::load(&config, &Lists::default()).unwrap();
    let same = Lists::load(&config, &first).unwrap();
    assert!(Arc::ptr_eq(&first.0[0].table, &same.0[0].table));
    std::fs::write(&file, "a.test\nb.test\n").unwrap();
    let other = Lists::load(&config, &same).unwrap();
    assert_eq!((same.0[0].table.len(), other.0[0].table.len()), (1, 2));
    // The same format read as another is not the same list.
    let mut changed = config;
    changed.policy.list[0].action = crate::config::schema::Action::Allow;
    let allowed = Lists::load(&changed, &other).unwrap();
    assert!(!Arc::ptr_eq(&other.0[0].table, &allowed.0[0].table));
}

#[test]
fn what_is_not_served_is_shown_by_list_and_the_list_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    let mut zone = "@ SOA a. b. 1 1 1 1 1\nx.rpz-nsdname CNAME .\nx.test HTTPS 1 .\n".to_owned();
    (0..70).for_each(|last| zone += &format!("full.test A 192.0.2.{last}\n"));
    std::fs::write(&file, zone).unwrap();
    let text = format!("[[policy.list]]\npath = \"{}\"\nformat = \"rpz\"\naction = \"deny\"\n", file.display());
    let (config, warnings, _) = crate::check::parse(
        &directory.path().join("destguard.toml"),
        &format!("[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"local\"\n{text}"),
    )
    .unwrap();
    let mut registry = Registry::default();
    let state = ListState::new(Lists::load(&config, &Lists::default()).unwrap(), &mut registry);
    let [list] = state.views().try_into().unwrap();
    assert_eq!((list.rules, list.skipped, list.denied_instead, list.surplus), (2, 1, 1, 6));
    for line in ["3: data of this type", "68: this name has more than 64 records"] {
        let told = format!("{}:{line}", file.display());
        assert!(list.warnings.iter().any(|warning| warning.starts_with(&told)), "{:?}", list.warnings);
        assert!(warnings.iter().any(|warning| warning.to_string().contains(&told)), "{warnings:?}");
    }
    assert!(state.troubles().is_empty(), "nothing that has to be mended");
    let metrics = crate::metrics::encode(&registry).unwrap();
    for (why, records) in [("skipped", 1), ("denied_instead", 1), ("surplus", 6)] {
        let of = |line: &str| {
            line.contains("list_not_served{")
                && line.contains(&format!("why=\"{why}\""))
                && line.ends_with(&format!(" {records}"))
        };
        assert!(metrics.lines().any(of), "{why}: {metrics}");
    }
}

/// What `status` would tell of a start, the names denied, and what the start left to be served.
fn started(config: &Config) -> (Vec<String>, usize) {
    let lists = Lists::start(config);
    let rules = lists.0.iter().map(|loaded| loaded.table.len()).sum();
    (ListState::new(lists, &mut Registry::default()).troubles(), rules)
}

#[test]
fn a_start_takes_the_last_readable_copy_of_a_list_else_its_readable_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list");
    let mut config = config(&file);
    config.state.dir = directory.path().join("state");
    let told = |config: &Config, words: &[&str]| {
        let (troubles, rules) = started(config);
        let [trouble] = troubles.try_into().unwrap();
        words.iter().for_each(|word| assert!(trouble.contains(word), "{word:?} is not in {trouble}"));
        rules
    };
    let path = file.display().to_string();
    assert_eq!(told(&config, &["none of its names is denied", &path, "No such file"]), 0);
    let mut allowed = config.clone();
    allowed.policy.list[0].action = Action::Allow;
    assert_eq!(told(&allowed, &["none of its names is allowed", &path]), 0);

    let bad = "a.test\nx..test\nb.test\n";
    std::fs::write(&file, bad).unwrap();
    let place = format!("{path}:2: \"x..test\" is not a domain name");
    assert_eq!(told(&config, &["only its readable lines are in force", &place]), 2);

    // Read well once, it is kept for all starts to come; what a start put in its place is not.
    std::fs::write(&file, "a.test\nb.test\nc.test\n").unwrap();
    assert_eq!(started(&config), (Vec::new(), 3));
    let keep = || Copies::new(Kind::Lists).keep(&Lists::start(&config).held(Kind::Lists), &config.state.dir);
    keep();
    for absent in [false, true] {
        if absent {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::write(&file, bad).unwrap();
        }
        assert_eq!(told(&config, &["the last copy that could be read is in force", &path]), 3);
        keep();
    }
    std::fs::write(&file, bad).unwrap();

    // A reload of the rest isn't kept up by it; the file is taken as soon as it can be read.
    let lists = Lists::start(&config);
    let reloaded = Lists::load(&config, &lists).unwrap();
    assert!(Arc::ptr_eq(&lists.0[0].table, &reloaded.0[0].table));
    std::fs::write(&file, "d.test\n").unwrap();
    let mended = Lists::load(&config, &reloaded).unwrap();
    assert_eq!((mended.0[0].table.len(), mended.0[0].instead.is_none()), (1, true));

    // Damage to the copy is told, and the lines serve.
    let copy = std::fs::read_dir(config.state.dir.join("lists")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(copy, "x").unwrap();
    std::fs::write(&file, bad).unwrap();
    assert_eq!(told(&config, &["only its readable lines", "its copy", &place]), 2);
}
