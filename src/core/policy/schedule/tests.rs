use super::*;

fn windows(texts: &[&str]) -> Vec<Window> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

/// With its offset: "2026-11-30T08:00+01:00".
fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[track_caller]
fn changes(texts: &[&str], from: &str, expected: &[(&str, bool)]) {
    let (windows, zone) = (windows(texts), berlin());
    let mut now = at(from);
    for (moment, is_in) in expected {
        let next = next_change(&windows, &zone, now).unwrap();
        assert_eq!(next, at(moment), "after {now}");
        assert_eq!(in_force(&windows, &zone, next), *is_in, "at {moment}");
        let before = Timestamp::from_second(next.as_second() - 1).unwrap();
        assert_eq!(in_force(&windows, &zone, before), !is_in, "before {moment}");
        now = next;
    }
}

#[test]
fn a_week_has_its_hours_and_its_end() {
    // The 27th of November 2026 is a Friday.
    changes(
        &["mon-fri 08:00-17:00", "sat,sun 10:00-12:00"],
        "2026-11-27T07:59:59+01:00",
        &[
            ("2026-11-27T08:00:00+01:00", true),
            ("2026-11-27T17:00:00+01:00", false),
            ("2026-11-28T10:00:00+01:00", true),
            ("2026-11-28T12:00:00+01:00", false),
            ("2026-11-29T10:00:00+01:00", true),
            ("2026-11-29T12:00:00+01:00", false),
            ("2026-11-30T08:00:00+01:00", true),
        ],
    );
    changes(
        &["sun-mon"],
        "2026-11-27T12:00:00+01:00",
        &[
            ("2026-11-29T00:00:00+01:00", true),
            ("2026-12-01T00:00:00+01:00", false),
            ("2026-12-06T00:00:00+01:00", true),
        ],
    );
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_starts() {
    changes(
        &["fri,sun 22:00-06:00"],
        "2026-11-27T03:00:00+01:00",
        &[
            ("2026-11-27T22:00:00+01:00", true),
            ("2026-11-28T06:00:00+01:00", false),
            ("2026-11-29T22:00:00+01:00", true),
            ("2026-11-30T06:00:00+01:00", false),
        ],
    );
    // Two that meet are one.
    changes(
        &["fri 22:00-24:00", "sat 00:00-06:00"],
        "2026-11-27T03:00:00+01:00",
        &[("2026-11-27T22:00:00+01:00", true), ("2026-11-28T06:00:00+01:00", false)],
    );
    changes(&["22:00-0:00"], "2026-11-27T22:30:00+01:00", &[("2026-11-28T00:00:00+01:00", false)]);
}

#[test]
fn hours_follow_the_wall_where_clocks_are_set() {
    // Forward on the 29th of March 2026: 02:00 is 03:00.
    changes(
        &["22:00-06:00"],
        "2026-03-28T21:00:00+01:00",
        &[("2026-03-28T22:00:00+01:00", true), ("2026-03-29T06:00:00+02:00", false)],
    );
    changes(
        &["02:30-03:30"],
        "2026-03-29T00:00:00+01:00",
        &[("2026-03-29T03:00:00+02:00", true), ("2026-03-29T03:30:00+02:00", false)],
    );
    changes(&["02:15-02:45"], "2026-03-29T00:00:00+01:00", &[("2026-03-30T02:15:00+02:00", true)]);
    changes(
        &["01:00-02:30"],
        "2026-03-29T00:00:00+01:00",
        &[("2026-03-29T01:00:00+01:00", true), ("2026-03-29T03:00:00+02:00", false)],
    );
    // Back on the 25th of October 2026: 03:00 is 02:00, and what lies between comes twice.
    changes(
        &["02:15-02:45"],
        "2026-10-25T00:00:00+02:00",
        &[
            ("2026-10-25T02:15:00+02:00", true),
            ("2026-10-25T02:45:00+02:00", false),
            ("2026-10-25T02:15:00+01:00", true),
            ("2026-10-25T02:45:00+01:00", false),
            ("2026-10-26T02:15:00+01:00", true),
        ],
    );
    changes(
        &["02:30-06:00"],
        "2026-10-25T00:00:00+02:00",
        &[
            ("2026-10-25T02:30:00+02:00", true),
            ("2026-10-25T02:00:00+01:00", false),
            ("2026-10-25T02:30:00+01:00", true),
            ("2026-10-25T06:00:00+01:00", false),
        ],
    );
}

#[test]
fn what_is_always_in_force_never_changes() {
    for always in
        [&[][..], &["mon-sun"], &["00:00-24:00"], &["00:00-12:00", "12:00-24:00"], &["06:00-22:00", "22:00-06:00"]]
    {
        let (windows, zone, now) = (windows(always), berlin(), at("2026-10-25T00:00:00Z"));
        assert!(in_force(&windows, &zone, now), "{always:?}");
        assert_eq!(next_change(&windows, &zone, now), None, "{always:?}");
    }
}

/// Every minute of two weeks in which the clocks are set, asked one by one.
#[test]
fn the_next_change_is_the_first_minute_that_differs() {
    for texts in [&["mon-fri 08:00-17:00"][..], &["sat 22:00-06:00", "sun 02:10-02:50"], &["01:59-03:01"]] {
        let (windows, zone) = (windows(texts), berlin());
        for start in ["2026-10-19T00:00:00Z", "2026-03-23T00:00:00Z"] {
            let minute = |number: i64| Timestamp::from_second(at(start).as_second() + number * 60).unwrap();
            let states: Vec<bool> = (0..14 * 1440).map(|number| in_force(&windows, &zone, minute(number))).collect();
            for number in (0..7 * 1440).step_by(37) {
                let differs = (number..states.len()).find(|later| states[*later] != states[number]).unwrap();
                let next = next_change(&windows, &zone, minute(i64::try_from(number).unwrap()));
                assert_eq!(next, Some(minute(i64::try_from(differs).unwrap())), "{texts:?} {start} {number}");
            }
        }
    }
}

#[test]
fn what_is_no_window_is_said() {
    for (text, says) in [
        ("", "not a window of time"),
        ("mon tue 08:00-09:00", "not a window of time"),
        ("monday 08:00-17:00", "\"monday\" is none of mon, tue"),
        ("mon- 08:00-17:00", "\"\" is none of"),
        ("mon 08:00", "\"08:00\" has no end"),
        ("mon 8-17", "\"8\" is no time of a day"),
        ("mon 08:00-24:01", "\"24:01\" is no time of a day"),
        ("mon 08:60-09:00", "\"08:60\" is no time of a day"),
        ("mon +8:00-09:00", "\"+8:00\" is no time of a day"),
        ("mon 08:00-08:00", "it ends when it starts"),
        ("mon 24:00-06:00", "nothing starts there"),
    ] {
        let error = text.parse::<Window>().unwrap_err();
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
    for text in ["MON-Fri 8:00-17:00", "fri-mon", "12:00-13:30", "wed 22:00-06:00"] {
        assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
    }
}

#[test]
fn outside_of_its_hours_a_group_has_no_clients_and_a_list_no_rules() {
    use crate::core::groups::Groups;
    use crate::core::policy::view::Views;
    use crate::core::policy::{ListFile, list};
    let text = r#"
        [policy]
        deny = ["all.test"]
        [[policy.list]]
        path = "a.txt"
        format = "domains"
        action = "deny"
        schedule = ["22:00-06:00"]
        [[policy.group]]
        name = "wide"
        clients = ["10.0.0.0/8"]
        deny = ["wide.test"]
        lists = []
        [[policy.group]]
        name = "school"
        clients = ["10.5.0.0/16"]
        default = "deny"
        schedule = ["mon-fri 08:00-13:00"]
        communities = ["64512:7"]
    "#;
    let config: Config = toml::from_str(text).unwrap();
    let file = ListFile {
        path: "a.txt",
        format: crate::config::schema::ListFormat::Domains,
        action: crate::config::schema::Action::Deny,
        content: b"listed.test\n",
    };
    let (table, _): (Table, list::Report) = Table::from_list(&file).unwrap();
    let tables = vec![Arc::new(table)];
    let judge = |moment: &str| {
        let hours = Hours::at(&config, &berlin(), at(moment));
        let views = Views::at(&config, &tables, &hours).unwrap();
        let groups = Groups::new(&hours.narrow(&config)).unwrap();
        assert_eq!(views.hours(), &hours);
        let denies = |client: &str, name: &str| {
            views.policy(views.of(client.parse().unwrap())).judge(&name.parse().unwrap()).denies()
        };
        let pupil = "10.5.0.1";
        let school = denies(pupil, "any.test");
        assert_eq!(groups.of(pupil.parse().unwrap(), None).is_some(), school, "communities go with the rules");
        assert!(denies(pupil, "wide.test"), "outside of its hours by the rules of the wider group");
        (school, denies("192.0.2.1", "listed.test"))
    };
    assert_eq!(judge("2026-11-30T07:59:59+01:00"), (false, false));
    assert_eq!(judge("2026-11-30T08:00:00+01:00"), (true, false));
    assert_eq!(judge("2026-11-30T22:00:00+01:00"), (false, true));
}
