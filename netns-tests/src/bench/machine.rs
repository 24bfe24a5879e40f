//! What the figures were measured on: they mean nothing without it.

use std::fmt;
use std::fs;
use std::thread;
use std::time::SystemTime;

/// Processes that want to run, above which figures are suspect.
const BUSY: f64 = 0.5;

/// The machine, and how it was measured.
#[derive(Debug)]
pub(super) struct Machine {
    date: String,
    cores: usize,
    processor: String,
    kernel: String,
    load: f64,
    rounds: u32,
    quick: bool,
}

impl Machine {
    /// Looks, before anything runs. What the system does not tell stays empty.
    pub(super) fn look(rounds: u32, quick: bool) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(':')).map_or("", |(_, name)| name);
        let load = read("/proc/loadavg");
        let load = load.split_whitespace().next().and_then(|text| text.parse().ok());
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            processor: model.trim().to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.unwrap_or_default(),
            rounds,
            quick,
        }
    }

    /// Why the figures are not to be trusted, if they are not.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.quick {
            doubts.push("turns were short (--quick)".to_owned());
        }
        if cfg!(debug_assertions) {
            doubts.push("pias-lab is a debug build".to_owned());
        }
        if self.load > BUSY {
            doubts.push(format!("the machine was busy before (load {:.1})", self.load));
        }
        doubts
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cores, processor, kernel, rounds, .. } = self;
        write!(formatter, "{date}, {cores} cores ({processor}), Linux {kernel}, {rounds} rounds")?;
        match self.doubts().as_slice() {
            [] => Ok(()),
            doubts => write!(formatter, "\nNot to be trusted: {}", doubts.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_said_to_be_one() {
        let mut machine = Machine::look(5, false);
        machine.load = 3.0;
        assert!(machine.to_string().contains("busy before (load 3.0)"), "{machine}");
        machine.load = 0.1;
        assert!(!machine.to_string().contains("busy"), "{machine}");
    }
}
