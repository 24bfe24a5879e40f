//! Faults: what a test does to a lab, beyond killing one process.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control::ControlError;
use crate::host::Host;
use crate::lab::Lab;
use crate::topology::Role;

/// Links that were cut together.
#[derive(Debug)]
#[must_use = "the links stay cut until they are restored"]
pub struct Cut<'lab> {
    lab: &'lab Lab,
    links: Vec<String>,
}

impl Host<'_> {
    /// Stops processes for as long as `time`, as a hung or overloaded machine
    /// does, and lets them go on.
    pub fn freeze(&self, processes: &[&str], time: Duration) -> Result<(), ControlError> {
        for process in processes {
            self.kill(process, Signal::SIGSTOP)?;
        }
        // The fault itself, not a wait for something.
        thread::sleep(time);
        for process in processes {
            self.kill(process, Signal::SIGCONT)?;
        }
        Ok(())
    }
}

impl Lab {
    /// Lets a link lose this percentage of frames for as long as `time`.
    pub fn lose_frames(&self, link: &str, percent: u8, time: Duration) -> Result<(), ControlError> {
        self.set_link(link, &[&format!("loss={percent}")])?;
        // The fault itself, not a wait for something.
        thread::sleep(time);
        self.set_link(link, &["loss=0"])
    }

    /// Cuts the uplinks of a POP's router: the whole POP is gone, and routing
    /// sees the carrier go.
    pub fn cut_pop(&self, router: &str) -> Result<Cut<'_>, ControlError> {
        let at_router = |ends: [&str; 2]| ends.contains(&router);
        self.cut_all(self.links_where(at_router))
    }

    /// Splits the Internet: cuts every link of a transit router to another one,
    /// in silence. The hosts behind it keep reaching each other.
    pub fn split_off(&self, transit: &str) -> Result<Cut<'_>, ControlError> {
        let is_transit =
            |host: &str| self.topology().host(host).is_some_and(|host| host.role == Role::Transit);
        let between = |ends: [&str; 2]| ends.contains(&transit) && ends.into_iter().all(is_transit);
        self.cut_all(self.links_where(between))
    }

    fn links_where(&self, wanted: impl Fn([&str; 2]) -> bool) -> Vec<String> {
        let links = self.topology().links.iter();
        let links = links.filter(|link| wanted([link.a.as_str(), link.b.as_str()]));
        links.map(|link| link.name().to_owned()).collect()
    }

    fn cut_all(&self, links: Vec<String>) -> Result<Cut<'_>, ControlError> {
        for link in &links {
            self.cut_link(link)?;
        }
        Ok(Cut { lab: self, links })
    }
}

impl Cut<'_> {
    /// The links' names.
    pub fn links(&self) -> &[String] {
        &self.links
    }

    /// Makes the links whole again.
    pub fn restore(self) -> Result<(), ControlError> {
        self.links.iter().try_for_each(|link| self.lab.restore_link(link))
    }
}
