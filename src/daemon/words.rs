//! Errors that end in the words of a reload.
//!
//! A reload tells the operator in words what it could not do, since what stands in its way may be of any part of the guard.

use super::listening::ListenError;
use super::routers::RoutersError;
use super::rules::RulesError;
use crate::config::community::CommunityError;
use crate::control::access::AccessError;
use crate::enforce::EnforceError;
use crate::sys::interfaces::InterfacesError;
use crate::sys::time_zone::UnknownZone;

macro_rules! in_words {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for String {
            fn from(error: $error) -> Self {
                error.to_string()
            }
        })*
    };
}

in_words!(
    AccessError,
    CommunityError,
    EnforceError,
    InterfacesError,
    ListenError,
    RoutersError,
    RulesError,
    UnknownZone,
);
