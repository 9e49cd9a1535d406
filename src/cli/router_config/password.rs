//! A password as each router's grammar takes it, or why it can't be written there. A router that reads another password than the guard's has no session,
//! and says little of why.

use crate::cli::RouterKind;

/// What of a password can't be written for a router.
#[derive(Debug, thiserror::Error)]
pub enum NotWritten {
    /// A character that the two sides might encode otherwise.
    #[error("it holds {0:?}: only printable ASCII is the same on both sides")]
    Strange(char),
    /// A character that the router's grammar reads otherwise.
    #[error("it holds {found:?}: {why}")]
    Holds {
        /// The first such character.
        found: char,
        /// What the router makes of it.
        why: &'static str,
    },
    /// More characters than the router keeps.
    #[error("it is longer than {0} characters, which this router cuts")]
    Long(usize),
    /// A beginning by which the router knows what it encrypted itself.
    #[error("it starts with {0:?}, which this router takes for an encrypted one")]
    Encrypted(&'static str),
}

/// The password, quoted where the grammar has quotes.
///
/// # Errors
/// See [`NotWritten`].
pub(super) fn written(kind: RouterKind, password: &str) -> Result<String, NotWritten> {
    if let Some(strange) = password.chars().find(|c| !(c.is_ascii_graphic() || *c == ' ')) {
        return Err(NotWritten::Strange(strange));
    }
    let refuse = |what: &str, why: &'static str| match password.chars().find(|c| what.contains(*c)) {
        Some(found) => Err(NotWritten::Holds { found, why }),
        None => Ok(()),
    };
    let longest = |most: usize| {
        if password.len() > most { Err(NotWritten::Long(most)) } else { Ok(()) }
    };
    let encrypted = |mark: &'static str| {
        if password.starts_with(mark) { Err(NotWritten::Encrypted(mark)) } else { Ok(()) }
    };
    match kind {
        // One word, whatever is in it; `?` asks for help where it is typed, and `|` filters output.
        RouterKind::Frr => {
            refuse(" ", "FRR takes one word")?;
            refuse("?|", "it can't be typed into vtysh")?;
            Ok(password.to_owned())
        }
        // A string ends at the next quote, whatever stands before it; a backslash is one.
        RouterKind::Bird => {
            refuse("\"", "BIRD has no way to write a quote in a string")?;
            Ok(format!("\"{password}\""))
        }
        // TOML.
        RouterKind::Gobgp => Ok(super::quoted(password)),
        // A backslash before a quote or a blank is dropped, and any other stays.
        RouterKind::Openbgpd => {
            refuse("\\", "OpenBGPD reads a backslash in several ways")?;
            Ok(super::quoted(password))
        }
        RouterKind::Junos => {
            refuse("\"\\", "Junos OS may read it in another way")?;
            encrypted("$")?;
            Ok(format!("\"{password}\""))
        }
        RouterKind::Iosxr | RouterKind::Eos => {
            refuse(" ?\"\\", "the command line takes one word without it")?;
            Ok(password.to_owned())
        }
        RouterKind::Srlinux => {
            refuse("\"\\", "SR Linux may read it in another way")?;
            encrypted("$")?;
            // YANG type routing-password.
            longest(20)?;
            Ok(format!("\"{password}\""))
        }
        RouterKind::Routeros => {
            let mut out = String::from("\"");
            for c in password.chars() {
                if matches!(c, '"' | '\\' | '$' | '?') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [RouterKind; 9] = [
        RouterKind::Frr,
        RouterKind::Bird,
        RouterKind::Gobgp,
        RouterKind::Openbgpd,
        RouterKind::Junos,
        RouterKind::Iosxr,
        RouterKind::Eos,
        RouterKind::Srlinux,
        RouterKind::Routeros,
    ];

    #[test]
    fn a_plain_password_is_taken_everywhere_and_a_strange_one_nowhere() {
        for kind in ALL {
            assert!(written(kind, "s3cret-2026").unwrap().contains("s3cret-2026"));
            for strange in ["a\nb", "a\tb", "p\u{e4}ss", "a\u{7f}"] {
                assert!(written(kind, strange).is_err(), "{kind:?} {strange:?}");
            }
        }
    }

    #[test]
    fn each_grammar_has_its_own_rules() {
        let cases = [
            (RouterKind::Frr, "#a\"c\\d", Some("#a\"c\\d")),
            (RouterKind::Frr, "a b", None),
            (RouterKind::Frr, "a?", None),
            (RouterKind::Bird, "a b\\c", Some("\"a b\\c\"")),
            (RouterKind::Bird, "a\"b", None),
            (RouterKind::Gobgp, "a\"b\\c d", Some("\"a\\\"b\\\\c d\"")),
            (RouterKind::Openbgpd, "a\"b c", Some("\"a\\\"b c\"")),
            (RouterKind::Openbgpd, "a\\b", None),
            (RouterKind::Junos, "$9$x", None),
            (RouterKind::Iosxr, "a b", None),
            (RouterKind::Eos, "a?b", None),
            (RouterKind::Srlinux, "123456789012345678901", None),
            (RouterKind::Srlinux, "a b", Some("\"a b\"")),
            (RouterKind::Routeros, "a\"$b", Some("\"a\\\"\\$b\"")),
        ];
        for (kind, password, wanted) in cases {
            assert_eq!(written(kind, password).ok().as_deref(), wanted, "{kind:?} {password:?}");
        }
    }
}
