//! What the service manager hears (sd_notify(3)); without one, nothing.

use sd_notify::NotifyState;

use crate::brain::BrainHandle;

/// The service is up: its routes are installed.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("ready, routes installed")]);
}

/// The service runs, but announces nothing.
pub fn waiting(why: &str) {
    tell(&[NotifyState::Status(why)]);
}

/// The service is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Feeds the watchdog, if there is one, as long as the brain answers.
pub async fn watch(brain: BrainHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval(limit / 3);
    while brain.ask(|_, _| ()).await.is_ok() {
        tell(&[NotifyState::Watchdog]);
        beat.tick().await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
