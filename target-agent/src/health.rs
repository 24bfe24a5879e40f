//! What this host thinks of its targets: the application's word and the check's, together.

use tokio::sync::watch;

/// What a check found so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckState {
    /// There is no check.
    Absent,
    /// No result yet.
    Unknown,
    /// The service works.
    Up,
    /// It does not, because of this.
    Down(String),
}

/// The health of one membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) application: bool,
    pub(crate) check: CheckState,
}

impl Health {
    /// Whether new flows may come.
    pub(crate) const fn is_up(&self) -> bool {
        self.application && matches!(self.check, CheckState::Absent | CheckState::Up)
    }

    /// The same, but `None` where nothing is known yet.
    pub(crate) const fn verdict(&self) -> Option<bool> {
        match self.check {
            CheckState::Unknown if self.application => None,
            _ => Some(self.is_up()),
        }
    }

    /// Why it is down.
    pub(crate) fn reason(&self) -> String {
        match &self.check {
            CheckState::Down(reason) => reason.clone(),
            _ => "the application says so".to_owned(),
        }
    }
}

/// The health of all memberships of one registration. The newest word counts; older ones need not be
/// seen, so nothing queues up.
#[derive(Clone, Debug)]
pub(crate) struct HealthBoard(watch::Sender<Vec<Health>>);

impl HealthBoard {
    /// The board, and the end that is told of changes.
    pub(crate) fn new(initial: Vec<Health>) -> (Self, watch::Receiver<Vec<Health>>) {
        let (sender, receiver) = watch::channel(initial);
        (Self(sender), receiver)
    }

    /// The application's word on one membership.
    pub(crate) fn set_application(&self, member: u32, up: bool) {
        self.0.send_if_modified(|all| {
            let health = &mut all[member as usize];
            std::mem::replace(&mut health.application, up) != up
        });
    }

    /// A check's word on several.
    pub(crate) fn set_check(&self, members: &[u32], state: &CheckState) {
        self.0.send_modify(|all| {
            for &member in members {
                all[member as usize].check = state.clone();
            }
        });
    }
}
