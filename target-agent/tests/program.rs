//! `pias-join` as a user runs it: its lines, and its exit status.

mod common;

use std::process::Stdio;

use common::{Operator, PATIENCE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pias_protocol::agent::{AgentMessage, RefusalCode, Refused};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    directory: tempfile::TempDir,
}

impl Program {
    fn start(operator: &Operator, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, &operator.ca_pem).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pias-join"))
            .arg("--ca")
            .arg(ca)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, directory }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("no line came");
        line.unwrap().expect("standard output ended")
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Its exit status, and what it wrote to standard error.
    async fn end(self) -> (Option<i32>, String) {
        let output = timeout(PATIENCE, self.child.wait_with_output()).await.expect("it runs on");
        drop(self.directory);
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[tokio::test]
async fn a_signal_makes_it_leave_and_end_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let operator = Operator::new();
        let proxy = operator.proxy("fra1").await.serve();
        let port = proxy.address.port().to_string();
        let mut program = Program::start(&operator, &["127.0.0.1:53/udp", "--port", &port]);
        let line = program.line().await;
        let start = "joined 127.0.0.1:53/udp through fra1 (cluster fra), rtt ";
        assert!(line.starts_with(start) && line.ends_with(" ms, lease 5 s"), "{line}");
        program.signal(signal);
        assert_eq!(program.line().await, "left 127.0.0.1:53/udp");
        assert_eq!(program.end().await, (Some(0), String::new()));
        assert!(proxy.heard.any(|message| matches!(message, AgentMessage::Leave(_))));
    }
}

#[tokio::test]
async fn json_is_an_object_a_line() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await.serve();
    let port = proxy.address.port().to_string();
    let arguments = ["127.0.0.1:53/udp", "--to", ":5353", "--json", "--port", &port];
    let mut program = Program::start(&operator, &arguments);
    let object: serde_json::Value = serde_json::from_str(&program.line().await).unwrap();
    assert_eq!(object["event"], "joined");
    assert_eq!(object["target"], "127.0.0.1:5353");
    assert_eq!(object["lease_ms"], 5000);
    assert!(object["rtt_ms"].is_f64());
}

#[tokio::test]
async fn it_ends_with_3_when_every_group_is_refused() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await;
    let port = proxy.address.port().to_string();
    let program = Program::start(&operator, &["127.0.0.1:53", "--port", &port]);
    let mut talk = proxy.accept().await;
    for _ in 0..2 {
        let request = talk.hear_join().await.request;
        let code = RefusalCode::NotAnycast;
        talk.say(Refused { request, code, reason: "no prefix of ours".into() }).await;
    }
    let (status, errors) = program.end().await;
    assert_eq!(status, Some(3));
    assert_eq!(
        errors,
        "refused 127.0.0.1:53/tcp: no prefix of ours (not-anycast)\n\
         refused 127.0.0.1:53/udp: no prefix of ours (not-anycast)\n"
    );
}

#[tokio::test]
async fn it_ends_with_4_when_nobody_is_there_and_it_shall_fail_fast() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let arguments = ["127.0.0.1:53/udp", "--fail-fast", "--port", &port];
    let mut program = Program::start(&Operator::new(), &arguments);
    let line = program.line().await;
    assert!(line.contains("no proxy answered"), "{line}");
    assert_eq!(program.end().await.0, Some(4));
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "AA:PORT"),
        (&["203.0.113.10"], "not an address and port"),
        (&["203.0.113.10:53/sctp"], "not a protocol"),
        (&["203.0.113.10:53", "--to", "2001:db8::1"], "different address families"),
        (&["203.0.113.10:53", "203.0.113.10:53/udp"], "asked for twice"),
        (&["203.0.113.10:53", "--check", "ping"], "not a check"),
        (&["203.0.113.10:53", "--check", "tcp", "--rise", "0"], "rise and fall"),
        (&["203.0.113.10:53", "--weight", "0"], "weight 0"),
        (&["203.0.113.10:53", "--config", "x.toml"], "cannot be used with"),
    ];
    let operator = Operator::new();
    for (arguments, expected) in cases {
        let (status, errors) = Program::start(&operator, arguments).end().await;
        assert_eq!(status, Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
}

#[tokio::test]
async fn a_configuration_joins_its_groups_and_names_the_line_of_a_mistake() {
    let operator = Operator::new();
    let proxy = operator.proxy("fra1").await.serve();
    let port = proxy.address.port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("groups.toml");
    let path = file.to_str().unwrap();
    let groups =
        "[[group]]\naddress = \"127.0.0.1:53/udp\"\n[[group]]\naddress = \"127.0.0.1:80/tcp\"\n";
    std::fs::write(&file, groups).unwrap();
    let mut program = Program::start(&operator, &["--config", path, "--port", &port]);
    assert!(program.line().await.starts_with("joined 127.0.0.1:53/udp"));
    assert!(program.line().await.starts_with("joined 127.0.0.1:80/tcp"));
    drop(program);

    std::fs::write(&file, groups.replace("80/tcp", "80/sctp")).unwrap();
    let (status, errors) = Program::start(&operator, &["--config", path]).end().await;
    assert_eq!(status, Some(2));
    assert!(errors.contains("line 4") && errors.contains("groups.toml"), "{errors}");
}

#[tokio::test]
async fn packagers_get_completions_and_a_manual_page() {
    for (argument, expected) in [("--completions=bash", "complete -F"), ("--man", ".TH pias")] {
        let output = Command::new(env!("CARGO_BIN_EXE_pias-join")).arg(argument).output().await;
        let output = output.unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{argument}");
    }
}
