//! The connections of a registration: the current one, and beside it that to a proxy that drains.

use std::collections::VecDeque;

use pias_protocol::time::Time;

use super::{Command, ConnectionId};
use crate::session::{Output, Session};

/// A connection, or the attempt at one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    /// `None` while connecting.
    pub(super) session: Option<Session>,
    pub(super) since: Time,
}

impl Link {
    /// Ends what is joined on it, and the connection.
    pub(super) fn leave(&mut self, commands: &mut VecDeque<Command>) {
        if let Some(session) = &mut self.session {
            session.leave();
            while let Some(output) = session.poll() {
                if let Output::Send(message) = output {
                    commands.push_back(Command::Send(self.id, message));
                }
            }
        }
        commands.push_back(Command::Close(self.id));
    }

    /// The name of the proxy at its other end, once that has said it.
    fn proxy(&self) -> Option<&str> {
        Some(self.session.as_ref()?.proxy()?.proxy.as_str())
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) current: Option<Link>,
    pub(super) retiring: Option<Link>,
    last_id: ConnectionId,
}

impl Links {
    /// The current connection is from now on a new one, not made yet.
    pub(super) fn connect(&mut self, now: Time) -> ConnectionId {
        self.last_id += 1;
        self.current = Some(Link { id: self.last_id, session: None, since: now });
        self.last_id
    }

    /// When a session has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let links = self.current.iter().chain(&self.retiring);
        links.filter_map(|link| link.session.as_ref()?.deadline()).min()
    }

    /// The numbers of the connections.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.current.iter().chain(&self.retiring).map(|link| link.id).collect()
    }

    /// The session on a connection.
    pub(super) fn session(&mut self, id: ConnectionId) -> Option<&mut Session> {
        let mut links = self.current.iter_mut().chain(&mut self.retiring);
        links.find(|link| link.id == id)?.session.as_mut()
    }

    /// Whether this connection is the current one.
    pub(super) fn is_current(&self, id: ConnectionId) -> bool {
        self.current.as_ref().is_some_and(|link| link.id == id)
    }

    /// Whether the current connection has led to the proxy that is to be left.
    pub(super) fn lead_to_one_proxy(&self) -> bool {
        let (Some(current), Some(retiring)) = (&self.current, &self.retiring) else { return false };
        current.proxy() == retiring.proxy()
    }

    /// Whether the current connection has an answer to everything it asked for.
    pub(super) fn is_settled(&self) -> bool {
        let session = self.current.as_ref().and_then(|link| link.session.as_ref());
        session.is_some_and(Session::is_settled)
    }

    /// Gives up all connections.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Link> {
        self.current.take().into_iter().chain(self.retiring.take())
    }
}
