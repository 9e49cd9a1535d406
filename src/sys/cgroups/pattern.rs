//! Which control groups are meant: a unit of systemd, wherever its slice puts it, or a path with stars. Pure.

/// Suffixes of units that have a control group.
const SUFFIXES: [&str; 3] = [".service", ".scope", ".slice"];

/// Why a text is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A path from somewhere else than the root.
    #[error("it begins with a slash")]
    Relative,
    /// A path without parts.
    #[error("the root holds every process")]
    Root,
    /// A path of more than [`MOST_LEVELS`] parts.
    #[error("it may be {MOST_LEVELS} levels deep at most")]
    Deep,
    /// A part that leads nowhere.
    #[error("\"{0}\" is no control group")]
    NoGroup(String),
    /// What can't be a unit's name.
    #[error("a unit's name, as in \"web.service\"")]
    NoUnit,
    /// The name has stars alone.
    #[error("it would be every unit")]
    EveryUnit,
    /// A socket, a timer or the like.
    #[error("only units that end in {} have processes that connect", SUFFIXES.join(", "))]
    WithoutProcesses,
}

/// What a control group is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// A unit of the system's manager: below slices only, since everything else may be made by others than systemd.
    Unit(String),
    /// A unit of a user's manager: the user's number, the unit.
    UserUnit(u32, String),
    /// From the root, part by part.
    Path(Vec<String>),
}

impl Pattern {
    /// A unit's name, of which instances may be left open: "web.service", "web", "worker@*.service".
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn unit(name: &str) -> Result<Self, PatternError> {
        Ok(Self::Unit(unit_name(name)?))
    }

    /// The same of a user's manager.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn user_unit(uid: u32, name: &str) -> Result<Self, PatternError> {
        Ok(Self::UserUnit(uid, unit_name(name)?))
    }

    /// A path from the root of the tree: "/system.slice/docker-*.scope".
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn path(text: &str) -> Result<Self, PatternError> {
        let Some(rest) = text.strip_prefix('/') else { return Err(PatternError::Relative) };
        let parts: Vec<String> = rest.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if parts.is_empty() {
            return Err(PatternError::Root);
        }
        if parts.len() > MOST_LEVELS {
            return Err(PatternError::Deep);
        }
        match parts.iter().find(|part| *part == "." || *part == "..") {
            Some(part) => Err(PatternError::NoGroup(part.clone())),
            None => Ok(Self::Path(parts)),
        }
    }

    /// Whether the group of this path is meant.
    #[must_use]
    pub fn matches(&self, path: &[&str]) -> bool {
        match self {
            Self::Unit(unit) => {
                let Some((last, above)) = path.split_last() else { return false };
                glob(unit, last) && above.iter().all(|part| is_slice(part))
            }
            Self::UserUnit(uid, unit) => {
                let Some((last, above)) = path.split_last() else { return false };
                let Some(below) = below_manager(*uid, above) else { return false };
                glob(unit, last) && below.iter().all(|part| is_slice(part))
            }
            Self::Path(parts) => {
                parts.len() == path.len() && parts.iter().zip(path).all(|(part, name)| glob(part, name))
            }
        }
    }

    /// Whether a group below this path may be meant; the root's path is empty.
    #[must_use]
    pub fn descends(&self, path: &[&str]) -> bool {
        match self {
            Self::Unit(_) => path.iter().all(|part| is_slice(part)),
            Self::UserUnit(uid, _) => match below_manager(*uid, path) {
                Some(below) => below.iter().all(|part| is_slice(part)),
                None => {
                    manager(*uid).iter().zip(path).all(|(wanted, part)| wanted == part) && path.len() < MANAGER_LEVEL
                }
            },
            Self::Path(parts) => {
                path.len() < parts.len() && parts.iter().zip(path).all(|(part, name)| glob(part, name))
            }
        }
    }
}

/// A group deeper than this is not found by the packet filter's rules.
pub const MOST_LEVELS: usize = 16;
/// Levels down to a user's manager.
const MANAGER_LEVEL: usize = 3;

fn manager(uid: u32) -> [String; MANAGER_LEVEL] {
    ["user.slice".to_owned(), format!("user-{uid}.slice"), format!("user@{uid}.service")]
}

/// What is left of a path below a user's manager.
fn below_manager<'a, 'p>(uid: u32, path: &'a [&'p str]) -> Option<&'a [&'p str]> {
    let (above, below) = path.split_at_checked(MANAGER_LEVEL)?;
    manager(uid).iter().zip(above).all(|(wanted, part)| wanted == part).then_some(below)
}

fn is_slice(part: &str) -> bool {
    part.ends_with(".slice")
}

fn unit_name(name: &str) -> Result<String, PatternError> {
    if name.is_empty() || name.contains(['/', ' ', '\t']) {
        return Err(PatternError::NoUnit);
    }
    if name.chars().all(|c| matches!(c, '*' | '?')) {
        return Err(PatternError::EveryUnit);
    }
    let whole = if SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        name.to_owned()
    } else if name.rsplit_once('.').is_some_and(|(_, kind)| OTHERS.contains(&kind)) {
        return Err(PatternError::WithoutProcesses);
    } else {
        format!("{name}.service")
    };
    // As systemd writes names that the kernel might take for its own.
    Ok(if whole.starts_with(['_', '.']) { format!("_{whole}") } else { whole })
}

/// Suffixes of the other units.
const OTHERS: [&str; 8] = ["socket", "target", "timer", "mount", "automount", "swap", "path", "device"];

/// Whether a text is as a pattern says: `*` stands for any octets, `?` for one.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and from where on the text behind it is tried next.
    let mut star: Option<(usize, usize)> = None;
    while let Some(octet) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == octet => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|octet| *octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Vec<&str> {
        path.split('/').filter(|part| !part.is_empty()).collect()
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, wanted) in [
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*a*", "banana", true),
            ("worker@*.service", "worker@7.service", true),
            ("worker@*.service", "worker.service", false),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn a_unit_is_found_in_any_slice_and_not_in_what_others_make() {
        let unit = Pattern::unit("web").unwrap();
        for (path, wanted) in [
            ("system.slice/web.service", true),
            ("web.service", true),
            ("a.slice/a-b.slice/web.service", true),
            ("system.slice/other.service/web.service", false),
            ("user.slice/user-7.slice/user@7.service/app.slice/web.service", false),
            ("docker/web.service", false),
            ("system.slice/web.service/below", false),
            ("", false),
        ] {
            assert_eq!(unit.matches(&parts(path)), wanted, "{path}");
        }
        assert!(unit.descends(&[]) && unit.descends(&["a.slice"]) && !unit.descends(&["a.slice", "b.service"]));
        let slice = Pattern::unit("web.slice").unwrap();
        assert!(slice.matches(&["web.slice"]) && slice.descends(&["web.slice"]));
    }

    #[test]
    fn a_users_unit_is_that_of_its_manager() {
        let unit = Pattern::user_unit(7, "sync@*.service").unwrap();
        let manager = ["user.slice", "user-7.slice", "user@7.service"];
        assert!((0..=3).all(|length| unit.descends(&manager[..length])));
        assert!(!unit.descends(&["system.slice"]) && !unit.descends(&["user.slice", "user-8.slice"]));
        assert!(unit.matches(&[manager.as_slice(), &["app.slice", "sync@a.service"]].concat()));
        assert!(unit.descends(&[manager.as_slice(), &["app.slice"]].concat()));
        assert!(!unit.matches(&["system.slice", "sync@a.service"]) && !unit.matches(&manager));
        assert!(!unit.descends(&[manager.as_slice(), &["other.service"]].concat()));
    }

    #[test]
    fn a_path_is_compared_part_by_part() {
        let path = Pattern::path("/system.slice/docker-*.scope").unwrap();
        assert!(path.matches(&["system.slice", "docker-1.scope"]) && !path.matches(&["docker-1.scope"]));
        assert!(path.descends(&[]) && path.descends(&["system.slice"]) && !path.descends(&["other"]));
        assert!(!path.descends(&["system.slice", "docker-1.scope"]));
        for wrong in ["system.slice", "/", "", "/a/../b", "//"] {
            assert!(Pattern::path(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a/b", "*", "web.socket"] {
            assert!(Pattern::unit(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Pattern::unit("_odd.service").unwrap(), Pattern::Unit("__odd.service".to_owned()));
    }
}
