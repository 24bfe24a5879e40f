//! What the service manager hears (sd_notify(3)); without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::admin::App;

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

/// Another process of this service goes on in the place of this one. Its status stays what it was:
/// this process is not heard after that, and the other one was not before.
pub fn handed_over(to: u32) {
    tell(&[NotifyState::MainPid(to)]);
}

/// Feeds the watchdog, if there is one, whenever both the overlay and the datapath answer.
pub async fn watch(app: App) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let alive = || {
        let app = app.clone();
        async move { app.is_alive().await }
    };
    feed(limit / 3, alive, || tell(&[NotifyState::Watchdog])).await;
}

/// Calls `beat` every so often while the daemon is `alive`, and again when it is so again: whether
/// it was dead for too long is the service manager's to say.
async fn feed<A: Future<Output = bool>>(every: Duration, alive: impl Fn() -> A, beat: impl Fn()) {
    let mut turn = tokio::time::interval(every);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        if alive().await {
            beat();
        } else {
            tracing::warn!("the overlay or the datapath does not answer: the watchdog is not fed");
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_watchdog_is_fed_only_while_the_daemon_is_alive() {
        static ALIVE: AtomicBool = AtomicBool::new(true);
        let (asker, mut asked) = mpsc::channel(1);
        let (beater, mut beats) = mpsc::unbounded_channel();
        let alive = move || {
            let asker = asker.clone();
            async move {
                asker.send(()).await.unwrap();
                ALIVE.load(Ordering::Relaxed)
            }
        };
        tokio::spawn(feed(Duration::from_millis(1), alive, move || beater.send(()).unwrap()));
        while beats_after(1, &mut asked, &mut beats).await == 0 {}
        ALIVE.store(false, Ordering::Relaxed);
        // The question before may still have been answered with yes.
        beats_after(2, &mut asked, &mut beats).await;
        assert_eq!(beats_after(2, &mut asked, &mut beats).await, 0, "nobody is alive");
        ALIVE.store(true, Ordering::Relaxed);
        while beats_after(1, &mut asked, &mut beats).await == 0 {}
    }

    /// Waits for so many questions; the beats that came until then.
    async fn beats_after(
        questions: usize,
        asked: &mut mpsc::Receiver<()>,
        beats: &mut mpsc::UnboundedReceiver<()>,
    ) -> usize {
        for _ in 0..questions {
            asked.recv().await.unwrap();
        }
        std::iter::from_fn(|| beats.try_recv().ok()).count()
    }
}
