use super::*;
use crate::config::schema::ListFormat;

fn held(path: &Path, format: ListFormat, stamp: Option<Stamp>) -> Held {
    Held { which: Which { directory: copies::LISTS, path: path.to_owned(), format }, stamp, is_fetched: false }
}

#[test]
fn a_file_is_read_once_it_was_twice_the_same_and_once_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    let mut watch = Watch::default();
    let mut look = |held: Held| {
        let stamps = stamps(std::slice::from_ref(&held));
        watch.look(&[held], stamps)
    };
    let none = Found::default();
    let wanted = Found { wanted: vec![path.clone()], ..Found::default() };
    let of_none = || held(&path, ListFormat::Domains, None);
    assert_eq!([look(of_none()), look(of_none()), look(of_none())], [Found::default(), wanted, none]);
    std::fs::write(&path, "a.test\n").unwrap();
    assert_eq!(look(of_none()), Found::default(), "it may be written yet");
    assert_eq!(look(of_none()).wanted, std::slice::from_ref(&path));
    assert_eq!(look(of_none()), Found::default(), "it can't be used, as was seen");
    let in_force = held(&path, ListFormat::Domains, Stamp::now(&path));
    assert_eq!(look(in_force.clone()).in_force, std::slice::from_ref(&path));
    std::fs::remove_file(&path).unwrap();
    let fetched = || Held { is_fetched: true, ..in_force.clone() };
    assert_eq!([look(fetched()), look(fetched())], [Found::default(), Found::default()], "it comes when it is fetched");
    assert_eq!(look(in_force.clone()).wanted, std::slice::from_ref(&path));
}

#[test]
fn a_file_of_two_formats_of_which_one_is_wrong_is_not_read_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    std::fs::write(&path, "a.test\n").unwrap();
    let now = Stamp::now(&path);
    let both = [held(&path, ListFormat::Domains, now), held(&path, ListFormat::Hosts, None)];
    let mut watch = Watch::default();
    let looks: Vec<Found> = (0..5).map(|_| watch.look(&both, stamps(&both))).collect();
    assert_eq!(looks.iter().filter(|found| !found.wanted.is_empty()).count(), 1, "{looks:?}");
    assert!(looks.iter().all(|found| found.in_force.is_empty()), "what is wrong stays said: {looks:?}");
}

#[test]
fn the_copy_of_the_last_file_goes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list");
    std::fs::write(&path, "a.test\n").unwrap();
    let one = held(&path, ListFormat::Domains, Stamp::now(&path));
    let mut copies = Copies::new(Kind::Lists);
    let there = || std::fs::read_dir(directory.path().join(copies::LISTS)).unwrap().count();
    copies.keep(std::slice::from_ref(&one), directory.path());
    assert_eq!((there(), copies.is_empty()), (1, false));
    copies.keep(&[], directory.path());
    assert_eq!((there(), copies.is_empty()), (0, true));
}
