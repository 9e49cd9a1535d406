//! Who asked most, and what for, of the questions that are kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::PoisonError;

use super::{Fate, QueryLog, hashed};
use crate::config::schema::Hide;
use crate::control::types::{Top, TopClient, TopDenied, TopName};
use crate::core::name::Name;
use crate::core::person::Person;

impl QueryLog {
    /// Of questions not older than `since` (milliseconds since 1970), the first `most` of each kind.
    #[must_use]
    pub fn top(&self, since: u64, most: usize, hide: &[Hide]) -> Top {
        let mut clients: HashMap<_, (u64, u64)> = HashMap::new();
        let mut names: HashMap<_, u64> = HashMap::new();
        let mut denied: HashMap<_, (u64, Option<Box<str>>)> = HashMap::new();
        let mut questions = 0_u64;
        for part in &self.0.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, entry) in part.entries.iter().rev().take_while(|(_, entry)| entry.time >= since) {
                questions = questions.saturating_add(1);
                let person = entry.person.as_deref().map(Person::words);
                let client = clients.entry((entry.client, person)).or_default();
                client.0 = client.0.saturating_add(1);
                let name = names.entry(entry.name.clone()).or_default();
                *name = name.saturating_add(1);
                if entry.audit || matches!(entry.fate, Fate::Denied | Fate::Filtered | Fate::Refused) {
                    client.1 = client.1.saturating_add(1);
                    // The newest says why.
                    let one = denied.entry(entry.name.clone()).or_insert_with(|| (0, entry.why.clone()));
                    one.0 = one.0.saturating_add(1);
                }
            }
        }
        let hide_names = hide.contains(&Hide::Names);
        let name = |wire: &[u8]| {
            if hide_names {
                hashed(&self.0.hasher, wire)
            } else {
                Name::from_wire(wire).map(|name| name.to_string()).unwrap_or_default()
            }
        };
        let shown = |text: String| {
            if hide.contains(&Hide::Clients) { hashed(&self.0.hasher, text.as_bytes()) } else { text }
        };
        Top {
            questions,
            clients: first(clients, most, |(asked, _)| *asked)
                .map(|((address, person), (questions, denied))| TopClient {
                    client: shown(address.to_string()),
                    person: person.map(shown),
                    questions,
                    denied,
                })
                .collect(),
            names: first(names, most, |asked| *asked)
                .map(|(wire, questions)| TopName { name: name(&wire), questions })
                .collect(),
            denied: first(denied, most, |(count, _)| *count)
                .map(|(wire, (count, why))| {
                    let why = why.filter(|_| !hide_names).map(|why| why.to_string());
                    TopDenied { name: name(&wire), count, why }
                })
                .collect(),
        }
    }
}

/// Those with the highest counts, the highest first; equals in a fixed order.
fn first<K: Ord + Eq + Hash, V>(
    counts: HashMap<K, V>,
    most: usize,
    count: impl Fn(&V) -> u64,
) -> impl Iterator<Item = (K, V)> {
    let mut all: Vec<(K, V)> = counts.into_iter().collect();
    all.sort_by(|(a, one), (b, other)| count(other).cmp(&count(one)).then_with(|| a.cmp(b)));
    all.truncate(most);
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::control::query_log::Entry;

    fn asked(log: &QueryLog, time: u64, client: u8, name: &str, fate: Fate) {
        let name: Name = name.parse().unwrap();
        log.record(Entry {
            time,
            client: [192, 0, 2, client].into(),
            person: None,
            over: "udp",
            name: SmallVec::from_slice(name.wire()),
            qtype: 1,
            rcode: 0,
            fate,
            audit: false,
            why: (fate == Fate::Denied).then(|| "list ads".into()),
            took: 0,
            addresses: SmallVec::new(),
        });
    }

    #[test]
    fn who_asks_most_comes_first_and_what_is_older_does_not_count() {
        let log = QueryLog::default();
        log.keep(1000);
        asked(&log, 10, 9, "old.example", Fate::Released);
        for n in 0..5 {
            asked(&log, 100 + n, 1, "shop.example", Fate::Cached);
        }
        asked(&log, 200, 2, "shop.example", Fate::Released);
        asked(&log, 200, 2, "ads.example", Fate::Denied);
        asked(&log, 200, 3, "ads.example", Fate::Denied);
        let top = log.top(100, 2, &[]);
        assert_eq!(top.questions, 8);
        let clients: Vec<_> = top.clients.iter().map(|one| (one.client.as_str(), one.questions, one.denied)).collect();
        assert_eq!(clients, [("192.0.2.1", 5, 0), ("192.0.2.2", 2, 1)]);
        let names: Vec<_> = top.names.iter().map(|one| (one.name.as_str(), one.questions)).collect();
        assert_eq!(names, [("shop.example", 6), ("ads.example", 2)]);
        let denied: Vec<_> = top.denied.iter().map(|one| (one.name.as_str(), one.count, one.why.as_deref())).collect();
        assert_eq!(denied, [("ads.example", 2, Some("list ads"))]);

        let hidden = log.top(100, 1, &[Hide::Names, Hide::Clients]);
        assert!(hidden.names[0].name.starts_with('#') && hidden.clients[0].client.starts_with('#'));
        assert_eq!(hidden.denied[0].why, None);
        assert_eq!(log.top(1000, 5, &[]).questions, 0);
    }
}
