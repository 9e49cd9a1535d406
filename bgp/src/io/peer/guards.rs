//! A session with another guard, or with a reflector between guards: what it says of its leases goes to the caller.

use super::{Task, What};
use crate::leases::Word;
use crate::session::Heard;

impl Task {
    /// What was heard, where it says anything of leases.
    pub(super) async fn told(&mut self, heard: Heard) {
        let Heard::Routes { announced, withdrawn, bears, originator, .. } = heard else { return };
        let Some(by) = self.session.negotiated().map(|negotiated| negotiated.peer_identifier) else { return };
        self.place.tell(What::Told(Word::new(by, originator, &bears, announced, withdrawn))).await;
    }
}
