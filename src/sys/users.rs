//! Users by name and number, as `/etc/passwd` has them. Other sources (LDAP, systemd's dynamic users) are not asked: their libraries would need more than
//! the confined process may do. Those are named by number, or by unit.

use std::fs;

const PASSWD: &str = "/etc/passwd";

/// The number of a user: what is a number is that.
#[must_use]
pub fn number_of(user: &str) -> Option<u32> {
    user.parse().ok().or_else(|| number_in(&fs::read_to_string(PASSWD).ok()?, user))
}

/// The name of a user.
#[must_use]
pub fn name_of(number: u32) -> Option<String> {
    name_in(&fs::read_to_string(PASSWD).ok()?, number)
}

fn entries(passwd: &str) -> impl Iterator<Item = (&str, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

fn number_in(passwd: &str, user: &str) -> Option<u32> {
    entries(passwd).find(|(name, _)| *name == user).map(|(_, number)| number)
}

fn name_in(passwd: &str, number: u32) -> Option<String> {
    entries(passwd).find(|(_, found)| *found == number).map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/:/bin/false\nother:x:33:33::/:/bin/false\n";
        assert_eq!((number_in(passwd, "web"), number_in(passwd, "nobody")), (Some(33), None));
        assert_eq!((name_in(passwd, 33).as_deref(), name_in(passwd, 34)), (Some("web"), None));
        assert_eq!(number_of("4711"), Some(4711));
    }
}
