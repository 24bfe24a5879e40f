//! The datapath's decisions as sentences.

use pias_datapath::explain::Step;

use super::views::Names;

/// One decision, for a person.
pub(super) fn sentence(step: &Step, names: &Names) -> String {
    match step {
        Step::NotAnycast => "the address is in no anycast prefix: dropped".to_owned(),
        Step::BadSource => "the source may not send to an anycast address: dropped".to_owned(),
        Step::Registration => "the port is that of registration: for piasd itself".to_owned(),
        Step::Pinned { proxy, idle_ms } => {
            format!("the flow is known and goes to {} (idle for {idle_ms} ms)", names.of(*proxy))
        }
        Step::PinnedToGone { proxy } => {
            format!("the flow was pinned to {}, which is gone: placed anew", names.of(*proxy))
        }
        Step::NotPinned => "the flow is new to this ingress".to_owned(),
        Step::Missed => "nothing is known of the group: the packet waits for the RAP".to_owned(),
        Step::Rendezvous { proxy } => {
            format!("the list is on its way: the packet goes through the RAP {}", names.of(*proxy))
        }
        Step::Refused => "nobody serves the group: the client is refused".to_owned(),
        Step::Candidate { proxy, tier, weight, live } => {
            let state = if *live { "" } else { ", not live" };
            format!("candidate {}: tier {tier}, weight {weight}{state}", names.of(*proxy))
        }
        Step::StandsIn { dead, heir } => {
            format!("{} is dead: {} stands in for it", names.of(*dead), names.of(*heir))
        }
        Step::Chosen { proxy } => format!("the flow's hash chooses {}", names.of(*proxy)),
        Step::NoLiveCandidate => "no candidate lives: the packet waits for the RAP".to_owned(),
        Step::Tunnel { proxy, address } => {
            format!("through the tunnel to {} at {address}", names.of(*proxy))
        }
        Step::JoinHere => "this proxy is the JAP".to_owned(),
        Step::KnownFlow { target, address, nat } => {
            format!("the flow is known: target {} at {address}, which sees {nat}", target.0)
        }
        Step::Target { target, address, weight, state, sender } => {
            let own = if *sender { ", the sender itself" } else { "" };
            format!("target {} at {address}: {state}, weight {weight}{own}", target.0)
        }
        Step::Delivered { target, address } => {
            format!("the flow's hash chooses target {} at {address}", target.0)
        }
        Step::SecondChance => "no target here can take it: a RAP sends it elsewhere".to_owned(),
    }
}
