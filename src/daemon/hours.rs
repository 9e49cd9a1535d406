//! What of groups and lists is out of its hours by the clock on the wall, and what is to be said of that.

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::lists::Lists;
use crate::config::Config;
use crate::config::schema::Action;
use crate::config::window::Window;
use crate::control::sources::Subject;
use crate::control::types::Scheduled;
use crate::core::policy::schedule::{self, Hours};
use crate::core::policy::{OwnRules, Policy};
use crate::sys::time_zone::{self, UnknownZone};

/// The time zone that schedules are meant in.
fn zone(config: &Config) -> Result<TimeZone, UnknownZone> {
    time_zone::named(config.policy.timezone.as_deref())
}

/// Whether anything has a schedule.
#[must_use]
pub fn has_any(config: &Config) -> bool {
    let policy = &config.policy;
    policy.group.iter().any(|group| !group.schedule.is_empty())
        || policy.list.iter().any(|list| !list.schedule.is_empty())
}

/// What is out of its hours at a moment.
///
/// # Errors
/// As [`time_zone::named`].
pub fn at(config: &Config, moment: Timestamp) -> Result<Hours, UnknownZone> {
    if !has_any(config) {
        return Ok(Hours::default());
    }
    Ok(Hours::at(config, &zone(config)?, moment))
}

/// What is out of its hours now.
///
/// # Errors
/// As [`time_zone::named`].
pub fn now(config: &Config) -> Result<Hours, UnknownZone> {
    at(config, Timestamp::now())
}

/// When a schedule comes in force or goes, for people.
fn until(windows: &[Window], zone: &TimeZone, moment: Timestamp) -> Option<String> {
    let next = schedule::next_change(windows, zone, moment)?;
    Some(next.to_zoned_datetime(zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string())
}

fn group(config: &Config, place: usize, zone: &TimeZone, moment: Timestamp) -> Option<Scheduled> {
    let group = config.policy.group.get(place)?;
    let (key, what) = (format!("policy.group[{place}]"), format!("group {}", group.name));
    Some(Scheduled { key, what, until: until(&group.schedule, zone, moment) })
}

fn list(config: &Config, place: usize, zone: &TimeZone, moment: Timestamp) -> Option<Scheduled> {
    let list = config.policy.list.get(place)?;
    let name = list.called();
    let (key, what) = (format!("policy.list[{place}]"), format!("list {name}"));
    Some(Scheduled { key, what, until: until(&list.schedule, zone, moment) })
}

/// What of `hours` is out, for `status`.
#[must_use]
pub fn views(config: &Config, hours: &Hours, moment: Timestamp) -> Vec<Scheduled> {
    let Ok(zone) = zone(config) else { return Vec::new() };
    let groups = hours.groups().filter_map(|place| group(config, place, &zone, moment));
    groups.chain(hours.lists().filter_map(|place| list(config, place, &zone, moment))).collect()
}

/// What has a schedule and is not out, for `status`.
#[must_use]
pub fn in_force(config: &Config, hours: &Hours, moment: Timestamp) -> Vec<Scheduled> {
    let Ok(zone) = zone(config) else { return Vec::new() };
    let policy = &config.policy;
    let groups = policy.group.iter().enumerate().filter(|(_, group)| !group.schedule.is_empty());
    let groups = groups.filter(|(place, _)| !hours.groups().any(|out| out == *place));
    let lists = policy.list.iter().enumerate().filter(|(_, list)| !list.schedule.is_empty());
    let lists = lists.filter(|(place, _)| !hours.lists().any(|out| out == *place));
    let groups = groups.filter_map(|(place, _)| group(config, place, &zone, moment));
    groups.chain(lists.filter_map(|(place, _)| list(config, place, &zone, moment))).collect()
}

/// What would have had a say of `subject` for this client, were it not out of its hours; to stand behind a reason.
#[must_use]
pub fn notes(config: &Config, hours: &Hours, lists: &Lists, subject: &Subject, client: Option<IpAddr>) -> String {
    let tables = lists.tables();
    let concerns = |key: &str| -> Option<&'static str> {
        if let Some(group) = hours.groups().find(|place| key == format!("policy.group[{place}]")) {
            let nets = &config.policy.group.get(group)?.clients;
            let client = client?.to_canonical();
            return nets.iter().any(|net| net.contains(&client)).then_some("which the client belongs to,");
        }
        let list = hours.lists().find(|place| key == format!("policy.list[{place}]"))?;
        let own = OwnRules { key: "policy", default: Action::Allow, allow: &[], deny: &[], rules: &[], group: None };
        let alone = Policy::of(own, vec![tables.get(list)?.clone()]).ok()?;
        let has_it = match subject {
            Subject::Name(name) => alone.judge(name).rule.is_some(),
            Subject::Address(address) => alone.judge_answer(*address).is_some(),
        };
        has_it.then_some("which has a rule for it,")
    };
    let note = |out: Scheduled| {
        let why = concerns(&out.key)?;
        let until = out.until.map_or_else(String::new, |until| format!(" until {until}"));
        Some(format!("; the {}, {why} is out of its hours{until}", out.what))
    };
    views(config, hours, Timestamp::now()).into_iter().filter_map(note).collect()
}

/// What is to be out, where that is not what `is` has.
#[must_use]
pub fn due(config: &Config, is: &Hours, moment: Timestamp) -> Option<Hours> {
    match at(config, moment) {
        Ok(hours) => (hours != *is).then_some(hours),
        Err(error) => {
            tracing::error!(%error, "schedules stay as they are");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_is_set_or_jumps_puts_in_force_what_it_shows() {
        let config: Config = toml::from_str(
            "[policy]\ntimezone = \"Europe/Berlin\"\n\
             [[policy.group]]\nname = \"school\"\nclients = [\"10.5.0.0/16\"]\nschedule = [\"mon-fri 08:00-13:00\"]\n\
             [[policy.group]]\nname = \"always\"\nclients = [\"10.6.0.0/16\"]\n\
             [[policy.list]]\npath = \"night.txt\"\nformat = \"domains\"\naction = \"deny\"\nschedule = [\"22:00-06:00\"]\n",
        )
        .unwrap();
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut is = Hours::default();
        for (clock, out) in [
            ("2026-11-30T07:59:59+01:00", Some(&["policy.group[0]", "policy.list[0]"][..])),
            ("2026-11-30T08:00:00+01:00", Some(&["policy.list[0]"])),
            ("2026-11-30T08:00:01+01:00", None),
            // The host slept until night; then its clock is set back, and forward by years.
            ("2026-11-30T23:00:00+01:00", Some(&["policy.group[0]"])),
            ("2026-11-30T12:00:00+01:00", Some(&["policy.list[0]"])),
            ("2031-06-07T12:00:00+02:00", Some(&["policy.group[0]", "policy.list[0]"])),
            ("1970-01-01T00:00:00Z", Some(&["policy.group[0]"])),
        ] {
            let due = due(&config, &is, moment(clock));
            let keys = |hours: &Hours| views(&config, hours, moment(clock)).into_iter().map(|out| out.key).collect();
            assert_eq!(
                due.as_ref().map(keys),
                out.map(|out| out.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()),
                "{clock}"
            );
            let now = due.as_ref().unwrap_or(&is);
            let out: Vec<String> = keys(now);
            let inside: Vec<String> = in_force(&config, now, moment(clock)).into_iter().map(|one| one.key).collect();
            let all = ["policy.group[0]", "policy.list[0]"];
            assert!(
                all.iter().all(|key| out.iter().any(|one| one == key) != inside.iter().any(|one| one == key)),
                "{clock}"
            );
            assert_eq!(out.len() + inside.len(), 2, "{clock}: what has no schedule is in neither");
            is = due.unwrap_or(is);
        }
        let views = views(&config, &is, moment("1970-01-01T00:00:00Z"));
        assert_eq!(views[0].what, "group school");
        assert_eq!(views[0].until.as_deref(), Some("Thu 1970-01-01 08:00 CET"));
    }
}
