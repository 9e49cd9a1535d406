//! The operator's exceptions come in force by command, and go when their time has come.

use std::sync::Arc;
use std::time::Duration;

use crate::control::sources::Change;
use crate::daemon::exceptions::ExceptionError;
use crate::daemon::reload::{self, error::ReloadError};
use crate::daemon::shared::Shared;

/// How often ended ones are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Why an exception is not in force, or not undone.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was changed.
    #[error(transparent)]
    Refused(#[from] ExceptionError),
    /// It is kept, and could not be put in force.
    #[error(transparent)]
    Unapplied(#[from] ReloadError),
}

/// Makes or undoes one and puts it in force.
///
/// # Errors
/// See [`ChangeError`].
pub async fn change(shared: &Shared, change: Change) -> Result<Option<Duration>, ChangeError> {
    let _applying = shared.applying.lock().await;
    let made = shared.exceptions.change(&change)?;
    reload::apply_lists(shared, shared.lists.lists()).await?;
    let Change { name, action, client, span } = change;
    tracing::info!(name, ?action, ?client, ?span, "an exception was made or undone by the operator");
    Ok(made)
}

/// Ends those whose time has come; never ends itself.
pub async fn follow(shared: Arc<Shared>) {
    let mut due = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let _applying = shared.applying.lock().await;
        due |= shared.exceptions.end();
        if due {
            tracing::info!("an exception has ended");
            if let Err(error) = reload::apply_lists(&shared, shared.lists.lists()).await {
                tracing::error!(%error, "the end of an exception can't be put in force; trying again");
            } else {
                due = false;
            }
        }
    }
}
