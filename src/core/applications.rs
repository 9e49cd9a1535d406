//! Applications of this host by name and by number. A number stands for one name as long as the process lives, whatever a reload makes of the list: what is
//! open for a number is never open for another application. On disk and in the kernel they bear their names.

use std::sync::{Arc, PoisonError, RwLock};

/// In the order in which they were named first.
static NAMES: RwLock<Vec<Arc<str>>> = RwLock::new(Vec::new());

/// The number of an application; `None`: there were 65,536 others.
#[must_use]
pub fn number_of(name: &str) -> Option<u16> {
    let known = |names: &[Arc<str>]| names.iter().position(|known| **known == *name);
    let place = known(&NAMES.read().unwrap_or_else(PoisonError::into_inner));
    let place = place.unwrap_or_else(|| {
        let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
        known(&names).unwrap_or_else(|| {
            if names.len() <= usize::from(u16::MAX) {
                names.push(name.into());
                names.len() - 1
            } else {
                usize::MAX
            }
        })
    });
    u16::try_from(place).ok()
}

/// The name of an application.
#[must_use]
pub fn name_of(number: u16) -> Arc<str> {
    let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
    names.get(usize::from(number)).cloned().unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_one_name() {
        let (one, other) = (number_of("one").unwrap(), number_of("other").unwrap());
        assert_ne!(one, other);
        assert_eq!((number_of("one"), &*name_of(one), &*name_of(other)), (Some(one), "one", "other"));
        assert_eq!(&*name_of(u16::MAX), "unknown");
    }
}
