//! Names in lines, hidden: each label becomes a keyed hash, so that what is below what stays to be seen.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;

use crate::core::name::{MARK, Name};

/// With a key of its own: labels of one recording are the same where they were, and those of two say nothing of each other.
#[derive(Debug, Default)]
pub struct Hider(DefaultHashBuilder);

impl Hider {
    /// The line with other names.
    #[must_use]
    pub fn hide(&self, line: &str) -> String {
        let begin = format!("\"{MARK}");
        let mut hidden = String::with_capacity(line.len());
        let mut rest = line;
        while let Some((before, after)) = rest.split_once(&begin) {
            // A quote within a name is written as \".
            let end = after.char_indices().scan(false, |escaped, (at, letter)| {
                let is_end = letter == '"' && !*escaped;
                *escaped = letter == '\\' && !*escaped;
                Some((at, is_end))
            });
            let Some((at, _)) = end.into_iter().find(|(_, is_end)| *is_end) else { break };
            let (name, behind) = after.split_at(at);
            hidden.push_str(before);
            hidden.push_str(&begin);
            hidden.push_str(&self.name(name));
            rest = behind;
        }
        hidden.push_str(rest);
        hidden
    }

    fn name(&self, text: &str) -> String {
        // As it stands in JSON; what can't be read again is hidden as one label.
        let read =
            serde_json::from_str::<String>(&format!("\"{text}\"")).ok().and_then(|text| text.parse::<Name>().ok());
        let label = |label: &[u8]| format!("x{:012x}", self.0.hash_one(label) >> 16);
        match read {
            Some(name) if name.labels().next().is_none() => ".".to_owned(),
            Some(name) => name.labels().map(label).collect::<Vec<_>>().join("."),
            None => label(text.as_bytes()),
        }
    }
}
