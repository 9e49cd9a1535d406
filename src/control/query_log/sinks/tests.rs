use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use super::*;

fn lines(range: std::ops::Range<u32>) -> VecDeque<Vec<u8>> {
    range.map(|number| file::line(0, format!("{number:07}").into_bytes())).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_file_is_rotated_and_no_line_is_lost_or_split() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log/queries");
    let mut sink = file::File::new(path.clone(), 80, 2, true);
    for at in 0..35 {
        sink.write(&mut lines(at..at + 1)).unwrap();
    }
    let parts = ["queries.2", "queries.1", "queries"].map(|name| read(&path.with_file_name(name)));
    let numbers: Vec<u32> = parts.concat().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (10..35).collect::<Vec<_>>());
    assert_eq!(parts.map(|part| part.len()), [80, 80, 40]);
    assert!(!path.with_file_name("queries.3").exists());

    // None is kept.
    let mut sink = file::File::new(path.clone(), 80, 0, true);
    for at in 0..8 {
        sink.write(&mut lines(at..at + 1)).unwrap();
    }
    assert_eq!(read(&path), "0000005\n0000006\n0000007\n");
    assert_eq!(read(&path.with_file_name("queries.1")).len(), 80);
}

#[test]
fn a_file_that_somebody_else_moves_removes_or_empties_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queries");
    let mut sink = file::File::new(path.clone(), 1 << 20, 1, false);
    sink.write(&mut lines(0..2)).unwrap();
    let moved = directory.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    sink.write(&mut lines(2..3)).unwrap();
    assert_eq!((read(&moved).as_str(), read(&path).as_str()), ("0000000\n0000001\n", "0000002\n"));
    std::fs::remove_file(&path).unwrap();
    sink.write(&mut lines(3..4)).unwrap();
    assert_eq!(read(&path), "0000003\n");
    std::fs::write(&path, "").unwrap();
    sink.write(&mut lines(4..5)).unwrap();
    assert_eq!(read(&path), "0000004\n");
    // A place that is none.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let mut waiting = lines(5..7);
    assert!(sink.write(&mut waiting).is_err());
    assert_eq!(waiting.len(), 2);
    std::fs::remove_dir(&path).unwrap();
    sink.write(&mut waiting).unwrap();
    assert_eq!(read(&path), "0000005\n0000006\n");
}

/// A sink that hangs until it is told.
struct Stuck(Receiver<()>);

impl Sink for Stuck {
    fn write(&mut self, items: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        while !items.is_empty() {
            if self.0.recv().is_err() {
                return Err(io::Error::other("gone"));
            }
            items.pop_front();
        }
        Ok(())
    }
}

#[test]
fn one_that_hangs_holds_up_nobody_and_what_it_misses_is_counted() {
    let (go, stuck) = sync_channel(0);
    let wanted = Wanted::Syslog(Target::Unix("/nowhere".into()), None);
    let counters = [Counter::default(), Counter::default()];
    let outlet =
        Outlet::open(wanted, Vec::new(), Box::new(Stuck(stuck)), |item: u8| vec![item], counters.clone()).unwrap();
    let [written, dropped] = counters;
    let most = (QUEUE + BATCH) as u64;
    for _ in 0..2 * most {
        outlet.tell(7);
    }
    assert!(dropped.get() >= most, "{}", dropped.get());
    go.send(()).unwrap();
    drop(go);
    outlet.finish(Duration::from_secs(60));
    assert_eq!(written.get() + dropped.get(), 2 * most);
    assert!(outlet.trouble().unwrap().ends_with("log.syslog unix:/nowhere: gone"));
}

#[test]
fn syslog_that_comes_later_gets_what_waited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let wanted = Wanted::Syslog(Target::Unix(path.clone()), None);
    let sink = Box::new(syslog::Syslog::new(Target::Unix(path.clone()), None));
    let render = |item: u8| syslog::message(0, vec![item]);
    let outlet = Outlet::open(wanted, Vec::new(), sink, render, [Counter::default(), Counter::default()]).unwrap();
    outlet.tell(b'a');
    outlet.tell(b'b');
    let began = Instant::now();
    while outlet.trouble().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    let reader = UnixDatagram::bind(&path).unwrap();
    reader.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = || {
        let mut buffer = [0; 512];
        let len = reader.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let first = next();
    assert!(first.starts_with("<30>1 1970-01-01T00:00:00.000Z ") && first.ends_with(" query - a"), "{first}");
    assert!(next().ends_with(" query - b"));
}
